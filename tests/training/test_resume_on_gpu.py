"""RL on a GPU goes on from a kill as if nothing had happened: CUDA graphs, packs, bf16, rewards that begin early."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resume_on_gpu import (
    PLACES,
    UPDATES,
    differences,
    draws_plainly,
    judged_early,
    stopped_and_resumed,
    undisturbed,
    updates,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    undisturbed(folder)
    return folder


@pytest.fixture(scope="module")
def own(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What a GPU does not repeat: the undisturbed training against itself."""
    folder = tmp_path_factory.mktemp("again")
    undisturbed(folder)
    return differences(folder, whole)


def test_it_draws_with_graphs_and_judges_early(whole: Path) -> None:
    assert not draws_plainly(whole)
    assert judged_early(whole) > 0


@pytest.mark.parametrize("place", PLACES)
def test_stopped_anywhere_it_ends_the_same(
    whole: Path, own: dict[str, float], tmp_path: Path, place: str
) -> None:
    stopped_and_resumed(tmp_path, place)
    found = differences(tmp_path, whole)
    assert not draws_plainly(tmp_path)
    assert updates(tmp_path) == list(range(1, UPDATES + 1))
    assert all(found[name] <= 2 * own[name] for name in own), (found, own)

"""Every kind of data stage, killed with SIGKILL at ten places each: what it publishes equals the undisturbed one's."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from engine import ROOT
from killed_runs import FIGURE, KINDS, events, made, run, ten_places

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    template = ROOT / "configs/templates/embedded-zero.txt"
    (folder / "t.yaml").write_text(FIGURE.replace("ZERO", str(template)))
    for stage in ("prompts", "requests", "exam", *KINDS[1:-1], "evaluate-student", "compare"):
        assert run(folder, stage) == 0, (folder / f"log-{stage}").read_text()[-2000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_ten_places_it_publishes_the_same(whole: Path, tmp_path: Path, kind: str) -> None:
    happened = events(whole, kind)
    places = ten_places(happened)
    assert len(places) == 10
    for place in places:
        folder = tmp_path / str(place)
        shutil.copytree(whole, folder)
        shutil.rmtree(folder / "runs/t" / kind)
        where = f"{kind} before {happened[place - 1]}"
        assert run(folder, kind, f"event:{place}") == -signal.SIGKILL, where
        assert run(folder, kind) == 0, where + (folder / f"log-{kind}").read_text()[-2000:]
        assert made(folder, kind) == made(whole, kind), where


def test_killed_at_every_second_event_in_turn_it_publishes_the_same(whole: Path, tmp_path: Path) -> None:
    """One run that is killed again and again: each attempt goes on, and the last publishes."""
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "runs/t/rejection-sampling")
    codes = [run(folder, "rejection-sampling", f"event:{number}") for number in range(4, 24, 2)]
    assert codes.count(-signal.SIGKILL) >= 5 and set(codes) <= {0, -signal.SIGKILL}
    assert run(folder, "rejection-sampling") == 0
    assert made(folder, "rejection-sampling") == made(whole, "rejection-sampling")

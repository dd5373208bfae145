"""Resuming from a trainer's checkpoint with other ranks: what is possible, and what is refused."""

from __future__ import annotations

import pytest

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.training.arguments import resume_from
from r1pipe.training.checkpoints import seal


def saved(here: Here, **facts: bool) -> None:
    folder = here.workdir / "trainer" / "checkpoint-4"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text("{}")
    seal(folder, profile=here.profile, ranks=here.world_size, **facts)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (("process", 1), ("process", 1)),
        (("ddp", 2), ("ddp", 4)),
        (("ddp", 2), ("process", 1)),
        (("zero3", 2), ("zero3", 2)),
    ],
)
def test_a_training_resumes(here: Here, then: tuple[str, int], now: tuple[str, int]):
    for (here.profile, here.world_size), first in ((then, True), (now, False)):
        checkpoint = resume_from(here)
        assert checkpoint is None if first else str(checkpoint).endswith("checkpoint-4")
        if first:
            saved(here)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (("zero2", 2), ("zero2", 4)),
        (("zero2", 2), ("ddp", 2)),
        (("zero2", 2), ("zero3", 2)),
        (("ddp", 2), ("zero2", 2)),
        (("fsdp2", 2), ("fsdp2", 4)),
    ],
)
def test_resuming_sharded_states_over_other_ranks_is_refused(
    here: Here, then: tuple[str, int], now: tuple[str, int]
):
    here.profile, here.world_size = then
    assert resume_from(here) is None
    saved(here)
    here.profile, here.world_size = now
    with pytest.raises(
        ConfigError, match=f"sharded for {then[1]} ranks under {then[0]}; {now[1]} ranks under {now[0]}"
    ) as caught:
        resume_from(here)
    assert f"profile {then[0]} with {then[1]} ranks" in caught.value.fix


def test_other_ranks_go_on_with_a_note_but_not_within_a_rollout(here: Here):
    here.profile, here.world_size = "ddp", 2
    saved(here)
    here.world_size = 3
    assert resume_from(here)
    assert "2 ranks under ddp; 3 under ddp go on" in here.metrics_path.with_name("notes.jsonl").read_text()

    here.world_size = 2
    saved(here, in_rollout=True)
    assert resume_from(here)
    here.world_size = 3
    with pytest.raises(ConfigError, match="was made within a rollout over 2 ranks"):
        resume_from(here)

"""The PyTorch back end in rounds: fixed batches, whatever the ranks."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1pipe.data.candidates import Candidate
from r1pipe.generation.hf import HF
from r1pipe.generation.sampling import sample_and_verify
from r1pipe.generation.sampling_loop import SamplingLoop
from r1pipe.schema import Sampling

ROWS = [
    {"id": f"r{i}", "prompt": "1 2 3 4"[: 1 + i % 7], "domain": "math", "language": "en"} for i in range(24)
]
SAMPLING = Sampling(
    temperature=1.0, top_p=1.0, n=4, max_tokens=6, batch_size=4
)  # cohorts of 8 rows, so three of them


def verify(candidates: list[Candidate]) -> list[Candidate]:
    return [one if len(one.response) % 2 else one.drop("even") for one in candidates]


def test_rounds_end_when_enough_is_kept_and_ranks_give_the_same(
    tiny_checkpoint: Path, here: Any, tmp_path: Path
) -> None:
    def run(rank: int, world: int, name: str) -> list[tuple[str, str, str]]:
        there = replace(here, workdir=tmp_path / name, rank=rank, world_size=world)
        there.workdir.mkdir(exist_ok=True)
        found = sample_and_verify(
            tiny_checkpoint,
            ROWS,
            SAMPLING,
            "chat",
            here=there,
            seed=0,
            source="sampled",
            verify=verify,
            stop_after=2,
        )
        return [(one.row["id"], one.response, one.reason) for of_row in found for one in of_row]

    alone = run(0, 1, "one")
    assert run(0, 1, "one") == alone, "from the files"
    for row in ROWS:
        mine = [(text, reason) for row_id, text, reason in alone if row_id == row["id"]]
        kept = [len({text for text, reason in mine[:k] if not reason}) for k in range(len(mine) + 1)]
        assert kept[-1] == 2 or len(mine) == 4
        assert max(kept[:-1]) < 2, "nothing is drawn beyond what was asked for"
    assert 48 < len(alone) < 96
    other: list[Any] = []
    second = threading.Thread(
        target=lambda: other.append(run(1, 2, "two"))
    )  # one after the other: threads share torch's generator
    second.start()
    second.join()
    assert run(0, 2, "two") == alone and other == [[]]


def test_the_next_batch_waits_until_the_one_before_is_drawn(
    tiny_checkpoint: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches are in flight on a GPU, and torch has one generator of random numbers."""

    def run(name: str) -> list[list[str]]:
        there = replace(here, workdir=here.workdir / name)
        there.workdir.mkdir()
        loop = SamplingLoop(
            HF(tiny_checkpoint, ROWS, SAMPLING, "chat", seed=0), ROWS, 4, here=there, label="samples"
        )
        return [[sample.text for sample, _ in of_row] for of_row in loop.run()]

    alone = run("one")
    monkeypatch.setattr(HF, "occupies_cpu", False)
    monkeypatch.setattr(HF, "max_in_flight", 4)
    assert run("four") == alone


def test_a_resumed_stage_with_other_rows_credits_no_sample_to_another_row(
    tiny_checkpoint: Path, here: Any
) -> None:
    """Once the machine can isolate code, code rows come back, and every batch holds other rows than before."""

    def run(rows: list[dict[str, Any]], workdir: Path) -> list[tuple[str, str]]:
        workdir.mkdir(exist_ok=True)
        found = sample_and_verify(
            tiny_checkpoint,
            rows,
            SAMPLING,
            "chat",
            here=replace(here, workdir=workdir),
            seed=0,
            source="sampled",
            verify=verify,
        )
        return [(one.row["id"], one.response) for of_row in found for one in of_row]

    notes = here.metrics_path.with_name("notes.jsonl")
    without = [row for number, row in enumerate(ROWS) if number % 3]
    run(without, here.workdir / "resumed")
    journal = here.workdir / "resumed/samples-0-of-1.jsonl"
    old = journal.read_text()
    assert run(ROWS, here.workdir / "resumed") == run(ROWS, here.workdir / "undisturbed")
    assert "batches of an earlier attempt were of other rows" in notes.read_text()
    notes.unlink()
    now = journal.read_text()
    assert now.startswith(old)
    assert (
        run(ROWS, here.workdir / "resumed") == run(ROWS, here.workdir / "undisturbed")
        and journal.read_text() == now
    ), "once is enough"
    assert not notes.exists()

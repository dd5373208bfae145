"""Early stop on recorded rollouts: tokens drawn against a fixed number of samples, at the same rows kept.

    python tests/bench/bench_early_stop.py

Replays ../shared/data/reasoning_gym_rollouts.jsonl.gz as a generator: 3 responses a prompt (easy), in the file's order,
right where the source's score is 1. Tokens are words, numbers and signs, since the file has no tokens. The stages' own
sampling loop decides what is drawn.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from r1pipe.data.candidates import Candidate, choose
from r1pipe.data.filters import length
from r1pipe.generation.contract import Draw, Sample, Unit
from r1pipe.generation.sampling_loop import SamplingLoop
from r1pipe.here import Here

DATA = Path(__file__).parents[3] / "shared" / "data" / "reasoning_gym_rollouts.jsonl.gz"


class Replay:
    """Recorded responses as a generator."""

    max_in_flight = 1
    occupies_cpu = False
    remote = False

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows
        self.tokens = 0

    def cohorts(self, rounds: bool) -> list[list[int]]:
        return [[row] for row in range(len(self.rows))]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        return [Unit(prefix, list(draws))]

    def draw(self, unit: Unit) -> list[Sample]:
        samples = []
        for draw in unit.draws:
            recorded = self.rows[draw.row]["completions"][draw.first : draw.first + draw.n]
            samples += [Sample(response["text"], length(response["text"]), True) for response in recorded]
        self.tokens += sum(sample.tokens for sample in samples)
        return samples

    def stop_reason(self, tokens_in: int, tokens_out: int) -> None:
        return None


def verify(candidates: list[Candidate]) -> list[Candidate]:
    """By the recorded scores."""
    right = [
        any(one["text"] == candidate.response and one["score"] == 1 for one in candidate.row["completions"])
        for candidate in candidates
    ]
    return [
        candidate if yes else candidate.drop("wrong answer")
        for candidate, yes in zip(candidates, right, strict=True)
    ]


def run(rows: list[dict], stop_after: int | None, per_prompt: int) -> tuple[int, int, int]:
    """(rows kept, samples drawn, tokens drawn)"""
    import random

    replay = Replay(rows)
    with tempfile.TemporaryDirectory() as folder:
        here = Here("bench", Path(folder), Path(folder) / "metrics.jsonl", Path(folder) / "progress.jsonl")
        loop = SamplingLoop(
            replay,
            rows,
            3,
            here=here,
            label="samples",
            source="sampled",
            verify=verify,
            stop_after=stop_after,
        )
        drawn = [candidate for of_row in loop.run() for _, candidate in of_row]
    return (
        sum(
            not one.reason
            for one in choose(drawn, per_prompt=per_prompt, prefer="first", rng=random.Random(0))
        ),
        len(drawn),
        replay.tokens,
    )


def main() -> None:
    if not DATA.exists():
        print(f"{DATA.name} is not there: nothing is measured")
        return
    with gzip.open(DATA, "rt", encoding="utf8") as stream:
        rows = [json.loads(line) for line in stream]
    rows = [{**row, "prompt": row["problem"]} for row in rows if len(row["completions"]) == 3]
    print(f"{len(rows)} prompts, 3 recorded completions each")
    print(f"{'kept a prompt':>14} {'rows kept':>10} {'samples':>17} {'tokens':>21} {'saved':>7}")
    for keep in (1, 2, 3):
        rows_kept, fixed_samples, fixed_tokens = run(rows, None, keep)
        rows_kept_early, samples, tokens = run(rows, keep, keep)
        assert rows_kept == rows_kept_early, "early stop keeps the same rows"
        saved = 1 - tokens / fixed_tokens
        print(f"{keep:>14} {rows_kept:>10} {fixed_samples:>8} ->{samples:>6}", end=" ")
        print(f"{fixed_tokens:>10} ->{tokens:>8} {saved:>7.1%}")


if __name__ == "__main__":
    main()

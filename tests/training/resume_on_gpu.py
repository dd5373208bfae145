"""RL on a GPU, stopped at six places and started again, beside the same training that nobody disturbs.

    python3 tests/training/resume_on_gpu.py     one CUDA machine; on a CPU without graphs, packs and early rewards

The base that ships, 12 updates in six rollouts of 128 responses and two phases; CUDA graphs draw, accuracy is judged
while others are drawn, the reference is replaced after each fourth update, checkpoints come after updates 5 and 10 and
so lie within a rollout. The undisturbed training runs twice: what it shows against itself is what a GPU does not
repeat. A training that was stopped may show twice as much, and nothing where that is nothing. Its updates are counted
exactly.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "training"), str(TESTS.parent)]

from stage_runs import lines, run, weights  # noqa: E402

BASE = TESTS.parent / "r1pipe" / "embedded" / "data" / "base"
KIND = "grpo-early"
UPDATES = 12
UPDATE = "method:transformers.trainer/Trainer._maybe_log_save_evaluate"
STEP = "method:accelerate.optimizer/AcceleratedOptimizer.step"
PLACES = {
    "inside a rollout": "draw:8:SIGKILL",
    "inside the first rollout after a checkpoint": "draw:6:SIGKILL",
    "between two minibatches": f"{STEP}:8",
    "just after a checkpoint": f"{UPDATE}:6",
    "behind a reference replacement": f"{UPDATE}:10",
    "SIGTERM inside a rollout": "draw:8:SIGTERM",
}
# What the attempt that was stopped has drawn, and the attempt that ended.
FIRST_DRAWS = "draws-1.jsonl"
DRAWS = "draws.jsonl"
# Which responses are judged while others are drawn is a race, and changes no reward.
RACES = ("rewards/early",)


def differences(folder: Path, whole: Path) -> dict[str, float]:
    """How far two trainings lie apart; all 0 where they are the same, bit for bit.

    Returns:
        draws: share of the responses that the one has drawn otherwise than the other.
        metrics: the largest difference of a logged number.
        weights: the largest difference of a weight.
    """
    found = weights(folder)
    wanted = weights(whole)
    assert found.keys() == wanted.keys()
    largest = max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
    return {
        "draws": _other_draws(folder, whole),
        "metrics": _other_metrics(folder, whole),
        "weights": largest,
    }


def _other_draws(folder: Path, whole: Path) -> float:
    """The first attempt has drawn the beginning of what the other training drew, the second one its end."""
    wanted = _draws(whole / DRAWS)
    begun = _draws(folder / FIRST_DRAWS)
    ended = _draws(folder / DRAWS)
    assert len(begun) + len(ended) >= len(wanted), "no draw is left out"
    pairs = [*zip(begun, wanted, strict=False), *zip(ended[::-1], wanted[::-1], strict=False)]
    other = total = 0
    for (step, ours), (wanted_step, theirs) in pairs:
        assert step == wanted_step
        other += sum(a != b for a, b in zip(ours, theirs, strict=False))
        total += len(theirs)
    return other / total


def _draws(path: Path) -> list[tuple[int, list[list[int]]]]:
    """The update before, and the responses that were drawn then."""
    if not path.is_file():
        return []
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def _other_metrics(folder: Path, whole: Path) -> float:
    largest = 0.0
    for ours, theirs in zip(_numbers(folder), _numbers(whole), strict=True):
        assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        largest = max([largest, *(abs(ours[name] - theirs[name]) for name in ours)])
    return largest


def _numbers(folder: Path) -> list[dict[str, float]]:
    kept = []
    for line in lines(folder):
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        kept.append({name: value for name, value in numbers.items() if name not in RACES})
    return kept


def updates(folder: Path) -> list[int]:
    """The updates whose loss is logged, in order."""
    return [line["step"] for line in lines(folder) if "loss" in line]


def judged_early(folder: Path) -> float:
    """The largest share of a rollout's responses that were judged while others were drawn."""
    return max(line.get("rewards/early", 0.0) for line in lines(folder))


def stopped_and_resumed(folder: Path, place: str) -> None:
    """A training that is stopped at a place of PLACES, and started again."""
    code = run(KIND, BASE, folder, PLACES[place])
    stopped = (-signal.SIGKILL, 128 + signal.SIGTERM)
    assert code in stopped, f"{place}: {code}\n{log(folder)}"
    if (folder / DRAWS).exists():
        (folder / DRAWS).rename(folder / FIRST_DRAWS)
    assert run(KIND, BASE, folder) == 0, f"{place}\n{log(folder)}"


def draws_plainly(folder: Path) -> bool:
    """Whether an attempt found no room for CUDA graphs, which takes many times as long."""
    return "a plain loop draws" in (folder / "log").read_text()


def undisturbed(folder: Path) -> None:
    """A training that nobody stops."""
    assert run(KIND, BASE, folder) == 0, log(folder)


def log(folder: Path) -> str:
    return (folder / "log").read_text()[-3000:]


def main() -> None:
    started = time.monotonic()
    failed = []
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        undisturbed(work / "whole")
        undisturbed(work / "again")
        own = differences(work / "again", work / "whole")
        seconds = time.monotonic() - started
        print(
            f"against itself {own}, judged early {judged_early(work / 'whole')}, {seconds:.0f} s", flush=True
        )
        for place in PLACES:
            folder = work / place.replace(" ", "-")
            stopped_and_resumed(folder, place)
            found = differences(folder, work / "whole")
            same_updates = updates(folder) == list(range(1, UPDATES + 1))
            within = all(found[name] <= 2 * own[name] for name in own)
            plain = draws_plainly(folder)
            print(f"{place}: {found}, updates counted: {same_updates}, drawn plainly: {plain}", flush=True)
            if not (within and same_updates) or plain:
                failed.append(place)
    print(f"{time.monotonic() - started:.0f} s; failed: {failed or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

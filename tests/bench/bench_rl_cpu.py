"""RL steps of the embedded run on a CPU: stock TRL with generate beside r1pipe, on the same drawn lengths and rewards.

    python tests/bench/bench_rl_cpu.py [--steps 5] [--out rl_cpu.json]

The base that ships, r1-zero's sizes in configs/r1.yaml: 16 problems x 8 responses, 4 updates a rollout; lengths
log-normal, median 35, cap 80, as in the middle of that stage. TRL without gradient checkpointing, 32 rows a forward
pass (its defaults, 8 and checkpointing, are slower). Every side in a process of its own, in turn twice; medians of
rollouts with their updates after one that warms up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from bench_grpo import BUT, check, machine, measure  # noqa: E402
from grpo_shape import Shape  # noqa: E402
from grpo_sides import GENERATION  # noqa: E402

BASE = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data" / "base"
SHAPE = Shape(
    prompts=16,
    group=8,
    median=35,
    sigma=0.4,
    cap=80,
    base=str(BASE),
    minibatches=4,
    trl_microbatch=32,
    trl_checkpointing=False,
)
BAR = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5, help="timed rollouts of each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    steps: dict[str, list[dict[str, float]]] = {"trl+generate": [], "r1pipe+hf": []}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(arguments.turns):
            for side, rollouts in steps.items():
                result = measure(side, SHAPE, Path(scratch), arguments.steps, budget=600)
                if result is None:
                    sys.exit(f"no result of {side}")
                check({side: result})
                rollouts += result["steps"]
    medians = {
        side: {
            name: statistics.median(step[name] for step in rollouts) for name in ("seconds", GENERATION, BUT)
        }
        for side, rollouts in steps.items()
    }
    ratios = {
        name: medians["trl+generate"][name] / medians["r1pipe+hf"][name]
        for name in ("seconds", GENERATION, BUT)
    }
    for side, of in medians.items():
        print(f"{side:16s}" + "  ".join(f"{name} {value:.3f} s" for name, value in of.items()))
    print(
        "  ".join(f"{name} {ratio:.2f} x" for name, ratio in ratios.items()),
        f"(asked {BAR:g} x of the whole: {'met' if ratios['seconds'] >= BAR else 'MISSED'})",
    )
    if arguments.out:
        arguments.out.write_text(
            json.dumps(
                {"machine": machine(), "medians": medians, "ratios": ratios, "bar": BAR, "steps": steps},
                indent=1,
            )
        )


if __name__ == "__main__":
    main()

"""Twelve updates of r1-zero in the small world, with and without other programs on the cores.

    python tests/bench/bench_neighbours.py [--ways auto spins passive library] [--neighbours 0 1 2]

Ways in which OpenMP's threads wait for each other: `auto` is what r1pipe does by itself (r1pipe/launch/neighbours.py);
`spins` its number of turns, also beside neighbours; `passive` asleep; `library` what libgomp does when it is not told.
A neighbour is a program that keeps one core busy. Seconds are those from the first update to the last; the share of a
quiet run by `auto` stands beside them, and whether the weights are the same, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from r1pipe.launch.environment import SPINS  # noqa: E402

WAYS: dict[str, dict[str, str]] = {
    "auto": {},
    "spins": {"GOMP_SPINCOUNT": SPINS},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "library": {"GOMP_SPINCOUNT": "300000"},
}
UPDATES = 12
NEIGHBOUR = [sys.executable, "-c", "while True: pass"]


def measure(way: str, neighbours: int, budget: float) -> tuple[float | None, str]:
    """Seconds from the first update to the last (None if the budget was not enough), and a hash of the weights."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {"PYTHONPATH": str(ROOT), **WAYS[way]}
    phases = f"[{{steps: {UPDATES}, max_tokens: 64, rewards: [{{name: accuracy}}]}}]"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "r1pipe.cli.main", "run-stage", "r1-zero", "--upstream"),
            *("-c", str(ROOT / "configs" / "r1.yaml")),
            *("--set", f"stages.r1-zero.grpo.phases={phases}"),
            *("--set", "stages.r1-zero.grpo.eval_prompts=0"),
        ]
        programs = [subprocess.Popen(NEIGHBOUR) for _ in range(neighbours)]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=budget
            )
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            for program in programs:
                program.kill()
                program.wait()
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
        stage = Path(folder) / "runs" / "r1" / "r1-zero"
        lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        times = [line["time"] for line in lines if "loss" in line]
        weights = (stage / "out" / "checkpoint" / "model.safetensors").read_bytes()
        return times[-1] - times[0], hashlib.sha256(weights).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=240, help="seconds after which a run is given up")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    quiet: float | None = None
    for way in arguments.ways:
        for neighbours in arguments.neighbours:
            seconds, weights = measure(way, neighbours, arguments.budget)
            if quiet is None:
                quiet = seconds
            took = "given up" if seconds is None else f"{seconds:7.2f} s"
            ratio = "" if seconds is None or quiet is None else f"{seconds / quiet:6.2f} x"
            print(f"{way:8s} {neighbours} neighbours  {took}  {ratio}  {weights}", flush=True)


if __name__ == "__main__":
    main()

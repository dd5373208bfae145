"""Updates of GRPO on two GPUs against one, vLLM colocated on each: the same rollout over both, and twice the rollout.

    python tests/bench/bench_grpo_scaling.py --out scaling.json     # two GPUs, TRL and vLLM; no network; seven minutes
    python tests/bench/bench_grpo_scaling.py --tiny                 # two CPU ranks, PyTorch samples: it works

Lengths and rewards are drawn as in bench_grpo.py; r1pipe's launcher starts the ranks under `ddp`. Measured are tokens
trained a second, as medians. `same` keeps 32 prompts x 16 responses (what a user's recipe sees), `twice` has 64 x 16
on two GPUs. The bar is 1.7 for the better of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from bench_grpo import OFFLINE, TINY, machine  # noqa: E402
from engine import stage_json  # noqa: E402
from grpo_shape import Shape, build_checkpoint  # noqa: E402

from r1pipe.launch.launcher import Launcher  # noqa: E402
from r1pipe.schema import Launch  # noqa: E402

BAR = 1.7
TESTS = Path(__file__).parents[1]


def measure(
    name: str, ranks: int, shape: Shape, profile: str, rollout: str, steps: int, folder: Path
) -> dict[str, Any]:
    """Tokens trained a second over all ranks, and the parts of an update on rank 0."""
    model, report = (
        {"model": ("checkpoint", folder.parent / "checkpoint")},
        {"report": ("report", folder / "out")},
    )
    launch = Launch(profile=profile if ranks > 1 else "process", num_processes=ranks)  # type: ignore[arg-type]
    file = stage_json(
        folder,
        "bench.grpo_ranks",
        {
            "shape": asdict(shape),
            "rollout": rollout,
            "steps": steps,
            "launch": launch.model_dump(mode="json"),
        },
        model,
        report,
        (str(TESTS),),
    )
    started = time.time()
    with Launcher(folder / "forkserver.log") as launcher:
        codes = launcher.run(launch, file, lambda rank: folder / f"log.{rank}", lambda: None)
    lines = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if (folder / "metrics.jsonl").is_file()
        else []
    )
    updates = [line for line in lines if "update" in line]
    if any(codes) or len(updates) < steps:
        tail = "\n".join((folder / "log.0").read_text(errors="replace").splitlines()[-25:])
        return {"run": name, "failed": f"exit codes {codes}", "log": tail}
    parts = {key for line in updates for key in line} - {"time", "update", "all_tokens"}
    return {
        "run": name,
        "ranks": ranks,
        "rows": shape.rows,
        "tokens_per_second": round(
            statistics.median(line["all_tokens"] / line["seconds"] for line in updates)
        ),
        "parts": {
            key: round(statistics.median(line.get(key, 0.0) for line in updates), 3) for key in sorted(parts)
        },
        "launched": next((line["launched"] for line in lines if "launched" in line), None),
        **{key: line[key] for line in lines for key in ("peak_gib", "microbatch_tokens") if key in line},
        "wall_s": round(time.time() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="timed updates, after two that warm up")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--profile", default="ddp", help="of the run on several ranks")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint and logs")
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = (
        replace(TINY, microbatch_tokens=64)
        if arguments.tiny
        else replace(Shape(), compiled=not arguments.no_compile)
    )
    if arguments.checkpoint:  # in a process of its own: torch keeps out of the driver's
        build_checkpoint(Path(arguments.checkpoint), shape)
        return
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    os.environ.update(OFFLINE | os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            __file__,
            "--checkpoint",
            str(work / "checkpoint"),
            *(["--tiny"] if arguments.tiny else []),
        ]
        subprocess.run(command, check=True)
        twice = replace(shape, prompts=shape.prompts * arguments.ranks)
        asked = [("one", 1, shape), ("twice", arguments.ranks, twice), ("same", arguments.ranks, shape)]
        results = []
        for name, ranks, of in asked:
            result = measure(
                name,
                ranks,
                of,
                arguments.profile,
                "hf" if arguments.tiny else "vllm",
                arguments.steps,
                work / name,
            )
            results.append(result)
            if "failed" in result:
                print(f"{name}: {result['failed']}\n{result['log']}", flush=True)
                continue
            if "tokens_per_second" in results[0]:
                result["ratio"] = round(result["tokens_per_second"] / results[0]["tokens_per_second"], 3)
            print(
                f"{name:6s} {ranks} ranks  {result['tokens_per_second']:8,d} tokens/s  x {result.get('ratio')}  "
                f"{result['parts']}  {result['wall_s']} s",
                flush=True,
            )
            if arguments.out:
                arguments.out.write_text(
                    json.dumps(
                        {
                            "bench": "grpo_scaling",
                            "tiny": arguments.tiny,
                            "machine": machine(),
                            "bar": BAR,
                            "runs": results,
                        },
                        indent=1,
                    )
                    + "\n"
                )
    best = max((result["ratio"] for result in results[1:] if "ratio" in result), default=0.0)
    print(
        f"best {best:.2f}"
        + ("" if arguments.tiny else f" (asked {BAR}: {'met' if best >= BAR else 'MISSED'})")
    )
    if any("failed" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""A step of GRPO on the same drawn lengths: stock TRL (generate, vLLM) beside r1pipe (its own decoding, vLLM).

    python tests/bench/bench_grpo.py --out grpo.json    one CUDA machine with TRL and vLLM; no network; twelve minutes
    python tests/bench/bench_grpo.py --tiny             the same code on a CPU, without vLLM, in a minute

Qwen2.5-0.5B's shape with random weights, 32 prompts of 128 tokens x 16 responses whose lengths are drawn (log-normal,
median 400, cap 1,024; the same draws on every side), rewards a seeded 0/1 so that every group has signal. One rollout
is one update. Every side has R1's numbers (beta 0.001, epsilon 10, loss grpo) and TRL's defaults elsewhere; TRL has
16 rows a microbatch, as in open-r1's recipes. Every side runs in a process of its own; medians of the steps after the
warm-up. That as many tokens are trained on every side is asserted.

`--sides` runs some of them. With the same `--out`, results of an earlier call are kept, and ratios are of all
results.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from grpo_shape import Shape  # noqa: E402
from grpo_sides import GENERATION, LOGPS, REWARD, SYNC, run_side  # noqa: E402

SIDES = ("r1pipe+hf", "r1pipe+vllm", "trl+vllm", "trl+generate")  # in the order in which the budget is spent
BUT = "everything but generation"
TINY = Shape(
    prompts=4,
    group=4,
    prompt_tokens=12,
    median=10,
    cap=24,
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    inner=64,
    vocabulary=400,
    trl_microbatch=4,
)
RESULT = "RESULT "
# FlashInfer's sampler is compiled at first use, which such a machine may not be able to
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def child(job: dict[str, Any]) -> None:
    result = run_side(
        job["side"],
        Shape(**job["shape"]),
        Path(job["work"]),
        job["steps"],
        job["warm"],
        job["budget"],
        job["short_warm_up"],
    )
    print(RESULT + json.dumps(result), flush=True)


def measure(side: str, shape: Shape, work: Path, steps: int, budget: float) -> dict[str, Any] | None:
    """The side's result, from a process of its own; None where it failed (its last lines are printed)."""
    job = {
        "side": side,
        "shape": asdict(shape),
        "work": str(work),
        "steps": steps,
        "warm": 1,
        "budget": budget,
        "short_warm_up": side == "trl+generate" and not shape.base,
    }
    print(f"--- {side} (up to {budget:.0f} s)", flush=True)
    return child_result(__file__, job, work / f"{side}.log", ('{"seconds"',))


def child_result(
    script: str, job: dict[str, Any], log: Path, shown: tuple[str, ...]
) -> dict[str, Any] | None:
    """What `script --child JOB` prints behind RESULT; None where it failed (its last lines are printed).

    Args:
        log: gets the other lines, except for those that begin as `shown` says, which are printed as they come.
    """
    started = time.monotonic()
    command = [sys.executable, script, "--child", json.dumps(job)]
    done = subprocess.Popen(
        command, env={**OFFLINE, **os.environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    result = None
    assert done.stdout is not None
    for line in done.stdout:
        if line.startswith(RESULT):
            result = json.loads(line[len(RESULT) :])
        elif line.startswith(shown):
            print(f"  {time.monotonic() - started:5.0f} s  {line.rstrip()}", flush=True)
        else:
            lines.append(line)
    done.wait()
    log.write_text("".join(lines), encoding="utf8")
    if result is None:
        print("".join(lines[-25:]))
    return result


def median(result: dict[str, Any], name: str) -> float:
    return statistics.median(step.get(name, 0.0) for step in result["steps"])


def logged(result: dict[str, Any], name: str) -> float | None:
    values = [step["log"][name] for step in result["steps"] if step.get("log", {}).get(name) is not None]
    return statistics.median(values) if values else None


def check(results: dict[str, dict[str, Any]]) -> None:
    """Nothing skipped, and as many tokens on every side."""
    for side, result in results.items():
        for step in result["steps"]:
            assert step["tokens"] == step["expected tokens"], (
                f"{side} trained {step['tokens']} tokens, not {step['expected tokens']}"
            )


def report(results: dict[str, dict[str, Any]], asked: bool) -> dict[str, Any]:
    """The table, and the ratios beside their bars."""
    head = f"{'side':16s}{'step s':>9s}{'gen. s':>9s}{'rest s':>9s}{SYNC:>8s}{REWARD:>8s}{LOGPS:>8s}"
    head += f"{'tok/s':>9s}{'gap':>9s}{'masked':>8s}{'GiB':>7s}{'steps':>7s}"
    print(f"\n{head}")
    for side, result in results.items():
        result["median"] = {
            name: median(result, name) for name in ("seconds", GENERATION, BUT, SYNC, REWARD, LOGPS, "tokens")
        }
        of = result["median"]
        gap, masked = (
            logged(result, "sampling/sampling_logp_difference/mean"),
            logged(result, "sampling/masked"),
        )
        if masked is None and "masked" in result["steps"][0]:
            masked = median(result, "masked")
        result["median"] |= {
            "logp_gap": gap,
            "masked": masked,
            "tokens_per_second": of["tokens"] / of["seconds"],
        }
        shown = [f"{value:8.4f}" if value is not None else f"{'-':>8s}" for value in (gap, masked)]
        print(
            f"{side:16s}{of['seconds']:9.3f}{of[GENERATION]:9.3f}{of[BUT]:9.3f}"
            f"{of[SYNC]:8.3f}{of[REWARD]:8.3f}{of[LOGPS]:8.3f}"
            f"{of['tokens'] / of['seconds']:9.0f} {shown[0]}{shown[1]}"
            f"{result['peak_gib']:7.1f}{len(result['steps']):7d}"
        )
        print(
            " " * 16
            + "  ".join(
                f"{name} {100 * of[name] / of['seconds']:.0f} %" for name in (GENERATION, SYNC, REWARD, LOGPS)
            )
            + "  of the step"
        )
    ratios: dict[str, Any] = {}
    for other, what, bar in (
        ("trl+generate", "seconds", 8.0),
        ("trl+vllm", BUT, 3.0),
        ("trl+vllm", "seconds", 1.25),
    ):
        for us in [side for side in ("r1pipe+hf", "r1pipe+vllm") if {side, other} <= set(results)]:
            ratio = results[other]["median"][what] / results[us]["median"][what]
            ratios[f"{us} against {other}, {what}"] = {
                "ratio": ratio,
                "bar": bar if asked else None,
                "met": ratio >= bar if asked else None,
            }
            print(
                f"{us} against {other}, {what}: {ratio:.2f} x"
                + (f" (asked {bar:g} x: {'met' if ratio >= bar else 'MISSED'})" if asked else "")
            )
    return ratios


def machine() -> dict[str, Any]:
    import torch

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    names = ("torch", "transformers", "trl", "vllm", "accelerate")
    return {
        "device": device,
        "commit": commit or None,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: installed(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a model of two layers on this CPU: tries the code, measures nothing",
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES)
    parser.add_argument("--steps", type=int, default=3, help="timed updates, after one that warms up")
    parser.add_argument(
        "--budget",
        type=float,
        default=700,
        help="seconds in all; a side stops early, after one timed update at least",
    )
    parser.add_argument("--trl-microbatch", type=int, help="rows of stock TRL's forward passes (16)")
    parser.add_argument("--microbatch-tokens", type=int, help="tokens of r1pipe's (auto)")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="r1pipe without torch.compile, which auto chooses from 50 updates on",
    )
    parser.add_argument("--out", type=Path, help="JSON, with what an earlier call wrote there")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint and logs (a temporary one)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(json.loads(arguments.child))
    shape = TINY if arguments.tiny else Shape()
    changes = {
        "trl_microbatch": arguments.trl_microbatch,
        "microbatch_tokens": arguments.microbatch_tokens or (64 if arguments.tiny else None),
    }
    shape = replace(shape, **{name: value for name, value in changes.items() if value})
    sides = arguments.sides or (["r1pipe+hf", "trl+generate"] if arguments.tiny else list(SIDES))
    shape = replace(shape, compiled=not arguments.no_compile)
    results: dict[str, dict[str, Any]] = {}
    if arguments.out and arguments.out.is_file():
        results = {
            side: result
            for side, result in json.loads(arguments.out.read_text())["results"].items()
            if side not in sides
        }
    until = time.monotonic() + arguments.budget
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for i, side in enumerate(sides):
            left = until - time.monotonic()
            # vLLM's sides take what they need of their third or half; generate gets the rest
            result = measure(
                side,
                shape,
                work,
                arguments.steps,
                left if i + 1 == len(sides) else left / (len(sides) - i) * 1.4,
            )
            if result is not None and result["steps"]:
                results[side] = result
            if arguments.out and results:
                arguments.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    check(results)
    ratios = report(results, asked=not arguments.tiny)
    about = machine()
    print(json.dumps(about))
    if arguments.out:
        arguments.out.write_text(
            json.dumps(
                {"machine": about, "shape": asdict(shape), "ratios": ratios, "results": results}, indent=1
            )
        )
    if missing := [side for side in sides if side not in results]:
        sys.exit(f"no result of {', '.join(missing)}")


if __name__ == "__main__":
    main()

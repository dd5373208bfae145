"""SFT over 1, 2 and 4 GPUs under ZeRO-2, ZeRO-3 and FSDP2: tokens a second, and how much of linear scaling is left.

    # One machine with GPUs, no network; about a minute a run.
    python tests/bench/bench_scaling.py --out scaling.json
    python tests/bench/bench_scaling.py --runs zero2@1 zero3@2 \\
        --variant layers='{"zero_optimization": {"leaf_module": {"classes": []}}}'
    # Two CPU ranks and the embedded base: shows that it works, measures nothing.
    python tests/bench/bench_scaling.py --tiny

The model has Qwen2.5-1.5B's shape and random weights; the lengths of rows are log-normal and seeded. The cold-start
stage is started as r1pipe starts it, with its launcher, its worker and its trainer. The batch grows with the ranks
(weak scaling): every rank has the same number of sequences an update. A run is ended once three windows are measured,
before its checkpoint is saved; with `--save` it ends by itself, and its checkpoint is loaded.

A run is PROFILE@RANKS or PROFILE@RANKS/VARIANT, where a variant is laid over DeepSpeed's settings as
`launch.deepspeed` is. Efficiency is a run's tokens a second, divided by RANKS times those of the fastest run with one
rank.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engine import stage_json  # noqa: E402
from random_models import EMBEDDED_BASE, make_base  # noqa: E402

from r1pipe.config.machine import device_name, gpus  # noqa: E402
from r1pipe.launch.launcher import Launcher  # noqa: E402
from r1pipe.schema import Launch  # noqa: E402

BARS = {"zero2": 0.90, "zero3": 0.80}
WARM_UP, WINDOWS = 3, 3


class Enough(Exception):
    """All windows of a run are measured."""


def lengths(count: int, median: int, longest: int, seed: int) -> list[int]:
    """Log-normal, sigma 0.9, cut at both ends."""
    draw = random.Random(seed)
    return [min(longest, max(32, round(median * math.exp(0.9 * draw.gauss(0, 1))))) for _ in range(count)]


def write_rows(file: Path, tokens: list[int]) -> None:
    """Chats of known length: to the embedded tokenizer a digit is a token."""
    draw = random.Random(0)
    with file.open("w", encoding="utf8") as stream:
        for i, n in enumerate(tokens):
            answer = "".join(draw.choices("0123456789", k=n - 20))
            messages = [
                {"role": "user", "content": "0123456789012345"},
                {"role": "assistant", "content": answer},
            ]
            stream.write(
                json.dumps({"id": str(i), "messages": messages, "domain": "math", "source": "sampled"}) + "\n"
            )


def read_steps(file: Path) -> list[dict[str, Any]]:
    """The lines of updates in metrics.jsonl; the last may be half written."""
    lines = []
    for line in file.read_text(encoding="utf8").splitlines() if file.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "loss" in entry:
            lines.append(entry)
    return lines


def measure(
    run: str,
    variants: dict[str, Any],
    chats: Path,
    model: Path,
    sft: dict[str, Any],
    arguments: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """One run: its windows' tokens a second, how it was launched, peak memory."""
    name, _, variant = run.partition("/")
    profile, _, count = name.partition("@")
    ranks, steps = int(count), WARM_UP + WINDOWS * arguments.steps
    launch = Launch(
        profile=profile,
        num_processes=ranks,
        deepspeed=variants[variant] if variant else {},
        offload=arguments.offload,
    )  # type: ignore[arg-type]
    config = sft | {"batch_size": sft["batch_size"] * ranks, "max_steps": steps + 1}
    inputs = {"model": ("checkpoint", model), "chats": ("chats", chats)}
    stated = {"sft": config, "launch": launch.model_dump(mode="json")}
    file = stage_json(folder, "cold-start", stated, inputs, {"checkpoint": ("checkpoint", folder / "out")})

    def tick() -> None:
        if not arguments.save and len(read_steps(folder / "metrics.jsonl")) > steps:
            raise Enough

    started = time.time()
    codes = []
    with Launcher(folder / "forkserver.log") as launcher, contextlib.suppress(Enough):
        codes = launcher.run(launch, file, lambda rank: folder / f"log.{rank}", tick)
    lines = read_steps(folder / "metrics.jsonl")
    if any(codes) or len(lines) <= steps:
        tail = "\n".join((folder / "log.0").read_text(errors="replace").splitlines()[-25:])
        return {"run": run, "failed": f"exit codes {codes}", "log": tail}
    marks = [lines[WARM_UP + i * arguments.steps] for i in range(WINDOWS + 1)]
    rates = [
        (b["num_tokens"] - a["num_tokens"]) / (b["time"] - a["time"])
        for a, b in zip(marks, marks[1:], strict=False)
    ]
    launched = next(
        entry["launched"]
        for entry in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "launched" in entry
    )
    result = {
        "run": run,
        "ranks": ranks,
        "tokens_per_second": round(statistics.median(rates)),
        "windows": [round(rate) for rate in rates],
        "tokens_an_update": round(
            (marks[-1]["num_tokens"] - marks[0]["num_tokens"]) / (WINDOWS * arguments.steps)
        ),
        "launched": launched,
        "wall_s": round(time.time() - started, 1),
        **{name: lines[-1][name] for name in ("mfu", "peak_memory_gib") if name in lines[-1]},
        "loss": [lines[0]["loss"], lines[-1]["loss"]],
    }
    if launch.profile.startswith("zero"):
        result["deepspeed"] = json.loads((folder / "deepspeed.json").read_text())["zero_optimization"]
    if arguments.save:
        result["checkpoint"] = check_checkpoint(folder / "out", model)
    return result


def check_checkpoint(out: Path, model: Path) -> str:
    """Whether a plain checkpoint came out, by loading it in a process of its own."""
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM as A\n"
        "new, old = (A.from_pretrained(f).state_dict() for f in sys.argv[1:])\n"
        "assert {n: w.shape for n, w in new.items()} == {n: w.shape for n, w in old.items()}\n"
        "assert all(torch.isfinite(w).all() for w in new.values())\n"
        "print(sum((new[n].float() != old[n].float()).any().item() for n in new), 'of', len(new), 'weights moved')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), str(model)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr[-500:]


def environment() -> dict[str, Any]:
    """Where and with what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for package in ("torch", "transformers", "trl", "accelerate", "deepspeed"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "device": device_name(),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def compared(result: dict[str, Any], results: list[dict[str, Any]], tiny: bool) -> str:
    """A run's line of the report. Its efficiency, against the runs with one rank so far, is added to the result."""
    one_rank = [other["tokens_per_second"] for other in results if other.get("ranks") == 1]
    rate = result["tokens_per_second"]
    result["efficiency"] = round(rate / result["ranks"] / max(one_rank), 3) if one_rank else None

    verdict = ""
    bar = BARS.get(result["run"][:5])
    if bar is not None and result["ranks"] > 1 and result["efficiency"] is not None and not tiny:
        met = "met" if result["efficiency"] >= bar else "NOT met"
        verdict = f"  (bar {bar:.2f}: {met})"
    scaling = f"x {result['efficiency']} of linear{verdict}"
    return f"{result['run']:24s} {rate:9,d} tokens/s  {scaling}  {result['windows']}  {result['wall_s']} s"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", nargs="+", metavar="PROFILE@RANKS[/VARIANT]", help="default: by the number of GPUs"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=JSON", help="settings laid over DeepSpeed's"
    )
    parser.add_argument("--sft", default="{}", metavar="JSON", help="laid over the stage's sft block")
    parser.add_argument("--offload", default="none", choices=["none", "optimizer", "all"])
    parser.add_argument("--tokens", type=int, default=65_536, help="a rank and update")
    parser.add_argument("--median", type=int, default=900, help="tokens of a row")
    parser.add_argument("--longest", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=4, help="updates a window")
    parser.add_argument(
        "--save", action="store_true", help="let runs end by themselves and load their checkpoints"
    )
    parser.add_argument("--tiny", action="store_true", help="the embedded base, short rows, two ranks")
    parser.add_argument("--keep", type=Path, help="leave the runs' folders, logs and all, here")
    parser.add_argument("--out", type=Path, help="JSON")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    variants = {name: json.loads(text) for name, _, text in (v.partition("=") for v in arguments.variant)}
    if arguments.tiny:
        arguments.tokens, arguments.median, arguments.longest, arguments.steps = 512, 60, 160, 2
    count = 2 if arguments.tiny else max(1, len(gpus()))
    wider = [
        f"{profile}@{ranks}"
        for ranks in (2, 4, 8)
        if ranks <= count
        for profile in ("zero2", "zero3", *(["fsdp2"] if gpus() and ranks == count else []))
    ]
    runs = arguments.runs or ["zero2@1", *wider]
    # NVLink multicast is refused on some shared machines, and NCCL does not fall back.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    widest = max(int(run.partition("@")[2].partition("/")[0]) for run in runs)
    # In memory where there is room: the disk of a rented machine may be small and slow.
    memory_disk = Path("/dev/shm")
    roomy = memory_disk.is_dir() and shutil.disk_usage(memory_disk).free > 40 * 2**30
    with tempfile.TemporaryDirectory(dir=memory_disk if roomy and not arguments.tiny else None) as scratch:
        folder = Path(arguments.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        model = EMBEDDED_BASE
        if not arguments.tiny:
            model = Path(scratch) / "base"
            subprocess.run(
                [sys.executable, __file__, "--make-base", str(model)],
                check=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )
        steps = WARM_UP + WINDOWS * arguments.steps + 1
        mean = statistics.mean(lengths(10_000, arguments.median, arguments.longest, 0))
        per_rank = max(1, round(arguments.tokens / mean))
        tokens = lengths(per_rank * widest * steps, arguments.median, arguments.longest, 1)
        chats = folder / "chats"
        chats.mkdir()
        write_rows(chats / "rows.jsonl", tokens)
        sft = {
            "lr": 1e-5,
            "epochs": 1000,
            "batch_size": per_rank,
            "max_length": arguments.longest + 64,
            **json.loads(arguments.sft),
        }
        report: dict[str, Any] = {
            "bench": "scaling",
            "tiny": arguments.tiny,
            **environment(),
            "tokens_a_rank": arguments.tokens,
            "sft": sft,
            "runs": [],
        }
        rows = f"rows of {statistics.mean(tokens):.0f} tokens, {per_rank} a rank"
        print(f"{report['device']}; {rows}; medians of {WINDOWS} windows of {arguments.steps}", flush=True)
        for number, run in enumerate(runs):
            result = measure(run, variants, chats, model, sft, arguments, folder / f"run{number}")
            report["runs"].append(result)
            if "failed" in result:
                print(f"{run:24s} failed: {result['failed']}\n{result['log']}", flush=True)
            else:
                print(compared(result, report["runs"], arguments.tiny), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    if any("failed" in run for run in report["runs"]):
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make-base"]:
        make_base("1.5B", Path(sys.argv[2]))
    else:
        main()

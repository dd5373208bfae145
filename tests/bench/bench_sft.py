"""SFT: stock TRL, TRL at its best settings, and r1pipe, in turn on the same rows; needs no network and no checkpoint.

    python tests/bench/bench_sft.py                         # the 1.5B shape, about six minutes on one H100
    python tests/bench/bench_sft.py --sides r1pipe --variants
    python tests/bench/bench_sft.py --rows-32k --sides r1pipe
    python tests/bench/bench_sft.py --shape 7B              # LoRA (needs peft)
    python tests/bench/bench_sft.py --tiny                  # the same code on a CPU, in a minute

Weights and token ids are random. Lengths are log-normal (median 1,000, sigma 1, 64 to 8,192 tokens, seeded), and every
token but a row's first is trained on. A window is one epoch over the same rows on every side, in updates of the same
number of rows; the tokens that count (padding does not) are asserted to be equal. The first epoch warms up. Every side
has a process of its own. MFU: 6N a token (frozen weights 4N) against the data sheet.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from random_models import ENDS, QWEN, SHAPES  # noqa: E402

SIDES = ("stock TRL", "TRL packed", "TRL padded", "r1pipe")
# Candidate settings of ours; the first is r1pipe with its defaults, but compiled.
OURS: dict[str, dict[str, Any]] = {
    "r1pipe": {},
    "r1pipe 16k": {"pack_tokens": 16384},
    "r1pipe 8k": {"pack_tokens": 8192},
    "r1pipe 32k": {"pack_tokens": 32768},
    "r1pipe eager": {"compile": False},
    "r1pipe checkpointing": {"gradient_checkpointing": True},
    "r1pipe 12k": {"pack_tokens": 12288},
    "r1pipe TRL's head": {"linear_ce": False},
    "r1pipe bf16 stream": {"bf16_stream": True},
    "r1pipe 8k eager": {"pack_tokens": 8192, "compile": False},
    "r1pipe 32k bf16 stream": {"bf16_stream": True, "pack_tokens": 32768},
}


def row_lengths(count: int, longest: int, median: int) -> list[int]:
    draw = random.Random(0)
    return [
        min(longest, max(min(64, median // 4), round(median * draw.lognormvariate(0, 1))))
        for _ in range(count)
    ]


# --- one side, in a process of its own --------------------------------------------------------------------------------


def model_of(job: dict[str, Any], device: str) -> Any:
    """Random weights, made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(**{**QWEN, **ENDS, **SHAPES[job["shape"]]})
    dtype = torch.bfloat16 if job["lora"] or job["dtype"] == "bfloat16" else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if job.get("bf16_stream"):  # the residual stream in half precision: norms still compute in float32
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, out: out.to(torch.bfloat16))
    return model


def has_flash(version: int) -> bool:
    """FlashAttention 4 has the same package, and its own folder in it."""
    found = importlib.util.find_spec("flash_attn")
    return found is not None and (
        importlib.util.find_spec("flash_attn.cute") is not None if version == 4 else found.origin is not None
    )


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def trainer_of(job: dict[str, Any], model: Any, rows: Any, folder: Path) -> Any:
    """The side's trainer: `job["epochs"]` epochs over the rows, `batch` rows an update."""
    import torch
    import trl

    batch, updates = job["batch"], len(rows) // job["batch"] * job["epochs"]
    cpu = {"use_cpu": True, "bf16": False} if not torch.cuda.is_available() else {}
    adapter = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} if job["lora"] else None
    peft_config = __import__("peft").LoraConfig(task_type="CAUSAL_LM", **adapter) if adapter else None
    common = {
        "output_dir": str(folder),
        "max_length": job["longest"],
        "max_steps": updates,
        "report_to": "none",
        "save_strategy": "no",
    }
    common |= {"disable_tqdm": True, "logging_steps": 1, **cpu}
    given = {
        "model": model,
        "train_dataset": rows,
        "processing_class": tokenizer(),
        "peft_config": peft_config,
    }
    liger = {"use_liger_kernel": bool(importlib.util.find_spec("liger_kernel")) and not cpu}
    if job["side"] == "stock TRL":  # its defaults: 8 rows a pass, padded, gradient checkpointing, SDPA
        args = trl.SFTConfig(
            **common,
            gradient_accumulation_steps=max(1, batch // 8),
            per_device_train_batch_size=min(8, batch),
        )
        return trl.SFTTrainer(args=args, **given)
    if job["side"] == "TRL padded":  # rows of like length, two a pass, without checkpointing
        sorted_rows = {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": False}
        args = trl.SFTConfig(
            **common,
            **sorted_rows,
            **liger,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=batch // 2,
        )
        return trl.SFTTrainer(args=args, **given)
    if job["side"] == "TRL packed":
        packs = len(trl.pack_dataset(rows, job["longest"], "bfd"))
        accumulate = -(-packs // (len(rows) // batch))
        packed = {
            "packing": True,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": accumulate,
        }
        if version := next((n for n in (2, 4) if has_flash(n)), None):
            model.set_attn_implementation(f"flash_attention_{version}")
        args = trl.SFTConfig(**common, **packed, **liger)
        return trl.SFTTrainer(args=args, **given)
    return ours(job, given, rows, updates, folder, adapter)


def ours(
    job: dict[str, Any],
    given: dict[str, Any],
    rows: Any,
    updates: int,
    folder: Path,
    adapter: dict[str, Any] | None,
) -> Any:
    """What train_sft does between reading the rows and writing the checkpoint."""
    import trl

    from r1pipe.here import Here
    from r1pipe.schema import SFTParams
    from r1pipe.training.sft.packed_setup import plan_packing
    from r1pipe.training.sft.sft_training import sft_arguments

    settings = {
        key: job[key] for key in ("pack_tokens", "compile", "gradient_checkpointing", "trl") if key in job
    }
    params = SFTParams(
        batch_size=job["batch"],
        packing=True,
        max_length=job["longest"],
        lora=adapter,
        **{"compile": not job["tiny"], **settings},
    )
    here = Here("bench", folder, folder / "metrics.jsonl", folder / "progress.jsonl")
    given["model"].config.save_pretrained(folder)
    plan = plan_packing(
        folder, [len(ids) for ids in rows["input_ids"]], params, updates=updates, here=here, seed=0
    )
    assert plan is not None
    print(here.metrics_path.read_text().strip(), flush=True)
    args = trl.SFTConfig(**sft_arguments(params, here, 0, updates, plan))
    trainer = plan.trainer(args=args, here=here, training=params, **given)
    if not job.get("linear_ce", True):
        trainer.linear_ce = False
    return trainer


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the epochs of the job; what was measured."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    from r1pipe.training.telemetry import flops_per_token, peak_flops

    gpu = torch.cuda.is_available()
    began = time.monotonic()
    draw = random.Random(1)
    words = SHAPES[job["shape"]].get("vocab_size", QWEN["vocab_size"])
    ids = [[draw.randrange(2, words) for _ in range(n)] for n in job["lengths"]]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    model = model_of(job, "cuda" if gpu else "cpu")
    size = sum(p.numel() for p in model.parameters())
    every = len(ids) // job["batch"]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % every:
                return
            if gpu:
                torch.cuda.synchronize()
            ends.append(time.monotonic())
            if len(ends) == 1 and gpu:
                torch.cuda.reset_peak_memory_stats()
            if profiler and profiler.profiler is not None:
                profiler.stop()
                print(
                    profiler.key_averages().table(
                        sort_by="self_device_time_total" if gpu else "self_cpu_time_total",
                        row_limit=40,
                        max_name_column_width=80,
                    )
                )
                profiler.export_chrome_trace(job["profile"])
                del ends[-1]
            late = len(ends) > 1 and ends[-1] - began > job["seconds"]
            if profiler and profiler.profiler is None and (late or len(ends) == 1 + job["windows"]):
                profiler.start()
                return
            control.should_training_stop = late or len(ends) == 1 + job["windows"]

    profiler = torch.profiler.profile() if job["profile"] else None

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(job, model, rows, Path(folder))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
    tokens, windows = sum(job["lengths"]), len(ends) + bool(profiler)
    counted = max(entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry)
    assert counted == tokens * windows, f"{counted} tokens were trained on, not {windows} x {tokens}"
    rates = [tokens / (b - a) for a, b in zip(ends, ends[1:], strict=False)]
    cost, peak = flops_per_token(trainer.model), peak_flops()
    rate = statistics.median(rates)
    return {
        "tokens_per_second": rate,
        "windows": rates,
        "mfu": rate * cost / peak if peak else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else None,
        "parameters": size,
        "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][:: max(1, every)],
        "warm_up_seconds": ends[0] - began,
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "attention": trainer.model.config._attn_implementation,
    }


# --- all sides --------------------------------------------------------------------------------------------------------


def run(job: dict[str, Any], show: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as ours sets it
        done = subprocess.run(
            [sys.executable, __file__, "--worker", json.dumps(job), str(result)],
            env=environment,
            capture_output=True,
            text=True,
        )
        if show or done.returncode:
            print(done.stdout[-9000:], done.stderr[-4000:] if done.returncode else "", flush=True)
        if not done.returncode:
            return json.loads(result.read_text())
        return {
            "error": "out of memory"
            if "OutOfMemoryError" in done.stderr
            else done.stderr.strip().splitlines()[-1][:200]
        }


def line(name: str, job: dict[str, Any], stock: float | None) -> str:
    if "error" in job:
        return f"| {name} | {job['error']} | | | |"
    mfu = f"{100 * job['mfu']:.1f} %" if job["mfu"] else "-"
    memory = f"{job['peak_gib']:.1f} GiB" if job["peak_gib"] else "-"
    ratio = f"{job['tokens_per_second'] / stock:.2f}" if stock else "-"
    return f"| {name} | {job['tokens_per_second']:,.0f} | {mfu} | {memory} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=["0.5B", "1.5B", "7B"], default="1.5B")
    parser.add_argument("--tiny", action="store_true", help="a toy shape and short rows, for a CPU")
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated, of: " + ", ".join(SIDES))
    parser.add_argument(
        "--variants",
        nargs="?",
        const=",".join(OURS),
        help="in the place of r1pipe alone, these of its settings: " + ", ".join(OURS),
    )
    parser.add_argument("--rows-32k", action="store_true", help="8 rows of 32,768 tokens instead")
    parser.add_argument("--rows", type=int, default=64, help="a window")
    parser.add_argument("--batch", type=int, default=32, help="rows an update")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=110, help="of one side, after which no further window starts"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of TRL's weights; ours are float32 (LoRA: bfloat16 on all sides)",
    )
    parser.add_argument(
        "--lora",
        action="store_true",
        help="adapters of rank 16 on all linear layers, weights in bfloat16; always so with 7B",
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="FILE",
        help="one more window: print where its time goes, and write a Chrome trace",
    )
    parser.add_argument("--out", type=Path, help="JSON of everything")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.path.insert(0, str(ROOT))
        Path(args.worker[1]).write_text(json.dumps(work(json.loads(args.worker[0]))))
        return

    shape, longest = ("tiny", 128) if args.tiny else (args.shape, 8192)
    rows, batch = (
        (8, 4) if args.rows_32k else (min(args.rows, 16), 8) if args.tiny else (args.rows, args.batch)
    )
    if args.rows_32k:
        longest = 512 if args.tiny else 32768
    assert rows % batch == 0, f"{rows} rows are not a whole number of updates of {batch}"
    lengths = [longest] * rows if args.rows_32k else row_lengths(rows, longest, 32 if args.tiny else 1000)
    shared = {
        "shape": shape,
        "tiny": args.tiny,
        "longest": longest,
        "lengths": lengths,
        "batch": batch,
        "epochs": 1 + args.windows + bool(args.profile),
        "windows": args.windows,
    }
    shared |= {"seconds": args.seconds, "profile": args.profile, "lora": args.lora or shape == "7B"}
    sides = [side for side in args.sides.split(",") if side]
    tokens = f"{min(lengths)} to {max(lengths)} tokens, {sum(lengths):,} in all"
    print(f"{shape} shape, {rows} rows of {tokens}, {batch} rows an update", flush=True)
    if "TRL packed" in sides and not (has_flash(2) or has_flash(4)):
        print(
            "flash-attn cannot be imported: TRL's packed rows go through SDPA with a block-diagonal mask",
            flush=True,
        )
    if not importlib.util.find_spec("liger_kernel"):
        print("liger-kernel cannot be imported", flush=True)
    print("| side | tokens/s | MFU | peak | x stock |\n| --- | --- | --- | --- | --- |", flush=True)
    results: dict[str, Any] = {}
    for side in sides:
        chosen = args.variants.split(",") if side == "r1pipe" and args.variants else [side]
        for name in chosen:
            job = {
                **shared,
                "side": side,
                "dtype": "float32" if side == "r1pipe" else args.dtype,
                **OURS.get(name, {}),
            }
            results[name] = run(job, show=bool(args.profile))
            stock = results.get("stock TRL", {}).get("tokens_per_second")
            print(line(name, results[name], stock), flush=True)
    losses = {name: job["loss"][0] for name, job in results.items() if "loss" in job}
    print("first losses:", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()), flush=True)
    if args.out:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        versions = {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")
        }
        job = {
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit,
            "versions": versions,
            **shared,
            "results": results,
        }
        args.out.write_text(json.dumps(job, indent=1))


if __name__ == "__main__":
    main()

"""What `r1pipe plan` predicts beside what a GPU shows: peak memory and seconds of an update, over many configurations.

    python tests/bench/bench_memory.py --out rows.jsonl     # one H200, under ten minutes, no network, no download
    python tests/bench/bench_memory.py --tiny               # the same code with toy shapes, on a CPU

Weights are random and made on the GPU. Each row goes through r1pipe's own trainer: SFT as train_sft does between
reading rows and saving, RL through train_grpo's make_trainer. A row is two or three updates; the first warms up, and
seconds are those of the last. Rows without DeepSpeed share a process (its imports take longer than a row); memory is
given back and the peak is reset between them. A row that fails is reported and does not end the others.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from random_models import ENDS, QWEN, SHAPES  # noqa: E402

ALL_LINEAR = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
QV = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
RESULT = "RESULT "
# A module of its own: the trainer imports the reward by its name.
REWARD = """def in_turn(completions, **columns):
    return [float(i % 2) for i in range(len(completions))]
"""
WORDS = "abcdefghijklmnopqrstuvwxyz"


def sft(shape: str, length: int, tokens: int, **more: Any) -> dict[str, Any]:
    """Rows of `length` tokens, in passes of `tokens`, two passes an update unless `passes` says otherwise."""
    return {"kind": "sft", "shape": shape, "length": length, "tokens": tokens, "passes": 2, **more}


def grpo(shape: str, rows: int, answer: int, tokens: int | str, **more: Any) -> dict[str, Any]:
    """A rollout of `rows` responses of `answer` tokens and one update on it, in packs of `tokens`.

    With `vllm` an engine in the same process draws, with this share of the GPU's memory.
    """
    job = {"kind": "grpo", "shape": shape, "rows": rows, "group": 8, "prompt": 128, "answer": answer}
    return {**job, "tokens": tokens, **more}


# The order is that of the table. Those of one profile and kind share a process.
JOBS: list[dict[str, Any]] = [
    sft("0.1B", 1024, 8192),
    sft("0.5B", 1024, 8192),
    sft("0.5B", 2048, 16384),
    sft("0.5B", 16384, 32768, checkpointing=True),
    sft("1.5B", 1024, 8192),
    sft("1.5B", 4096, 4096, passes=1),
    sft("1.5B", 1024, 8192, checkpointing=True),
    sft("1.5B", 32768, 32768, checkpointing=True, passes=1),
    sft("1.5B", 1024, 8192, lora=QV),
    sft("3B", 1024, 4096),
    sft("7B", 1024, 8192, lora=ALL_LINEAR),
    sft("7B", 1024, 2048, checkpointing=True, updates=2),
    sft("7B", 1024, 16384, updates=2),
    grpo("0.1B", 128, 256, 16384),
    grpo("0.5B", 128, 256, 16384),
    grpo("0.5B", 128, 256, 16384, beta=0.0),
    grpo("0.5B", 128, 512, 32768, checkpointing=True),
    grpo("0.5B", 64, 256, "auto"),
    grpo("1.5B", 64, 256, 8192),
    grpo("1.5B", 32, 128, 4096, lora=QV),
    grpo("3B", 32, 128, 4096, updates=2),
    grpo("0.5B", 128, 256, 16384, vllm=0.3),
    sft("0.5B", 1024, 8192, profile="zero2"),
    sft("1.5B", 1024, 8192, profile="zero2"),
    sft("1.5B", 4096, 16384, profile="zero2", checkpointing=True),
    sft("1.5B", 1024, 8192, profile="zero2", lora=QV),
    grpo("0.5B", 64, 256, 8192, profile="zero2"),
    sft("0.5B", 1024, 8192, profile="zero3"),
    sft("1.5B", 4096, 16384, profile="zero3", checkpointing=True),
    grpo("0.5B", 32, 64, 8192, profile="zero3", updates=2),
    sft("1.5B", 1024, 16384, compile=True),
]
TINY: list[dict[str, Any]] = [
    sft("tiny", 32, 128),
    sft("tiny", 32, 64, checkpointing=True),
    sft("tiny", 32, 64, lora=ALL_LINEAR),
    grpo("tiny", 16, 8, 128, prompt=12, group=4),
    grpo("tiny", 16, 8, 128, prompt=12, group=4, lora=QV),
    grpo("tiny", 16, 8, 128, prompt=12, group=4, beta=0.0, checkpointing=True),
    sft("tiny", 32, 64, profile="zero2"),
    sft("tiny", 32, 64, profile="zero2", lora=QV),
    grpo("tiny", 16, 8, 128, prompt=12, group=4, profile="zero2", updates=2),
    sft("tiny", 32, 64, profile="zero3", checkpointing=True),
    sft("tiny", 32, 64, profile="zero3"),
    grpo("tiny", 16, 8, 128, prompt=12, group=4, profile="zero3", updates=2),
]


def name_of(job: dict[str, Any]) -> str:
    parts = [job["kind"], job["shape"], job.get("profile", "process")]
    if job["kind"] == "sft":
        parts.append(f"{job['passes']}x{job['tokens']} of {job['length']}")
    else:
        parts.append(f"{job['rows']}x{job['answer']} in {job['tokens']}")
    if job.get("lora"):
        parts.append("lora " + ("all" if job["lora"] == ALL_LINEAR else "q,v"))
    parts += [word for word in ("checkpointing", "compile") if job.get(word)]
    if job.get("beta") == 0.0:
        parts.append("no reference")
    if job.get("vllm"):
        parts.append(f"vllm {job['vllm']}")
    return " ".join(parts)


# --- the prediction ---------------------------------------------------------------------------------------------------


def config_of(job: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "qwen2", **QWEN, **ENDS, **SHAPES[job["shape"]]}


def predicted(job: dict[str, Any], gpu: bool, memory: float, repeated: bool) -> dict[str, Any]:
    """Peak, used memory and seconds of an update, by r1pipe's planner; no torch."""
    from r1pipe.run.planning.activations import Rollout, Training
    from r1pipe.run.planning.cards import CARDS
    from r1pipe.run.planning.footprint import footprint
    from r1pipe.run.planning.model_shape import shape_of
    from r1pipe.run.planning.packs import adapter_of, auto_pack, largest_pack
    from r1pipe.run.planning.speed import drawing_seconds, forward_seconds, pass_seconds, update_seconds

    shape = shape_of(config_of(job))
    settings: dict[str, Any] = {
        "profile": job.get("profile", "process"),
        "adapter": adapter_of(job.get("lora")),
        "checkpointing": job.get("checkpointing", False),
        "compiled": job.get("compile", False),
        "gpu": gpu,
        "repeated_keys": repeated,
    }
    card = CARDS["h200"]
    if job["kind"] == "sft":
        half = bool(job.get("lora")) and settings["profile"] == "process"
        training = Training(
            shape=shape, tokens=job["tokens"], passes=job["passes"], frozen_half=half, **settings
        )
        seconds = job["passes"] * pass_seconds(training, card, mean_length=job["length"])
        seconds += update_seconds(training, card)
    else:
        share = job.get("vllm", 0.0)
        rollout = Rollout(
            rows=0 if share else job["rows"],
            columns=0 if share else job["prompt"] + job["answer"],
            twin=gpu and not share and not job.get("lora") and settings["profile"] != "zero3",
            reference=job.get("beta", 0.001) > 0 and not job.get("lora"),
            vllm_bytes=share * memory,
        )
        settings |= {"shape": shape, "head": "fused", "rollout": rollout}
        tokens = job["tokens"]
        if tokens == "auto":
            tokens = auto_pack(Training(tokens=1, **settings), memory)
        group = {"group": job["group"], "prompt": job["prompt"], "answer": job["answer"]}
        passes, largest = largest_pack(job["rows"], tokens, **group)
        training = Training(tokens=largest, passes=passes, **settings)
        length = job["prompt"] + job["answer"]
        seconds = passes * pass_seconds(training, card, mean_length=length) + update_seconds(training, card)
        if rollout.reference or job.get("lora"):
            seconds += passes * forward_seconds(training, card, mean_length=length)
        seconds += drawing_seconds(
            shape,
            card,
            rows=job["rows"],
            prompt=job["prompt"],
            mean=job["answer"],
            longest=job["answer"],
            graphs=rollout.twin or not rollout.rows,
            compiled=training.compiled or not rollout.rows,
        )
    found = footprint(training)
    return {
        "parameters": shape.parameters,
        "pass_tokens": training.tokens,
        "passes": training.passes,
        "predicted_gib": found.peak / 2**30,
        "predicted_used_gib": found.used / 2**30,
        "predicted_fits": found.used <= memory,
        "predicted_s": seconds,
        "moment": found.moment,
        "moments_gib": {name: size / 2**30 for name, size in found.moments.items()},
        "terms_gib": {name: round(size / 2**30, 3) for name, size in found.terms.items()},
    }


def others(job: dict[str, Any]) -> dict[str, float]:
    """What the estimators of accelerate and DeepSpeed say of the same model, as formulas: neither sees activations.

    accelerate estimate-memory: four times the weights in float32 for training with Adam. DeepSpeed: model states of
    ZeRO-2 and ZeRO-3 on one GPU without offloading, with its factor of 1.5 for fragments.
    """
    from r1pipe.run.planning.model_shape import shape_of

    shape = shape_of(config_of(job))
    size = shape.parameters
    answer = {"accelerate_gib": 16 * size / 2**30}
    stage = job.get("profile", "process")
    if stage == "zero2":
        # estimate_zero2_model_states_mem_needs: 4 * N for weights and gradients in half, 16 * N over the GPUs
        answer["deepspeed_gib"] = (4 * size + 16 * size) / 2**30
    if stage == "zero3":
        # estimate_zero3_model_states_mem_needs: the largest layer in half twice, 18 * N over the GPUs
        answer["deepspeed_gib"] = (4 * shape.head + 18 * size) / 2**30
    return answer


# --- one row, in the worker -------------------------------------------------------------------------------------------


def model_of(job: dict[str, Any], dtype: Any) -> Any:
    """Random weights, made on the GPU; under ZeRO-3 transformers makes them in shards."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    torch.manual_seed(0)
    config = Qwen2Config(**{key: value for key, value in config_of(job).items() if key != "model_type"})
    if is_deepspeed_zero3_enabled() or not torch.cuda.is_available():
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def tokenizer_of(job: dict[str, Any]) -> Any:
    """Each letter is a token, and every id of the vocabulary has a word."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    count = config_of(job)["vocab_size"]
    names = ["<pad>", "<eos>", *WORDS, *(f"w{i}" for i in range(count - 2 - len(WORDS)))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.padding_side = "left"
    return tokenizer


def here_of(job: dict[str, Any], folder: Path) -> Any:
    from r1pipe.here import Here

    profile = job.get("profile", "process")
    return Here("bench", folder, folder / "metrics.jsonl", folder / "progress.jsonl", profile=profile)


def sft_trainer(job: dict[str, Any], folder: Path) -> Any:
    """What train_sft does between reading rows and saving."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    from r1pipe.models.sharding import gather_by_layer
    from r1pipe.schema import SFTParams
    from r1pipe.training.arguments import half_base, lora_config
    from r1pipe.training.sft.packed_setup import plan_packing
    from r1pipe.training.sft.sft_training import sft_arguments

    here = here_of(job, folder)
    in_pass = job["tokens"] // job["length"]
    batch = in_pass * job["passes"]
    params = SFTParams(
        batch_size=batch,
        max_length=job["length"],
        pack_tokens=job["tokens"],
        compile=job.get("compile", False),
        gradient_checkpointing=True if job.get("checkpointing") else "never",
        lora=job.get("lora"),
    )
    words = config_of(job)["vocab_size"]
    updates = job.get("updates", 3)
    ids = [[2 + (row * 7 + place) % (words - 2) for place in range(job["length"])] for row in range(batch)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    lengths = [job["length"]] * batch
    from transformers import Qwen2Config

    config = {key: value for key, value in config_of(job).items() if key != "model_type"}
    Qwen2Config(**config).save_pretrained(folder)
    plan = plan_packing(folder, lengths, params, updates=updates, here=here, seed=0)
    assert plan is not None, "rows of Qwen2 are packed"
    # Before the model, as in train_sft: under ZeRO-3 it is then made in shards.
    args = SFTConfig(**sft_arguments(params, here, 0, updates, plan))
    in_half = torch.cuda.is_available() and half_base(params, here)
    model = model_of(job, torch.bfloat16 if in_half else torch.float32)
    gather_by_layer(model)
    return plan.trainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer_of(job),
        peft_config=lora_config(job.get("lora"), "sft.lora"),
        here=here,
        training=params,
    )


def grpo_trainer(job: dict[str, Any], folder: Path) -> Any:
    """The trainer that train_grpo makes; its models are made in the place of being loaded, unless vLLM draws."""
    import torch
    import trl.trainer.grpo_trainer as trl_grpo

    from r1pipe.schema import GRPOParams, Phase, RewardSpec, VLLMRollout
    from r1pipe.training.callbacks import Heldout
    from r1pipe.training.grpo import grpo_training

    def made(*_: Any, **__: Any) -> Any:
        from r1pipe.models.sharding import gather_by_layer

        model = model_of(job, torch.float32)
        gather_by_layer(model)
        return model

    share = job.get("vllm")
    if share:
        # The engine reads a checkpoint.
        model_of(job, torch.bfloat16).save_pretrained(folder)
        tokenizer_of(job).save_pretrained(folder)
    else:
        grpo_training.load_model = made
        trl_grpo.create_model_from_path = made
    here = here_of(job, folder)
    updates = job.get("updates", 3)
    lora = job.get("lora")
    params = GRPOParams(
        num_generations=job["group"],
        batch_size=job["rows"],
        minibatches_per_rollout=1,
        microbatch_tokens=job["tokens"] if torch.cuda.is_available() or job["tokens"] != "auto" else 128,
        gradient_checkpointing=bool(job.get("checkpointing")),
        beta=job.get("beta", 0.001),
        ref_replace_every=None,
        compile=False,
        lora=lora,
        rollout="vllm" if share else "hf",
        vllm=VLLMRollout(memory=share) if share else None,
        eval_prompts=0,
        phases=[
            Phase(
                steps=updates,
                max_tokens=job["answer"],
                rewards=[RewardSpec(name="bench_memory_reward:in_turn")],
            )
        ],
    )
    prompts = job["rows"] // job["group"] * updates
    texts = [
        "".join(WORDS[(row * 5 + place * (row + 1)) % len(WORDS)] for place in range(job["prompt"]))
        for row in range(prompts)
    ]
    rows = [
        {"id": str(i), "prompt": text, "domain": "math", "language": "en"} for i, text in enumerate(texts)
    ]
    trainer, _ = grpo_training.make_trainer(
        checkpoint=folder,
        rows=rows,
        prompts={"prompts": rows},
        params=params,
        template="{prompt}",
        tokenizer=tokenizer_of(job),
        watch=Heldout([], [], here, params),
        widest_prompt=job["prompt"],
        here=here,
        seed=0,
    )
    return trainer


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Train; what was seen."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    gpu = torch.cuda.is_available()
    ends: list[float] = []
    phases: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.note()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.note()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
            phases.append({k: v for k, v in (logs or {}).items() if k.startswith("seconds/")})

        def note(self) -> None:
            if gpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        make = sft_trainer if job["kind"] == "sft" else grpo_trainer
        trainer = make(job, Path(name))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        made_s = time.perf_counter() - began
        trainer.train()
        seen: dict[str, Any] = {
            "made_s": made_s,
            "seconds": [b - a for a, b in zip(ends, ends[1:], strict=False)],
        }
        seen["measured_s"] = seen["seconds"][-1]
        seen["logged_s"] = phases[-2:] if job["kind"] == "grpo" else []
        if job["kind"] == "grpo":
            seen["pack_tokens"] = trainer.pack_budget.tokens
            seen["twin"] = trainer.sampler.graphed is not None
            history = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
            seen["mean_length"] = history[-1]["completions/mean_length"] if history else None
            trainer.sampler.graphed = None
        if gpu:
            free, total = torch.cuda.mem_get_info()
            reserved = torch.cuda.memory_reserved()
            most_reserved = torch.cuda.max_memory_reserved()
            seen["measured_gib"] = torch.cuda.max_memory_allocated() / 2**30
            seen["reserved_gib"] = most_reserved / 2**30
            seen["beside_gib"] = (total - free - reserved) / 2**30
            # The device's own count at the fullest moment: what PyTorch had reserved, and what is not PyTorch's.
            seen["measured_used_gib"] = (most_reserved + total - free - reserved) / 2**30
    return seen


def forget() -> None:
    """Give all memory back to the device, and forget which profile the last row had."""
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state()
    GradientState._reset_state()
    if not os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        PartialState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def worker(jobs: list[dict[str, Any]]) -> None:
    """Rows one after the other, each printed as it ends."""
    import torch

    gpu = torch.cuda.is_available()
    memory = float(torch.cuda.mem_get_info()[1]) if gpu else 8 * 2**30
    repeated = False
    if gpu:
        from r1pipe.models.attention_kernels import attention_kernel

        repeated = not attention_kernel(64).grouped
    for job in jobs:
        row: dict[str, Any] = {"name": name_of(job), "job": job, "repeated_keys": repeated}
        began = time.monotonic()
        # A hang must not take the time of the others.
        alarm = threading.Timer(float(os.environ.get("ROW_SECONDS", "150")), os._exit, (3,))
        alarm.daemon = True
        alarm.start()
        try:
            row |= predicted(job, gpu, memory, repeated) | others(job)
            row |= measure(job)
            row["fits"] = True
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            row["error"] = text[:300]
            if "out of memory" in text.lower():
                row["fits"] = False
            else:
                row["trace"] = traceback.format_exc()[-1500:]
            # The traceback's frames hold the model.
            del error
        alarm.cancel()
        row["row_s"] = time.monotonic() - began
        row["left_gib"] = 0.0
        forget()
        if gpu:
            row["left_gib"] = torch.cuda.memory_allocated() / 2**30
        print(RESULT + json.dumps(row), flush=True)


# --- all rows, in the driver ------------------------------------------------------------------------------------------


def environment_of(profile: str, kind: str, tiny: bool, folder: Path) -> dict[str, str]:
    """As r1pipe's launcher sets it for a stage of this profile with one rank."""
    from r1pipe.config.profiles import profile_environment
    from r1pipe.schema import Launch

    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder), *sys.path[1:]]),
    }
    if kind == "sft" and not tiny:
        # As plan_packing sets it, which comes too late where rows share a process.
        environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if profile != "process":
        environment |= profile_environment(Launch(profile=profile), folder)  # type: ignore[arg-type]
        ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        environment |= ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
        if not tiny:
            environment.pop("DS_ACCELERATOR", None)
    return environment


def run_group(jobs: list[dict[str, Any]], tiny: bool, until: float, take: Any) -> None:
    """Rows in a process; where it dies, the rest in another one."""
    while jobs and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "bench_memory_reward.py").write_text(REWARD)
            environment = environment_of(jobs[0].get("profile", "process"), jobs[0]["kind"], tiny, folder)
            command = [sys.executable, __file__, "--worker", json.dumps(jobs)]
            log = folder / "stderr.txt"
            done = 0
            with log.open("w") as errors:
                process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
                )
                assert process.stdout is not None
                ending = threading.Timer(max(1.0, until - time.monotonic()), process.kill)
                ending.start()
                for line in process.stdout:
                    if line.startswith(RESULT):
                        take(json.loads(line[len(RESULT) :]))
                        done += 1
                process.wait()
                ending.cancel()
            if done < len(jobs):
                tail = log.read_text(errors="replace")[-1500:]
                take({"name": name_of(jobs[done]), "job": jobs[done], "error": f"the process ended: {tail}"})
                done += 1
            jobs = jobs[done:]


def line_of(row: dict[str, Any]) -> str:
    if "measured_s" not in row:
        verdict = {True: "should fit", False: "should not fit", None: ""}[row.get("predicted_fits")]
        said = "does not fit" if row.get("fits") is False else row.get("error", "")[:60]
        return f"{row['name']:52.52} {row.get('predicted_gib', 0):7.1f}       -       -   {verdict}: {said}"
    measured = row.get("measured_gib", 0.0)
    ratio = row["predicted_gib"] / measured if measured else 0.0
    used = row.get("measured_used_gib", 0.0)
    return (
        f"{row['name']:52.52} {row['predicted_gib']:7.2f} {measured:7.2f} {ratio:7.3f} "
        f"{row['predicted_used_gib']:7.2f} {used:7.2f} {row['predicted_s']:8.3f} {row['measured_s']:8.3f}"
        f"  {row['row_s']:4.0f} s"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    both = [row for row in rows if row.get("measured_gib")]
    ratios = [row["predicted_gib"] / row["measured_gib"] for row in both]
    near = sum(abs(ratio - 1) <= 0.10 for ratio in ratios)
    low = sum(ratio < 0.85 for ratio in ratios)
    verdicts = [row for row in rows if "fits" in row]
    right = sum(row["fits"] == row["predicted_fits"] for row in verdicts)
    times = [row["predicted_s"] / row["measured_s"] for row in both if row["measured_s"]]
    timely = sum(abs(ratio - 1) <= 0.20 for ratio in times)
    return (
        f"{len(both)} rows measured: {near} within 10 %, {low} more than 15 % under; fits or not right in {right} of "
        f"{len(verdicts)}; seconds within 20 % in {timely} of {len(times)}; {len(rows) - len(verdicts)} failed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="toy shapes, for a CPU")
    parser.add_argument("--seconds", type=float, default=570, help="after which nothing more starts")
    parser.add_argument("--only", default="", help="rows whose name has this word")
    parser.add_argument("--out", type=Path, help="JSON lines, one for each row, as they come")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(json.loads(arguments.worker))
    jobs = [job for job in (TINY if arguments.tiny else JOBS) if arguments.only in name_of(job)]
    until = time.monotonic() + arguments.seconds
    rows: list[dict[str, Any]] = []

    def take(row: dict[str, Any]) -> None:
        rows.append(row)
        print(line_of(row), flush=True)
        if row.get("trace") and arguments.tiny:
            print(row["trace"], flush=True)
        if arguments.out:
            with arguments.out.open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    print(f"{'row':52} plan GiB    seen   ratio    used    seen  plan s   seen s", flush=True)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        # DeepSpeed's engine is never freed whole, nor is vLLM's, so each of their rows has a process of its own. So has
        # the row that is compiled, which comes last, since it takes longest.
        profile = job.get("profile", "process")
        alone = job.get("compile") or job.get("vllm") or profile != "process"
        key = (profile, job["kind"], name_of(job) if alone else "")
        groups.setdefault(key, []).append(job)
    for group in groups.values():
        run_group(group, arguments.tiny, until, take)
    print(summary(rows), flush=True)


if __name__ == "__main__":
    main()

"""The process that bench_grpo.py and bench_rl_cpu.py start: one trainer, stock TRL's or r1pipe's.

Both sides get the same prompts, the same number of tokens for each response and the same 0/1 rewards, all drawn from
the seed and the rollout's number. Both are timed by the same wrappers, from outside; r1pipe's own seconds/... come
beside them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from forced_lengths import force_lengths
from grpo_shape import RUN, Shape, build_checkpoint, seeded_reward
from transformers import TrainerCallback

GENERATION, SYNC, LOGPS, REWARD = "generation", "sync", "logps", "reward"


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timing(TrainerCallback):
    """Seconds of each update and of its parts, from outside; warm-up steps are not kept."""

    def __init__(self, trainer: Any, warm: int, budget: float) -> None:
        self.trainer, self.warm, self.until = trainer, warm, time.monotonic() + budget
        self.steps: list[dict[str, float]] = []
        self.parts: dict[str, float] = {}
        self.last = 0.0
        self._wrap(trainer, "_generate_single_turn", GENERATION)
        self._wrap(trainer, "_calculate_rewards", REWARD)
        self._wrap(trainer, "_get_per_token_logps_and_entropies", LOGPS, lambda: not torch.is_grad_enabled())
        if trainer.use_vllm:
            self._wrap(trainer.vllm_generation, "sync_weights", SYNC)
        score = trainer._generate_and_score_completions

        def counted(inputs: Any) -> Any:
            output = score(inputs)
            groups = output["advantages"].view(-1, RUN.shape.group)
            assert (groups.abs().amax(1) > 0).all(), "every group has signal"
            self.parts["tokens"] = float(output["completion_mask"].sum())
            ratio = output.get("importance_sampling_ratio")
            if ratio is not None:
                self.parts["masked"] = (ratio == 0).float().mean().item()
            return output

        trainer._generate_and_score_completions = counted

    def _wrap(self, holder: Any, name: str, part: str, when: Any = lambda: True) -> None:
        function = getattr(holder, name)

        def timed(*args: Any, **more: Any) -> Any:
            if not when():
                return function(*args, **more)
            started = now()
            try:
                return function(*args, **more)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + now() - started

        setattr(holder, name, timed)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        RUN.rollout = state.global_step // RUN.shape.minibatches
        if not self.last:
            self.last = now()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self.steps and logs and "loss" in logs:
            chosen = ("sampling/", "seconds/", "tokens_per_second", "loss", "grad_norm", "kl", "entropy")
            self.steps[-1]["log"] = {k: v for k, v in logs.items() if k.startswith(chosen)}  # type: ignore[assignment]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % RUN.shape.minibatches:
            return
        ended = now()
        step = {"seconds": ended - self.last, **self.parts}
        step[GENERATION] = step.get(GENERATION, 0.0) - step.get(SYNC, 0.0)
        step["everything but generation"] = step["seconds"] - step[GENERATION]
        expected = sum(RUN.shape.lengths(RUN.rollout))
        step["expected tokens"] = float(expected)
        self.parts, self.last = {}, ended
        self.steps.append(step)
        print(json.dumps({k: round(v, 3) for k, v in step.items()}), flush=True)
        timed = len(self.steps) - self.warm
        if timed >= 1 and time.monotonic() + step["seconds"] > self.until:
            control.should_training_stop = True


# --- the sides --------------------------------------------------------------------------------------------------------


def stock(shape: Shape, checkpoint: Path, work: Path, steps: int, vllm: bool) -> Any:
    """TRL's GRPOTrainer with R1's numbers and otherwise TRL's defaults."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    gpu = torch.cuda.is_available()
    share = shape.rows // shape.minibatches
    microbatch = min(shape.trl_microbatch, share)
    accumulate = share // microbatch
    more: dict[str, Any] = {}
    if vllm:
        more = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": shape.vllm_memory}
        more["vllm_max_model_length"] = shape.prompt_tokens + shape.cap
    args = GRPOConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=accumulate * shape.minibatches,
        gradient_checkpointing=shape.trl_checkpointing,
        num_generations=shape.group,
        max_completion_length=shape.cap,
        max_steps=steps * shape.minibatches,
        learning_rate=3e-6,
        lr_scheduler_type="constant",
        beta=0.001,
        epsilon=10.0,
        loss_type="grpo",
        use_bias_correction_kl=False,
        temperature=1.0,
        bf16=gpu,
        use_cpu=not gpu,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    return GRPOTrainer(
        model=str(checkpoint),
        reward_funcs=seeded_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": shape.texts(steps)}),
        processing_class=AutoTokenizer.from_pretrained(checkpoint, padding_side="left"),
    )


def ours(shape: Shape, checkpoint: Path, work: Path, steps: int, rollout: str) -> Any:
    """The trainer that train_grpo makes, R1's numbers."""
    from r1pipe.here import Here
    from r1pipe.models.loading import load_tokenizer
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.training.callbacks import Heldout
    from r1pipe.training.grpo.grpo_training import make_trainer

    (work / "r1pipe").mkdir(parents=True, exist_ok=True)
    here = Here("bench", work / "r1pipe", work / "metrics.jsonl", work / "progress.jsonl")
    more: dict[str, Any] = {}
    if torch.cuda.is_available():
        more["compile"] = shape.compiled  # as the default does in a run of 50 updates
    if rollout == "vllm":
        more["vllm"] = {"memory": shape.vllm_memory, "max_model_length": shape.prompt_tokens + shape.cap}
    params = GRPOParams(
        lr=3e-6,
        num_generations=shape.group,
        batch_size=shape.rows // shape.minibatches,
        minibatches_per_rollout=shape.minibatches,
        rollout=rollout,  # type: ignore[arg-type]
        microbatch_tokens=shape.microbatch_tokens,  # type: ignore[arg-type]
        eval_prompts=0,
        phases=[
            Phase(
                steps=steps * shape.minibatches,
                max_tokens=shape.cap,
                rewards=[RewardSpec(name="grpo_shape:seeded_reward")],
            )
        ],
        **more,
    )
    rows = [
        {"id": str(i), "prompt": text, "domain": "math", "language": "en"}
        for i, text in enumerate(shape.texts(steps))
    ]
    tokenizer = load_tokenizer(checkpoint)
    trainer, _ = make_trainer(
        checkpoint=checkpoint,
        rows=rows,
        prompts={"prompts": rows},
        params=params,
        template="{prompt}",
        tokenizer=tokenizer,
        watch=Heldout([], [], here, params),
        here=here,
        seed=0,
    )
    return trainer


def run_side(
    side: str, shape: Shape, work: Path, steps: int, warm: int, budget: float, short_warm_up: bool
) -> dict[str, Any]:
    """Train for warm + steps updates; what was measured.

    Args:
        short_warm_up: responses of the warm-up have at most 64 tokens.
    """
    began = time.monotonic()
    RUN.shape = shape
    checkpoint = build_checkpoint(work / "checkpoint", shape)
    name, _, how = side.partition("+")
    make = {
        "trl": lambda: stock(shape, checkpoint, work, warm + steps, how == "vllm"),
        "r1pipe": lambda: ours(shape, checkpoint, work, warm + steps, how),
    }
    trainer = make[name]()
    timing = Timing(trainer, warm, budget - (time.monotonic() - began))

    def lengths() -> list[int]:
        drawn = shape.lengths(RUN.rollout)
        return [min(64, length) for length in drawn] if short_warm_up and RUN.rollout < warm else drawn

    force_lengths(trainer, lengths)
    trainer.callback_handler.callbacks.insert(0, timing)
    loaded = time.monotonic() - began
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    more = {}
    if name == "r1pipe":
        more = {"microbatch_tokens": trainer.pack_budget.tokens, "packed": trainer.log_probs.packed}
    return {
        "side": side,
        "warm_up": timing.steps[:warm],
        "steps": timing.steps[warm:],
        "loading_s": loaded,
        "peak_gib": peak,
        "shape": asdict(shape),
        **more,
    }

"""The stage of bench_grpo_scaling.py: timed updates of GRPO on this rank's share of drawn lengths and rewards."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field

from r1pipe.artifacts import Checkpoint, Report
from r1pipe.here import Here
from r1pipe.schema import Ports, StageConfig

BENCH = str(Path(__file__).parent)


class Inputs(Ports):
    model: Checkpoint


class Outputs(Ports):
    report: Report


class Config(StageConfig):
    shape: dict[str, Any]
    rollout: str = "vllm"
    steps: int = Field(default=3, ge=1, description="timed updates, after two that warm up")


SHARE = slice(0, 0)  # this rank's responses of a rollout


def rank_reward(completions: list[Any], **columns: Any) -> list[float]:
    """The rollout's rewards, of this rank's responses."""
    from grpo_shape import RUN

    return RUN.shape.rewards(RUN.rollout)[SHARE]


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    global SHARE
    sys.path[:0] = [path for path in (BENCH,) if path not in sys.path]
    import torch
    from forced_lengths import force_lengths
    from grpo_shape import RUN, Shape
    from grpo_sides import Timing

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.training.callbacks import Heldout
    from r1pipe.training.grpo.grpo_training import make_trainer

    shape = RUN.shape = Shape(**config.shape)
    assert shape.rows % here.world_size == 0 and shape.rows // here.world_size % shape.group == 0, (
        "whole groups on every rank"
    )
    each = shape.rows // here.world_size
    SHARE = slice(here.rank * each, (here.rank + 1) * each)
    warm, share = 2, SHARE
    more: dict[str, Any] = {}
    if config.rollout == "vllm":
        more = {
            "compile": shape.compiled,
            "vllm": {"memory": shape.vllm_memory, "max_model_length": shape.prompt_tokens + shape.cap},
        }
    reward = RewardSpec(name=f"{__name__}:rank_reward")
    params = GRPOParams(
        lr=3e-6,
        num_generations=shape.group,
        batch_size=shape.rows,
        minibatches_per_rollout=1,
        rollout=config.rollout,  # type: ignore[arg-type]
        microbatch_tokens=shape.microbatch_tokens,  # type: ignore[arg-type]
        eval_prompts=0,
        phases=[Phase(steps=warm + config.steps, max_tokens=shape.cap, rewards=[reward])],
        **more,
    )
    rows = [
        {"id": str(i), "prompt": text, "domain": "math", "language": "en"}
        for i, text in enumerate(shape.texts(warm + config.steps))
    ]
    trainer, _ = make_trainer(
        checkpoint=inputs.model.path,
        rows=rows,
        prompts={"prompts": rows},
        params=params,
        template="{prompt}",
        tokenizer=load_tokenizer(inputs.model.path),
        watch=Heldout([], [], here, params),
        here=here,
        seed=0,
    )
    timing = Timing(trainer, warm, budget=1e9)
    force_lengths(trainer, lambda: shape.lengths(RUN.rollout)[share])
    trainer.callback_handler.callbacks.insert(0, timing)
    began = time.monotonic()
    trainer.train()
    for i, step in enumerate(timing.steps):
        assert step["tokens"] == sum(shape.lengths(i)[share]), (
            f"update {i} trained {step['tokens']} tokens on rank {here.rank}"
        )
    for i, step in enumerate(timing.steps[warm:], warm):
        numbers = {
            name: round(value, 4)
            for name, value in step.items()
            if isinstance(value, float) and name not in ("tokens", "expected tokens")
        }
        here.log(update=i, all_tokens=sum(shape.lengths(i)), **numbers)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    here.log(
        shape=asdict(shape),
        trained_s=round(time.monotonic() - began, 2),
        peak_gib=round(peak, 2),
        microbatch_tokens=trainer.pack_budget.tokens,
    )
    return {"updates": len(timing.steps)}

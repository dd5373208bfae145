"""A trainer on rows of small sums, in float32 unless a test says otherwise: its numbers are compared, on a GPU too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.here import Here
from r1pipe.schema import GRPOParams, Phase

ROWS: list[dict[str, Any]] = [
    {"id": str(i), "prompt": f"what is {i} + 1 ?", "answer": str(i + 1), "domain": "math", "language": "en"}
    for i in range(12)
]


def grpo_params(phase: Phase, **changes: Any) -> GRPOParams:
    """Small batches of two minibatches."""
    fields: dict[str, Any] = {
        "lr": 1e-3,
        "num_generations": 4,
        "batch_size": 16,
        "minibatches_per_rollout": 2,
        "eval_prompts": 0,
        "phases": [phase],
    }
    return GRPOParams(**{**fields, **changes})


def judged_rewards(trainer: Any, texts: list[str], lengths: list[int]) -> Any:
    """The rewards, (B, R), of responses of these lengths to the first row, as TRL gets them."""
    from r1pipe.training.grpo.rollout import OldLogProbs, Rollout

    rollout = Rollout([{"row": 0}] * len(texts), trainer.phase, OldLogProbs.RECOMPUTE)
    rollout.completions = texts
    rollout.completion_ids = [[1] * length for length in lengths]
    with trainer._making(rollout):
        return trainer._calculate_rewards(rollout.examples, ["p"] * len(texts), texts, rollout.completion_ids)


def grpo_trainer(params: GRPOParams, checkpoint: Path, here: Here, **more: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig

    from r1pipe.models.loading import load_model, load_tokenizer
    from r1pipe.training.grpo.arguments import grpo_arguments, token_microbatches
    from r1pipe.training.grpo.grpo_trainer import R1GRPOTrainer

    if params.bf16 == "auto":
        params = params.model_copy(update={"bf16": False})
    return R1GRPOTrainer(
        params=params,
        here=here,
        rows=list(ROWS),
        microbatch_tokens=token_microbatches(params),
        model=load_model(checkpoint, training=True),
        args=GRPOConfig(**grpo_arguments(params, here, 0)),
        train_dataset=Dataset.from_dict(
            {"prompt": [row["prompt"] for row in ROWS], "row": list(range(len(ROWS)))}
        ),
        processing_class=load_tokenizer(checkpoint),
        **more,
    )

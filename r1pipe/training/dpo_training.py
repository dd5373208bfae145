"""Direct preference optimisation with TRL's trainer (arXiv 2305.18290).

Reads     a checkpoint, and pairs (chosen, rejected) of whole responses
Writes    a checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.schema import DPOParams
from r1pipe.text.rendering import asked, chat_ids
from r1pipe.training.reward_model import split_heldout

# Pairs of a forward pass where the config does not say.
MICROBATCH = 16

Row = dict[str, Any]


def train_dpo(
    checkpoint: Path,
    rows: list[Row],
    params: DPOParams,
    *,
    out: Path,
    here: Here,
    seed: int,
) -> dict[str, float]:
    """Train the model to prefer the chosen response of each pair more than it did before.

    Args:
        checkpoint: the model to begin with, which is the reference, too.
        rows: pairs of responses to one prompt (r1pipe/text/rows.py).
        out: the folder for the checkpoint.

    Returns:
        pairs, dropped_too_long, heldout_pairs, and of the held-out pairs: heldout_accuracy (the share whose chosen
        response has gained more than the rejected one), heldout_margin (by how many nats, times beta), heldout_loss.

    Raises:
        InputError: no pair fits max_length, or there are too few prompts to hold some out.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig

    from r1pipe.models.loading import load_model, load_tokenizer, save_trained
    from r1pipe.training.arguments import resume_from
    from r1pipe.training.callbacks import FiniteLoss, MetricsCallback
    from r1pipe.training.dpo_trainer import PreferenceTrainer

    # 1. The pairs that fit, as tokens.
    tokenizer = load_tokenizer(checkpoint)
    train, heldout = split_heldout(rows, params.heldout, seed)
    examples = _examples(train, tokenizer, params.max_length)
    measured = _examples(heldout, tokenizer, params.max_length)
    if not examples or not measured:
        raise InputError(
            f"no pair {'to train on' if measured else 'that is held out'} fits max_length {params.max_length}",
            "dpo.max_length",
            "raise max_length, or bring shorter responses",
        )

    # 2. The trainer. Its arguments come before the models: under ZeRO-3, they are then loaded in shards.
    args = DPOConfig(**_arguments(params, len(examples), here, seed))
    trainer = PreferenceTrainer(
        here=here,
        training=params,
        model=load_model(checkpoint, training=True),
        # In the precision of the policy: both must give the same log-probs before the first update.
        ref_model=load_model(checkpoint, training=True).requires_grad_(False),
        args=args,
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(measured),
        processing_class=tokenizer,
        callbacks=[MetricsCallback(here), FiniteLoss()],
    )
    # metrics.jsonl has all that it would print.
    trainer.remove_callback(PrinterCallback)

    # 3. Train, measure the held-out pairs, and save.
    trainer.train(resume_from_checkpoint=resume_from(here))
    found = trainer.evaluate()
    save_trained(trainer, tokenizer, out, here)
    return {
        "pairs": len(examples),
        "dropped_too_long": len(rows) - len(examples) - len(measured),
        "heldout_pairs": len(measured),
        "heldout_accuracy": round(found["eval_rewards/accuracies"], 4),
        "heldout_margin": round(found["eval_rewards/margins"], 4),
        "heldout_loss": round(found["eval_loss"], 4),
    }


def _arguments(params: DPOParams, examples: int, here: Here, seed: int) -> dict[str, Any]:
    from r1pipe.training.arguments import epoch_arguments

    arguments = epoch_arguments(params, examples, here, seed, microbatch=MICROBATCH)
    return {
        **arguments,
        "per_device_eval_batch_size": arguments["per_device_train_batch_size"],
        "lr_scheduler_type": "linear",
        "beta": params.beta,
        "loss_type": [params.loss_type],
        # Pairs that are too long were left out already.
        "max_length": None,
        **params.trl,
    }


def _examples(pairs: list[Row], tokenizer: Any, max_length: int) -> list[Row]:
    """Token ids of the prompts and of both responses, of the pairs that fit."""
    chosen = _tokens(pairs, "chosen", tokenizer)
    rejected = _tokens(pairs, "rejected", tokenizer)
    examples = []
    for (prompt, better), (_, worse) in zip(chosen, rejected, strict=True):
        if len(prompt) + max(len(better), len(worse)) <= max_length:
            examples.append({"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse})
    return examples


def _tokens(pairs: list[Row], side: str, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of one side's responses."""
    chats = []
    for pair in pairs:
        chats.append([{"role": "user", "content": asked(pair)}, {"role": "assistant", "content": pair[side]}])
    halves = []
    for ids, mask in chat_ids(chats, tokenizer):
        start = mask.index(1)
        halves.append((ids[:start], ids[start:]))
    return halves

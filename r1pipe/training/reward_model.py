"""Reward models: pairwise for helpfulness, pointwise for safety (v2 3.1), and how RL reads them.

A score enters the sum as sigmoid((s - m) / d), with m and d the mean and standard deviation of the scores of held-out
responses (our choice: the paper does not publish how a score is scaled against 0/1 rules).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.schema import RewardModelParams
from r1pipe.text.response import split_response

if TYPE_CHECKING:
    import torch

MICROBATCH = 64
SCORED_AT_ONCE = 256  # the longer the batch, the more equal the lengths in it
CALIBRATION = "calibration.json"


def split_heldout(
    rows: list[dict[str, Any]], share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(train, held out), split by prompt so that no prompt is in both."""
    prompts = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(prompts)
    out = set(prompts[: max(1, round(share * len(prompts)))])
    train, heldout = [r for r in rows if r["prompt"] not in out], [r for r in rows if r["prompt"] in out]
    if not train:
        raise InputError(
            f"{len(prompts)} different prompts leave nothing to train on when {share:.0%} are held out",
            "heldout",
            "bring more prompts",
        )
    return train, heldout


def auroc(scores: list[float], labels: list[int]) -> float:
    """The chance that a random positive scores above a random negative, ties half.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    positive, negative = ([s for s, y in zip(scores, labels, strict=True) if y == side] for side in (1, 0))
    if not positive or not negative:
        return float("nan")
    return sum((p > n) + 0.5 * (p == n) for p in positive for n in negative) / (len(positive) * len(negative))


def summary_of(response: str) -> str:
    """What the helpful reward reads: the final summary only (v2 3.1)."""
    return split_response(response).summary


def _classifier(checkpoint: Path, *, training: bool, seed: int = 0) -> Any:
    """The checkpoint's body with a scalar head; float32 while training. Under ZeRO-3 it is cut up if the trainer's arguments were made before.

    Args:
        seed: of the head, where the checkpoint has none: it is drawn here, before the trainer seeds anything.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, set_seed

    from r1pipe.models.loading import own_device
    from r1pipe.models.sharding import gather_by_layer

    if training:
        set_seed(seed)
    gpu = torch.cuda.is_available()
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=1, dtype=torch.bfloat16 if gpu and not training else torch.float32
    )
    if not training:
        return model.to(own_device()).eval()
    gather_by_layer(model)
    return model


def _chat(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _ids(rows: list[tuple[str, str]], tokenizer: Any) -> list[list[int]]:
    """Token ids of whole conversations, (prompt, response) each."""
    return tokenizer.apply_chat_template([_chat(p, r) for p, r in rows], tokenize=True, return_dict=True)["input_ids"]


class Scorer:
    """A frozen reward model: raw scores, or scores scaled for RL. One is loaded a rank, outside the policy's sharding."""

    def __init__(self, folder: Path) -> None:
        from r1pipe.models.loading import load_tokenizer

        self.model = _classifier(folder, training=False)
        self.tokenizer = load_tokenizer(folder)
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        path = folder / CALIBRATION
        if not path.is_file():
            raise InputError(
                f"the reward model has no {CALIBRATION}",
                str(folder),
                'train it with r1pipe, or write {"m": mean, "d": standard deviation} of its scores there',
            )
        self.calibration = json.loads(path.read_text())

    def raw(self, prompts: list[str], responses: list[str]) -> list[float]:
        """One score a response, in order."""
        return raw_scores(self.model, self.tokenizer, list(zip(prompts, responses, strict=True)))

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Scores in (0, 1): sigmoid((s - m) / d)."""
        import torch

        raw = torch.tensor(self.raw(prompts, responses))
        return torch.sigmoid((raw - self.calibration["m"]) / self.calibration["d"]).tolist()


def raw_scores(model: Any, tokenizer: Any, rows: list[tuple[str, str]]) -> list[float]:
    """The head's output for (prompt, response) rows, (N,)."""
    import torch

    if not rows:
        return []
    ids = _ids(rows, tokenizer)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    scores = [0.0] * len(ids)
    model.config.pad_token_id = tokenizer.pad_token_id
    training = model.training
    model.eval()
    for start in range(0, len(order), SCORED_AT_ONCE):
        batch = order[start : start + SCORED_AT_ONCE]
        padded = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt", padding_side="right").to(
            model.device
        )
        with torch.no_grad():
            logits_B1 = model(**padded).logits
        for i, score in zip(batch, logits_B1.float().squeeze(-1).tolist(), strict=True):
            scores[i] = score
    model.train(training)
    return scores


def _publish(trainer: Any, tokenizer: Any, out: Path, here: Here, heldout_scores: torch.Tensor) -> None:
    from r1pipe.models.loading import save_trained

    save_trained(trainer, tokenizer, out, here)
    if here.main:
        calibration = {
            "m": heldout_scores.mean().item(),
            "d": max(1e-6, heldout_scores.std().item()),
            "n": len(heldout_scores),
        }
        (out / CALIBRATION).write_text(json.dumps(calibration))


def train_pairwise(
    checkpoint: Path, rows: list[dict[str, Any]], params: RewardModelParams, out: Path, here: Here, seed: int
) -> dict[str, float]:
    """The helpful reward model, on summaries, with TRL's RewardTrainer (-log sigmoid(chosen - rejected)).

    Returns:
        pairs, heldout_pairs, heldout_accuracy (ordered as the pair says), length_accuracy (a rule that prefers the longer summary, beside it).
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.training.arguments import common_arguments, resume_from, split_batch
    from r1pipe.training.callbacks import MetricsCallback

    tokenizer = load_tokenizer(checkpoint)
    train, heldout = split_heldout(rows, params.heldout, seed)
    microbatch, accumulate = split_batch(params.batch_size, here.world_size, params.microbatch, MICROBATCH)
    sides = {
        side: _ids([(row["prompt"], summary_of(row[side])) for row in train], tokenizer)
        for side in ("chosen", "rejected")
    }
    fits = [
        i for i in range(len(train)) if max(len(sides["chosen"][i]), len(sides["rejected"][i])) <= params.max_length
    ]
    if not fits:
        raise InputError(f"no pair fits max_length {params.max_length}", "rm.max_length", "raise max_length")
    steps = max(1, round(len(fits) * params.epochs / params.batch_size))
    args = RewardConfig(
        **{
            **common_arguments(params, here, seed, steps),
            "per_device_train_batch_size": microbatch,
            "gradient_accumulation_steps": accumulate,
            "max_steps": steps,
            "lr_scheduler_type": "cosine",
            "max_length": None,
            **params.trl,
        }
    )
    trainer = RewardTrainer(
        model=_classifier(checkpoint, training=True, seed=seed),
        args=args,
        train_dataset=Dataset.from_dict(
            {"chosen_ids": [sides["chosen"][i] for i in fits], "rejected_ids": [sides["rejected"][i] for i in fits]}
        ),
        processing_class=tokenizer,
        callbacks=[MetricsCallback(here)],
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    trainer.train(resume_from_checkpoint=resume_from(here))
    model = trainer.accelerator.unwrap_model(trainer.model)
    scores = {
        side: torch.tensor(raw_scores(model, tokenizer, [(r["prompt"], summary_of(r[side])) for r in heldout]))
        for side in ("chosen", "rejected")
    }
    _publish(trainer, tokenizer, out, here, torch.cat(list(scores.values())))
    longer = [len(summary_of(r["chosen"])) - len(summary_of(r["rejected"])) for r in heldout]
    return {
        "pairs": len(fits),
        "dropped_too_long": len(train) - len(fits),
        "heldout_pairs": len(heldout),
        "heldout_accuracy": round((scores["chosen"] > scores["rejected"]).float().mean().item(), 4),
        "length_accuracy": round(sum(0.5 if d == 0 else float(d > 0) for d in longer) / len(longer), 4),
    }


def train_pointwise(
    checkpoint: Path, rows: list[dict[str, Any]], params: RewardModelParams, out: Path, here: Here, seed: int
) -> dict[str, float]:
    """The safety reward model: one logit on the whole response, binary cross-entropy (v2 3.1: pointwise).

    Returns:
        labels, heldout_labels, heldout_accuracy, heldout_auroc.

    Raises:
        InputError: only one of the two classes is there, or no row fits max_length.
    """
    import torch
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.training.arguments import common_arguments, resume_from, split_batch
    from r1pipe.training.callbacks import MetricsCallback

    classes = {int(row["safe"]) for row in rows}
    if classes != {0, 1}:
        raise InputError(
            "the safety labels are all the same", "labels", "bring responses of both kinds, safe (1) and unsafe (0)"
        )
    tokenizer = load_tokenizer(checkpoint)
    train, heldout = split_heldout(rows, params.heldout, seed)
    microbatch, accumulate = split_batch(params.batch_size, here.world_size, params.microbatch, MICROBATCH)
    encoded = [
        {"input_ids": ids, "labels": float(row["safe"])}
        for ids, row in zip(_ids([(r["prompt"], r["response"]) for r in train], tokenizer), train, strict=True)
    ]
    kept = [row for row in encoded if len(row["input_ids"]) <= params.max_length]
    if not kept:
        raise InputError(f"no response fits max_length {params.max_length}", "rm.max_length", "raise max_length")
    steps = max(1, round(len(kept) * params.epochs / params.batch_size))

    class Pointwise(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            safe_B = inputs.pop("labels").float()
            out = model(**inputs)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out.logits.squeeze(-1).float(), safe_B)
            return (loss, out) if return_outputs else loss

    args = TrainingArguments(
        **{
            **common_arguments(params, here, seed, steps),
            "per_device_train_batch_size": microbatch,
            "gradient_accumulation_steps": accumulate,
            "max_steps": steps,
            "lr_scheduler_type": "cosine",
            "train_sampling_strategy": "group_by_length",
            "average_tokens_across_devices": False,
            **params.trl,
        }
    )
    model = _classifier(checkpoint, training=True, seed=seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"
    trainer = Pointwise(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(kept),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[MetricsCallback(here)],
    )
    trainer.model_accepts_loss_kwargs = (
        False  # the loss is a mean over the microbatch, so the trainer divides by the accumulation
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    trainer.train(resume_from_checkpoint=resume_from(here))
    model = trainer.accelerator.unwrap_model(trainer.model)
    scores = torch.tensor(raw_scores(model, tokenizer, [(r["prompt"], r["response"]) for r in heldout]))
    truth = torch.tensor([float(r["safe"]) for r in heldout])
    _publish(trainer, tokenizer, out, here, scores)
    return {
        "labels": len(kept),
        "dropped_too_long": len(encoded) - len(kept),
        "heldout_labels": len(heldout),
        "heldout_accuracy": round(((scores > 0).float() == truth).float().mean().item(), 4),
        "heldout_auroc": round(auroc(scores.tolist(), [int(r["safe"]) for r in heldout]), 4),
    }

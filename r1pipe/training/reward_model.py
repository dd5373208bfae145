"""Reward models: pairwise for helpfulness, pointwise for safety (v2 3.1), and how RL reads them.

Reads     a checkpoint, and pairs (chosen, rejected) or labels (safe, unsafe)
Writes    a checkpoint with a scalar head, and calibration.json beside it

A score s enters the sum of rewards as sigmoid((s - m) / d), where m and d are the mean and the standard deviation of
the scores of held-out responses. This is our choice: the paper does not publish how a score is scaled against rewards
that are 0 or 1.

Shapes: N rows.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.schema import RewardModelParams
from r1pipe.text.rendering import asked, conversation_ids
from r1pipe.text.response import split_response

if TYPE_CHECKING:
    import torch

# Sequences of a forward pass where the config does not say.
MICROBATCH = 64

# Sequences of a forward pass that only scores.
SCORING_BATCH = 256

CALIBRATION = "calibration.json"

Row = dict[str, Any]


# --- training ---------------------------------------------------------------------------------------------------------


def train_pairwise(
    checkpoint: Path,
    rows: list[Row],
    params: RewardModelParams,
    *,
    out: Path,
    here: Here,
    seed: int,
) -> dict[str, float]:
    """Train the helpful reward model, on summaries, with TRL's RewardTrainer: -log sigmoid(chosen - rejected).

    Args:
        checkpoint: the model whose body it begins with.
        rows: pairs of responses to one prompt (r1pipe/text/rows.py).
        out: the folder for the reward model.

    Returns:
        pairs, dropped_too_long, heldout_pairs, heldout_accuracy (the share of held-out pairs that it orders as they
        say), length_accuracy (the same share for a rule that prefers the longer summary).

    Raises:
        InputError: no pair fits max_length, or there are too few prompts to hold some out.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import RewardConfig

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.training.arguments import resume_from
    from r1pipe.training.callbacks import FiniteLoss, MetricsCallback
    from r1pipe.training.reward_trainers import PairwiseTrainer

    # 1. The pairs that fit, as tokens.
    tokenizer = load_tokenizer(checkpoint)
    train, heldout = split_heldout(rows, params.heldout, seed)
    chosen_ids = _ids(_summaries(train, "chosen"), tokenizer)
    rejected_ids = _ids(_summaries(train, "rejected"), tokenizer)
    examples = []
    for chosen, rejected in zip(chosen_ids, rejected_ids, strict=True):
        if max(len(chosen), len(rejected)) <= params.max_length:
            examples.append({"chosen_ids": chosen, "rejected_ids": rejected})
    if not examples:
        raise InputError(f"no pair fits max_length {params.max_length}", "rm.max_length", "raise max_length")

    # 2. The trainer. Its arguments come before the model: under ZeRO-3, the model is then loaded in shards.
    arguments = _arguments(params, len(examples), here, seed)
    args = RewardConfig(**{**arguments, "max_length": None, **params.trl})
    trainer = PairwiseTrainer(
        here=here,
        training=params,
        model=_classifier(checkpoint, training=True, seed=seed),
        args=args,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        callbacks=[MetricsCallback(here), FiniteLoss()],
    )
    # metrics.jsonl has all that it would print.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_from(here))

    # 3. Score the held-out pairs, save, and say how well they are ordered.
    model = trainer.accelerator.unwrap_model(trainer.model)
    chosen_N = torch.tensor(raw_scores(model, tokenizer, _summaries(heldout, "chosen")))
    rejected_N = torch.tensor(raw_scores(model, tokenizer, _summaries(heldout, "rejected")))
    _save(trainer, tokenizer, out, here, torch.cat([chosen_N, rejected_N]))
    return {
        "pairs": len(examples),
        "dropped_too_long": len(train) - len(examples),
        "heldout_pairs": len(heldout),
        "heldout_accuracy": round((chosen_N > rejected_N).float().mean().item(), 4),
        "length_accuracy": round(_length_accuracy(heldout), 4),
    }


def train_pointwise(
    checkpoint: Path,
    rows: list[Row],
    params: RewardModelParams,
    *,
    out: Path,
    here: Here,
    seed: int,
) -> dict[str, float]:
    """Train the safety reward model: one logit on the whole response, binary cross-entropy (v2 3.1: pointwise).

    Args:
        checkpoint: the model whose body it begins with.
        rows: responses with the label `safe`, 1 or 0 (r1pipe/text/rows.py).
        out: the folder for the reward model.

    Returns:
        labels, dropped_too_long, heldout_labels, heldout_accuracy, heldout_auroc (the chance that a safe held-out
        response scores above an unsafe one), length_auroc (the same for a rule that prefers the shorter response).

    Raises:
        InputError: one of the two labels does not occur, no response fits max_length, or there are too few prompts to
            hold some out.
    """
    import torch
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, PrinterCallback, TrainingArguments

    from r1pipe.models.loading import load_tokenizer
    from r1pipe.training.arguments import resume_from
    from r1pipe.training.callbacks import FiniteLoss, MetricsCallback
    from r1pipe.training.reward_trainers import PointwiseTrainer

    if {int(row["safe"]) for row in rows} != {0, 1}:
        raise InputError(
            "the safety labels are all the same",
            "labels",
            "bring responses of both kinds, safe (1) and unsafe (0)",
        )

    # 1. The responses that fit, as tokens.
    tokenizer = load_tokenizer(checkpoint)
    train, heldout = split_heldout(rows, params.heldout, seed)
    examples = []
    for row, ids in zip(train, _ids(_responses(train), tokenizer), strict=True):
        if len(ids) <= params.max_length:
            examples.append({"input_ids": ids, "labels": float(row["safe"])})
    if not examples:
        raise InputError(
            f"no response fits max_length {params.max_length}", "rm.max_length", "raise max_length"
        )

    # 2. The trainer. Its arguments come before the model: under ZeRO-3, the model is then loaded in shards.
    grouping = {"train_sampling_strategy": "group_by_length", "average_tokens_across_devices": False}
    args = TrainingArguments(**{**_arguments(params, len(examples), here, seed), **grouping, **params.trl})
    model = _classifier(checkpoint, training=True, seed=seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    # The head reads the last token that is not padding.
    tokenizer.padding_side = "right"
    trainer = PointwiseTrainer(
        here=here,
        training=params,
        model=model,
        args=args,
        train_dataset=Dataset.from_list(examples),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[MetricsCallback(here), FiniteLoss()],
    )
    # metrics.jsonl has all that it would print.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_from(here))

    # 3. Score the held-out responses, save, and say how well they are told apart.
    model = trainer.accelerator.unwrap_model(trainer.model)
    scores_N = torch.tensor(raw_scores(model, tokenizer, _responses(heldout)))
    labels = [int(row["safe"]) for row in heldout]
    safe_N = torch.tensor(labels, dtype=torch.float32)
    shortness = [-float(len(row["response"])) for row in heldout]
    _save(trainer, tokenizer, out, here, scores_N)
    return {
        "labels": len(examples),
        "dropped_too_long": len(train) - len(examples),
        "heldout_labels": len(heldout),
        "heldout_accuracy": round(((scores_N > 0).float() == safe_N).float().mean().item(), 4),
        "heldout_auroc": round(auroc(scores_N.tolist(), labels), 4),
        "length_auroc": round(auroc(shortness, labels), 4),
    }


def _arguments(params: RewardModelParams, examples: int, here: Here, seed: int) -> dict[str, Any]:
    """The trainer's arguments that both kinds of reward models share."""
    from r1pipe.training.arguments import epoch_arguments

    arguments = epoch_arguments(params, examples, here, seed, microbatch=MICROBATCH)
    return {**arguments, "lr_scheduler_type": "cosine"}


def _classifier(checkpoint: Path, *, training: bool, seed: int = 0) -> Any:
    """The checkpoint's body with a scalar head; in float32 while it is trained.

    Under ZeRO-3 it is sharded, if the trainer's arguments were made before.

    Args:
        seed: of the head, where the checkpoint has none. It is drawn here, before the trainer seeds anything.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, set_seed

    from r1pipe.models.loading import load_weights, own_device
    from r1pipe.models.sharding import gather_by_layer

    # A frozen model only scores, so on a GPU it is in half precision, and no head is drawn.
    if training:
        set_seed(seed)
    in_half = torch.cuda.is_available() and not training
    dtype = torch.bfloat16 if in_half else torch.float32
    model = load_weights(
        AutoModelForSequenceClassification, checkpoint, new_head=training, num_labels=1, dtype=dtype
    )
    if not training:
        return model.to(own_device()).eval()
    gather_by_layer(model)
    return model


def _save(trainer: Any, tokenizer: Any, out: Path, here: Here, heldout_scores_N: torch.Tensor) -> None:
    """Save the reward model and the calibration of its scores. Every rank must call it."""
    from r1pipe.models.loading import save_trained

    save_trained(trainer, tokenizer, out, here)
    if not here.main:
        return
    calibration = {
        "m": heldout_scores_N.mean().item(),
        # A model that scores all responses the same must not divide by zero.
        "d": max(1e-6, heldout_scores_N.std().item()),
        "n": len(heldout_scores_N),
    }
    (out / CALIBRATION).write_text(json.dumps(calibration))


# --- scoring ----------------------------------------------------------------------------------------------------------


class Scorer:
    """A frozen reward model: raw scores, or scores scaled for RL.

    Each rank loads one of its own, outside the policy's sharding.

    Raises:
        InputError: the folder has no calibration.
    """

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
        self.calibration = _read_calibration(path)

    def raw(self, prompts: list[str], responses: list[str]) -> list[float]:
        """One score a response, in order."""
        return raw_scores(self.model, self.tokenizer, list(zip(prompts, responses, strict=True)))

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Scores in (0, 1): sigmoid((s - m) / d)."""
        import torch

        raw_N = torch.tensor(self.raw(prompts, responses))
        return torch.sigmoid((raw_N - self.calibration["m"]) / self.calibration["d"]).tolist()


def _read_calibration(path: Path) -> dict[str, float]:
    """The mean `m` and the deviation `d` of a reward model's scores."""
    try:
        read = json.loads(path.read_text(encoding="utf8"))
        calibration = {name: float(read[name]) for name in ("m", "d")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the calibration cannot be read: {type(error).__name__}: {error}"
        raise InputError(
            what, str(path), 'it is {"m": mean, "d": standard deviation} of the scores'
        ) from None
    if not calibration["d"] > 0 or not math.isfinite(sum(calibration.values())):
        raise InputError(
            f"the calibration is {calibration}", str(path), "m and d are finite, and d is above 0"
        )
    return calibration


def raw_scores(model: Any, tokenizer: Any, conversations: list[tuple[str, str]]) -> list[float]:
    """The head's outputs for (prompt, response) pairs, in their order."""
    import torch

    if not conversations:
        return []
    ids = _ids(conversations, tokenizer)
    # Batches of similar length have little padding.
    shortest_first = sorted(range(len(ids)), key=lambda place: len(ids[place]))

    scores = [0.0] * len(ids)
    model.config.pad_token_id = tokenizer.pad_token_id
    was_training = model.training
    model.eval()
    for start in range(0, len(ids), SCORING_BATCH):
        batch = shortest_first[start : start + SCORING_BATCH]
        unpadded = {"input_ids": [ids[place] for place in batch]}
        padded = tokenizer.pad(unpadded, return_tensors="pt", padding_side="right").to(model.device)
        with torch.no_grad():
            logits_B1 = model(**padded).logits
        for place, score in zip(batch, logits_B1.float().squeeze(-1).tolist(), strict=True):
            scores[place] = score
    model.train(was_training)
    return scores


def _ids(conversations: list[tuple[str, str]], tokenizer: Any) -> list[list[int]]:
    """Token ids of whole conversations, (prompt, response) each."""
    chats = []
    for prompt, response in conversations:
        chats.append([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    return conversation_ids(chats, tokenizer)


def summary_of(response: str) -> str:
    """The part of a response that the helpful reward reads: the final summary only (v2 3.1)."""
    return split_response(response).summary


def _summaries(pairs: list[Row], side: str) -> list[tuple[str, str]]:
    """Prompts with the summaries of one side: chosen or rejected."""
    return [(asked(row), summary_of(row[side])) for row in pairs]


def _responses(labels: list[Row]) -> list[tuple[str, str]]:
    """Prompts with whole responses."""
    return [(asked(row), row["response"]) for row in labels]


# --- held-out rows ----------------------------------------------------------------------------------------------------


def split_heldout(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Split rows by prompt, so that no prompt is on both sides.

    Returns:
        the rows to train on, and the held-out rows.

    Raises:
        InputError: nothing would be left to train on.
    """
    # Sorted, since the order of a set is not that of the rows.
    prompts = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(prompts)
    heldout_prompts = set(prompts[: max(1, round(share * len(prompts)))])
    train = [row for row in rows if row["prompt"] not in heldout_prompts]
    heldout = [row for row in rows if row["prompt"] in heldout_prompts]
    if not train:
        raise InputError(
            f"{len(prompts)} different prompts leave nothing to train on when {share:.0%} are held out",
            "heldout",
            "bring more prompts",
        )
    return train, heldout


def auroc(scores: list[float], labels: list[int]) -> float:
    """The chance that a random positive scores above a random negative, where ties count one half.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    positives = [score for score, label in zip(scores, labels, strict=True) if label == 1]
    negatives = [score for score, label in zip(scores, labels, strict=True) if label == 0]
    if not positives or not negatives:
        return float("nan")
    wins = 0.0
    for positive in positives:
        for negative in negatives:
            wins += (positive > negative) + 0.5 * (positive == negative)
    return wins / (len(positives) * len(negatives))


def _length_accuracy(pairs: list[Row]) -> float:
    """The share of pairs whose chosen summary is the longer one, where equal lengths count one half."""
    wins = 0.0
    for row in pairs:
        difference = len(summary_of(row["chosen"])) - len(summary_of(row["rejected"]))
        if difference == 0:
            wins += 0.5
        elif difference > 0:
            wins += 1.0
    return wins / len(pairs)

"""Pretraining of the small bases: documents to packed rows, rows to a model, and how well that model answers.

Departs from the paper, which begins with DeepSeek-V3-Base: everything here is our choice.

Shapes: N rows, T tokens a row.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.text.response import ANSWER_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    import numpy as np

# Documents that one worker writes and encodes at a time. The seed of each shard follows from its number, so the
# documents do not depend on the number of workers.
SHARD = 20_000

# Rows of a forward pass where the config does not say.
MICROBATCH = 512

# The learning rate falls to this share of its peak.
LR_END_RATIO = 0.02

# Problems that are answered at the same time, and the longest answer in tokens.
PROBE_BATCH = 512
PROBE_TOKENS = 96


# --- documents --------------------------------------------------------------------------------------------------------


def packed_documents(
    tokenizer_folder: Path, count: int, row_tokens: int, *, seed: int, here: Here
) -> np.ndarray:
    """Documents of the embedded world as token ids, joined and cut into rows of equal length.

    Args:
        count: how many documents are written.
        row_tokens: T.

    Returns:
        rows of shape (N, T), uint16; the last, short row is left out.
    """
    import numpy as np

    tokenizer_file = str(tokenizer_folder / "tokenizer.json")
    jobs = []
    for number, start in enumerate(range(0, count, SHARD)):
        jobs.append((tokenizer_file, min(SHARD, count - start), seed * 1_000_003 + number))

    shards = []
    workers = min(len(jobs), os.cpu_count() or 1)
    # Spawned, not forked: the threads of torch and the tokenizer do not survive a fork. `imap` keeps the order.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, shard in enumerate(pool.imap(_encode_shard, jobs), start=1):
            shards.append(shard)
            here.progress(done, len(jobs), what="documents")
    stream = np.concatenate(shards)
    whole_rows = len(stream) // row_tokens
    return stream[: whole_rows * row_tokens].reshape(-1, row_tokens)


def _encode_shard(job: tuple[str, int, int]) -> np.ndarray:
    """Write documents and encode them: (the tokenizer's file, how many, their seed) -> token ids end to end."""
    import numpy as np
    from tokenizers import Tokenizer

    from r1pipe.embedded.documents import documents

    tokenizer_file, count, seed = job
    tokenizer = Tokenizer.from_file(tokenizer_file)
    encodings = tokenizer.encode_batch_fast(list(documents(count, seed)), add_special_tokens=False)
    # The vocabulary has about 2,000 words, so 16 bits hold a token.
    return np.concatenate([np.asarray(encoding.ids, dtype=np.uint16) for encoding in encodings])


# --- training ---------------------------------------------------------------------------------------------------------


def train_base(
    folder: Path,
    rows_NT: np.ndarray,
    architecture: Any,
    params: Any,
    *,
    here: Here,
    seed: int,
) -> dict[str, float]:
    """Train a Qwen2 model from random weights on next-token prediction.

    Args:
        folder: holds the tokenizer and takes the model.
        architecture: the sizes of the model (stages/pretrain.py).
        params: of the training (stages/pretrain.py).

    Returns:
        parameters, tokens, steps, loss (the last one).

    Raises:
        ConfigError: the profile shards the weights.
    """
    from transformers import (
        AutoTokenizer,
        PrinterCallback,
        TrainingArguments,
        default_data_collator,
        set_seed,
    )

    from r1pipe.models.loading import check_finite
    from r1pipe.training.arguments import resume_from
    from r1pipe.training.callbacks import FiniteLoss, MetricsCallback
    from r1pipe.training.resumable import ResumableTrainer

    if here.sharded_weights:
        raise ConfigError(
            "pretrain does not shard weights: its models are small",
            "launch.profile",
            "profile: process, ddp or zero2",
        )

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The random weights are drawn when the model is made.
    set_seed(seed)
    model = _new_model(tokenizer, architecture)

    batch_rows = max(1, params.batch_tokens // params.row_tokens)
    updates = max(1, round(len(rows_NT) * params.epochs / batch_rows))
    trainer = ResumableTrainer(
        here=here,
        training=params,
        model=model,
        args=TrainingArguments(**_arguments(params, batch_rows, updates, here, seed)),
        train_dataset=_dataset(rows_NT),
        data_collator=default_data_collator,
        callbacks=[MetricsCallback(here), FiniteLoss()],
    )
    # metrics.jsonl has all that it would print.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_from(here))

    trained: Any = trainer.accelerator.unwrap_model(trainer.model).float()
    # The trainer turned it off, and the saved config would keep it off.
    trained.config.use_cache = True
    if here.main:
        trained.save_pretrained(folder)
        check_finite(folder)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "tokens": int(rows_NT.size * params.epochs),
        "steps": updates,
        "loss": round(losses[-1], 4) if losses else 0.0,
    }


def _new_model(tokenizer: Any, architecture: Any) -> Any:
    """A Qwen2 model with random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.layers,
        intermediate_size=architecture.intermediate_size,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        max_position_embeddings=architecture.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def _dataset(rows_NT: np.ndarray) -> Any:
    """The rows as a dataset of torch. They stay uint16 until they are read, a quarter of the memory of int64."""
    import torch

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows_NT)

        def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
            ids_T = torch.from_numpy(rows_NT[number].astype("int64"))
            return {"input_ids": ids_T, "labels": ids_T}

    return Rows()


def _arguments(params: Any, batch_rows: int, updates: int, here: Here, seed: int) -> dict[str, Any]:
    """The arguments of transformers' Trainer."""
    import torch

    from r1pipe.training.arguments import common_arguments, split_batch

    microbatch, accumulation = split_batch(batch_rows, here, params.microbatch, MICROBATCH)
    return {
        **common_arguments(params, here, seed, updates),
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": updates,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": LR_END_RATIO},
        "logging_steps": 50,
        # An update of these models takes milliseconds on a GPU, so workers prepare the next rows meanwhile.
        "dataloader_num_workers": 4 if torch.cuda.is_available() else 0,
        **params.trl,
    }


# --- what the base can do ---------------------------------------------------------------------------------------------


def headroom(folder: Path, probes: int, seed: int) -> dict[str, float]:
    """How often the base answers held-out reasoning problems correctly.

    It is asked in three ways: as it comes (`base`) and with <think> prefilled (`think`), both at temperature 1, and
    with <think> prefilled and greedily (`think_greedy`).

    Args:
        probes: the number of problems; 0 asks none.

    Returns:
        base_thinks and base_well_formed (shares), and for each of the three ways the accuracy, the mean number of
        tokens, and the accuracy by domain.
    """
    import torch

    from r1pipe.embedded.world import problems
    from r1pipe.models.loading import load_model, load_tokenizer
    from r1pipe.rewards.scoring import correct
    from r1pipe.text.rendering import TEMPLATES, prompt_ids, read_template
    from r1pipe.text.rows import REASONING_DOMAINS

    if not probes:
        return {}
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, training=False)
    rows = problems("dev", REASONING_DOMAINS, probes, seed)
    template = read_template(str(TEMPLATES / "embedded-zero.txt"))
    prompts = prompt_ids([dict(row) for row in rows], template, tokenizer)
    think_ids = tokenizer(THINK_OPEN, add_special_tokens=False)["input_ids"]

    scores: dict[str, float] = {}
    # (name, what is prefilled, temperature)
    ways = [("base", [], 1.0), ("think", think_ids, 1.0), ("think_greedy", think_ids, 0.0)]
    for name, prefix_ids, temperature in ways:
        # Each way draws the same random numbers, so a difference between ways is not one of luck.
        torch.manual_seed(seed)
        response_ids = _respond(model, tokenizer, [ids + prefix_ids for ids in prompts], temperature)
        responses = tokenizer.batch_decode(response_ids, skip_special_tokens=True)
        if prefix_ids:
            responses = [THINK_OPEN + response for response in responses]

        verdicts_of: dict[str, list[float]] = {}
        for row, verdict in zip(rows, correct(responses, rows), strict=True):
            # None: the response could not be judged.
            if verdict is not None:
                verdicts_of.setdefault(row["domain"], []).append(float(verdict))
        verdicts = [verdict for domain in verdicts_of.values() for verdict in domain]

        scores[f"{name}_accuracy"] = round(sum(verdicts) / max(1, len(verdicts)), 4)
        scores[f"{name}_tokens"] = round(sum(len(ids) for ids in response_ids) / len(response_ids), 2)
        for domain, values in verdicts_of.items():
            scores[f"{name}_accuracy/{domain}"] = round(sum(values) / len(values), 4)
        if name == "base":
            thinking = sum(THINK_OPEN in response for response in responses)
            well_formed = sum(response.rstrip().endswith(ANSWER_CLOSE) for response in responses)
            scores["base_thinks"] = round(thinking / len(responses), 4)
            scores["base_well_formed"] = round(well_formed / len(responses), 4)
    return scores


def _respond(model: Any, tokenizer: Any, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    """The token ids of one response to each prompt."""
    from r1pipe.generation.decoding import decode
    from r1pipe.models.loading import end_ids

    responses: list[list[int]] = []
    for start in range(0, len(prompts), PROBE_BATCH):
        responses += decode(
            model,
            prompts[start : start + PROBE_BATCH],
            max_new_tokens=PROBE_TOKENS,
            temperature=temperature,
            eos_ids=end_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
        ).token_ids
    return responses

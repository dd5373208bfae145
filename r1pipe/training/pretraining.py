"""Pretraining of the small bases: documents to packed rows, rows to a model, and what that model can do.

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

SHARD = 20_000  # documents one worker writes and encodes at a time


def _encode_shard(job: tuple[str, int, int]) -> np.ndarray:
    import numpy as np
    from tokenizers import Tokenizer

    from r1pipe.embedded.documents import documents

    path, count, seed = job
    tokenizer = Tokenizer.from_file(path)
    ids = [e.ids for e in tokenizer.encode_batch_fast(list(documents(count, seed)), add_special_tokens=False)]
    return np.concatenate([np.asarray(i, dtype=np.uint16) for i in ids])


def packed_documents(tokenizer_folder: Path, count: int, row_tokens: int, seed: int, here: Here) -> np.ndarray:
    """`count` documents of the world as token ids, (N, T) uint16; the last, short row is left out."""
    import numpy as np

    jobs = [
        (str(tokenizer_folder / "tokenizer.json"), min(SHARD, count - start), seed * 1_000_003 + start // SHARD)
        for start in range(0, count, SHARD)
    ]
    shards = []
    with multiprocessing.get_context("spawn").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        for done, shard in enumerate(pool.imap(_encode_shard, jobs), start=1):
            shards.append(shard)
            here.progress(done, len(jobs), what="documents")
    stream = np.concatenate(shards)
    return stream[: len(stream) // row_tokens * row_tokens].reshape(-1, row_tokens)


def train_base(
    folder: Path, rows_NT: np.ndarray, architecture: Any, params: Any, here: Here, seed: int
) -> dict[str, float]:
    """Train a Qwen2 model from random weights on next-token prediction and write it beside its tokenizer in `folder`."""
    import torch
    from transformers import (
        AutoTokenizer,
        PrinterCallback,
        Qwen2Config,
        Qwen2ForCausalLM,
        Trainer,
        TrainingArguments,
        default_data_collator,
        set_seed,
    )

    from r1pipe.training.arguments import common_arguments, resume_from, split_batch
    from r1pipe.training.callbacks import MetricsCallback

    if here.sharded_weights:
        raise ConfigError(
            "pretrain does not cut up weights: its models are small", "launch.profile", "profile: process, ddp or zero2"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
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
    )

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows_NT)

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            ids_T = torch.from_numpy(rows_NT[i].astype("int64"))
            return {"input_ids": ids_T, "labels": ids_T}

    batch = max(1, params.batch_tokens // params.row_tokens)
    steps = max(1, round(len(rows_NT) * params.epochs / batch))
    microbatch, accumulate = split_batch(batch, here.world_size, params.microbatch, 512)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **{
                **common_arguments(params, here, seed, steps),
                "per_device_train_batch_size": microbatch,
                "gradient_accumulation_steps": accumulate,
                "max_steps": steps,
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr_rate": 0.02},
                "logging_steps": 50,
                "dataloader_num_workers": 4 if torch.cuda.is_available() else 0,
                **params.trl,
            }
        ),
        train_dataset=Rows(),
        data_collator=default_data_collator,
        callbacks=[MetricsCallback(here)],
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    trainer.train(resume_from_checkpoint=resume_from(here))
    model: Any = trainer.accelerator.unwrap_model(trainer.model).float()
    model.config.use_cache = True  # the trainer turned it off
    if here.main:
        model.save_pretrained(folder)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": int(rows_NT.size * params.epochs),
        "steps": steps,
        "loss": round(losses[-1], 4) if losses else 0.0,
    }


def headroom(folder: Path, probes: int, seed: int) -> dict[str, float]:
    """How often the base answers held-out reasoning problems rightly: as it comes and with <think> prefilled, at temperature 1, and greedily.

    Returns:
        base_thinks, base_well_formed (shares), and of base, think and think_greedy: accuracy, tokens, accuracy by domain.
    """
    import torch

    from r1pipe.embedded.world import problems
    from r1pipe.generation.decoding import decode
    from r1pipe.models.loading import end_ids, load_model, load_tokenizer
    from r1pipe.rewards.scoring import correct
    from r1pipe.text.rendering import TEMPLATES, prompt_ids, read_template
    from r1pipe.text.rows import REASONING_DOMAINS

    if not probes:
        return {}
    tokenizer, model = load_tokenizer(folder), load_model(folder, training=False)
    rows = problems("dev", REASONING_DOMAINS, probes, seed)
    template = read_template(str(TEMPLATES / "embedded-zero.txt"))
    asked = prompt_ids([dict(row) for row in rows], template, tokenizer)
    opened = tokenizer(THINK_OPEN, add_special_tokens=False)["input_ids"]
    found: dict[str, float] = {}
    for name, prefix, temperature in (("base", [], 1.0), ("think", opened, 1.0), ("think_greedy", opened, 0.0)):
        torch.manual_seed(seed)
        out: list[list[int]] = []
        for start in range(0, len(rows), 512):
            out += decode(
                model,
                [ids + prefix for ids in asked[start : start + 512]],
                max_new_tokens=96,
                temperature=temperature,
                eos_ids=end_ids(model, tokenizer),
                pad_id=tokenizer.pad_token_id,
            ).token_ids
        texts = [
            (THINK_OPEN if prefix else "") + text for text in tokenizer.batch_decode(out, skip_special_tokens=True)
        ]
        verdicts = correct(texts, rows)
        judged = [(row["domain"], float(v)) for row, v in zip(rows, verdicts, strict=True) if v is not None]
        found[f"{name}_accuracy"] = round(sum(v for _, v in judged) / max(1, len(judged)), 4)
        found[f"{name}_tokens"] = round(sum(map(len, out)) / len(out), 2)
        for domain in dict.fromkeys(d for d, _ in judged):
            of = [v for d, v in judged if d == domain]
            found[f"{name}_accuracy/{domain}"] = round(sum(of) / len(of), 4)
        if not prefix:
            found["base_thinks"] = round(sum(THINK_OPEN in text for text in texts) / len(texts), 4)
            found["base_well_formed"] = round(
                sum(text.rstrip().endswith(ANSWER_CLOSE) for text in texts) / len(texts), 4
            )
    return found

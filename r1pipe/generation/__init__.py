"""Sampling responses: sharded over ranks, appended as they come, resumed where a kill left them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1pipe.here import Here
from r1pipe.schema import Sampling


@dataclass(frozen=True)
class Completion:
    """One response. `text` has no end token; `tokens` counts it; `finished` is False where max_tokens cut it."""

    text: str
    tokens: int
    finished: bool


def sample(
    checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, here: Here, seed: int, label: str = "samples"
) -> list[list[Completion]]:
    """Draw `sampling.n` responses to every row, in row order.

    Rows are sorted by prompt length and cut into batches of at most `sampling.batch_size` sequences; a batch is drawn
    with a seed of its own, so a resumed stage and any number of ranks give the same responses. A batch is a unit: it is
    appended to workdir when it is whole, and a batch that a kill cut short is drawn again.

    Args:
        template: `chat` or the path of a template file (r1pipe/data/render.py).
        label: names the file in workdir; a stage that samples twice uses two.

    Returns:
        The same list on every rank.
    """
    import torch

    from r1pipe.data.render import prompt_ids, read_template
    from r1pipe.generation.decode import decode
    from r1pipe.training.models import end_ids, load_model, load_tokenizer

    if not rows:
        return []
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, training=False)
    ids = prompt_ids(rows, read_template(template), tokenizer)
    order = sorted(range(len(rows)), key=lambda i: (len(ids[i]), i))
    per_batch = max(1, sampling.batch_size // sampling.n)
    batches = [order[i : i + per_batch] for i in range(0, len(order), per_batch)]
    mine = range(here.rank, len(batches), here.world_size)
    ends = end_ids(model, tokenizer)

    part = here.workdir / f"{label}-{here.rank}-of-{here.world_size}.jsonl"
    done = _read_part(part)
    started = time.time()
    with part.open("a", encoding="utf8") as stream:
        for count, b in enumerate(mine):
            if b not in done:
                torch.manual_seed(hash((seed, b)) & 0x7FFFFFFF)
                with torch.inference_mode():
                    out = decode(
                        model,
                        [ids[i] for i in batches[b]],
                        n=sampling.n,
                        max_new_tokens=sampling.max_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        eos_ids=ends,
                        pad_id=tokenizer.pad_token_id,
                    )
                finished = [bool(tokens) and tokens[-1] in ends for tokens in out]
                bodies = [tokens[:-1] if end else tokens for tokens, end in zip(out, finished, strict=True)]
                texts = tokenizer.batch_decode(bodies, skip_special_tokens=True)
                done[b] = [Completion(text, len(tokens), end) for text, tokens, end in zip(texts, out, finished, strict=True)]
                stream.write(json.dumps({"batch": b, "completions": [asdict(c) for c in done[b]]}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            here.progress(count + 1, len(mine), what="sampling", rate=round(sum(map(len, done.values())) / max(1e-6, time.time() - started), 1))
    for rank in range(here.world_size):
        if rank != here.rank:
            done |= _wait_for_part(here.workdir / f"{label}-{rank}-of-{here.world_size}.jsonl", range(rank, len(batches), here.world_size))

    completions: list[list[Completion]] = [[] for _ in rows]
    for b, members in enumerate(batches):
        for position, i in enumerate(members):
            completions[i] = done[b][position * sampling.n : (position + 1) * sampling.n]
    return completions


def _read_part(path: Path) -> dict[int, list[Completion]]:
    """The whole batches in a part file; a last line that a kill cut short is left out and overwritten."""
    if not path.exists():
        return {}
    done, whole = {}, 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            batch = json.loads(line)
            done[batch["batch"]] = [Completion(**c) for c in batch["completions"]]
            whole += len(line)
    with path.open("r+b") as stream:
        stream.truncate(whole)
    return done


def _wait_for_part(path: Path, batches: range) -> dict[int, list[Completion]]:
    """Another rank's batches, once all are there. A rank that dies takes the launcher, and so us, with it."""
    while True:
        if path.exists():
            with path.open("rb") as stream:
                lines = [line for line in stream if line.endswith(b"\n")]
            if len(lines) >= len(batches):
                read = [json.loads(line) for line in lines]
                return {b["batch"]: [Completion(**c) for c in b["completions"]] for b in read}
        time.sleep(0.02)

"""How well the policy answers held-out prompts: one response each, drawn as in a rollout."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from r1pipe.rewards.scoring import correct
from r1pipe.training.stopwatch import Stopwatch


def score(
    trainer: GRPOTrainer,
    stopwatch: Stopwatch,
    rows: list[dict[str, Any]],
    prompt_ids: list[list[int]],
    prefill: str = "",
) -> dict[str, float]:
    """Answer each prompt once; collective, the same on every rank.

    Args:
        rows: what the prompts ask, for their verdicts.
        prompt_ids: token ids of each row's rendered prompt.
        prefill: the beginning of every response that the prompts have already written.

    Returns:
        heldout/accuracy: the share right of what could be judged; heldout/tokens: the mean length of a response.
    """
    rank = trainer.accelerator.process_index
    world_size = trainer.accelerator.num_processes
    # the ranks take the prompts in turn
    own = list(range(rank, len(rows), world_size))
    own_prompts = [prompt_ids[i] for i in own]
    if trainer.use_vllm:
        # TRL cuts the ranks' shares of the responses apart by length: they must be equal, so the short ones are
        # filled up
        share = -(-len(rows) // world_size)
        own_prompts += [prompt_ids[0]] * (share - len(own))

    with stopwatch.outside("heldout"):
        completion_ids = _draw(trainer, own_prompts, seed=trainer.args.seed + 1 + rank)
    completion_ids = completion_ids[: len(own)]
    # every rank scores its own answers
    tokenizer: Any = trainer._tokenizer
    texts: list[Any] = [prefill + tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
    own_verdicts = correct(texts, [rows[i] for i in own])

    # from here on, of all ranks
    own_lengths = [len(ids) for ids in completion_ids]
    responses = gather_object(list(zip(own_verdicts, own_lengths, strict=True)))
    verdicts = [float(verdict) for verdict, _ in responses if verdict is not None]
    lengths = [length for _, length in responses]
    return {
        "heldout/accuracy": sum(verdicts) / max(1, len(verdicts)),
        "heldout/tokens": sum(lengths) / max(1, len(lengths)),
    }


def _draw(
    trainer: GRPOTrainer,
    prompt_ids: list[list[int]],
    seed: int,
) -> list[list[int]]:
    """One response to each prompt."""
    device = trainer.accelerator.device
    # The draws of training must not depend on how often this is called. The CPU's generator is always put back, a GPU's
    # only if it is named.
    generators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(generators, device_type=device.type):
        torch.manual_seed(seed)
        completion_ids, _ = trainer._generate_single_turn(prompt_ids, None, {}, 1)
    return completion_ids

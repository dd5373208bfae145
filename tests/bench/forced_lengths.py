"""Responses of given lengths from every generator: vLLM's, transformers' and r1pipe's own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import LogitsProcessor


class Ends:
    """Which rows end at token t (from 0), and the scores that make them end there and nowhere else."""

    def __init__(self, lengths: list[int], eos_ids: list[int], device: torch.device) -> None:
        self.length_B = torch.tensor(lengths, device=device)
        self.eos = torch.tensor(eos_ids, device=device)

    def take(self, lengths: list[int]) -> None:
        """Of the next rollout, in the same place: a CUDA graph holds it."""
        self.length_B.copy_(torch.tensor(lengths))

    def apply(self, t: Any, rows_B: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Without a look at the GPU's numbers, which would have to wait for it.

        An end that is due has a probability of 1 in any precision.
        """
        scores_BV.index_fill_(
            1, self.eos, -torch.inf
        )  # a number written through an index would be copied from the CPU
        due_B = self.length_B[rows_B.clamp(max=len(self.length_B) - 1)] == t + 1
        return scores_BV.index_copy_(
            1, self.eos[:1], torch.where(due_B, 1e4, -torch.inf).to(scores_BV.dtype)[:, None]
        )


class EndsProcessor(LogitsProcessor):
    def __init__(self, ends: Ends) -> None:
        self.ends, self.t = ends, -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.t += 1
        return self.ends.apply(self.t, torch.arange(len(scores), device=scores.device), scores)


def force_lengths(trainer: Any, lengths: Any) -> None:
    """Make whatever generates for this trainer end each response of a rollout where `lengths()` says."""
    if trainer.use_vllm:
        generate = trainer.vllm_generation.llm.generate

        def forced(prompts: Any, sampling_params: Any, **more: Any) -> Any:
            each = []
            for length in lengths():
                forced_params = sampling_params.clone()
                forced_params.max_tokens = length
                forced_params.ignore_eos = True
                each.append(forced_params)
            assert len(each) == len(prompts)
            return generate(prompts, sampling_params=each, **more)

        trainer.vllm_generation.llm.generate = forced
        return
    if type(trainer).__name__ == "R1GRPOTrainer":
        from r1pipe.training.grpo import sampling

        plain = sampling.decode
        ends: list[Ends] = []

        def decode(model: Any, prompt_ids: Any, **more: Any) -> Any:
            if ends:
                ends[0].take(lengths())
            else:
                ends.append(Ends(lengths(), more["eos_ids"], model.device))
            return plain(model, prompt_ids, **more, adjust=ends[0].apply)

        sampling.decode = decode
        return
    model = trainer.model
    plain_generate = model.generate

    @functools.wraps(plain_generate)
    def generate_forced(*args: Any, **more: Any) -> Any:
        return plain_generate(
            *args,
            **more,
            logits_processor=[EndsProcessor(Ends(lengths(), trainer.eos_token_ids, model.device))],
        )

    model.generate = generate_forced

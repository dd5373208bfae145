"""The back ends by name: `sampling.backend` in a stage's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.generation.contract import Generator
from r1pipe.schema import Sampling

# Architectures that the fast paths of hf and vllm were checked with: those that R1 was distilled into, and Qwen3.
DENSE = {"Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"}


def load_generator(
    checkpoint: Path | None,
    rows: list[dict[str, Any]],
    sampling: Sampling,
    template: str,
    *,
    seed: int,
    world_size: int = 1,
) -> Generator:
    """Return the generator that a config asks for.

    Args:
        checkpoint: the model of hf and vllm; None for openai.
        rows: prompts, each with an `id` and a `prompt`.
        sampling: the config's block.
        template: `chat` or the path of a template file (r1pipe/text/rendering.py).
        seed: the run's.
        world_size: processes that share a budget.

    Raises:
        ConfigError: no model, two models, or a service whose address or key is missing.
        MissingToolError: vLLM is not installed.
    """
    mismatch = sampling.mismatch(checkpoint is not None)
    if mismatch:
        fix = "give inputs.model, or sampling: {backend: openai, endpoint: {base_url: ..., model: ...}}"
        raise ConfigError(mismatch, fix=fix)

    # Imported late: each back end needs libraries of its own, some of which take seconds to import.
    if sampling.endpoint is not None:
        from r1pipe.generation.openai import Service

        return Service(rows, sampling, sampling.endpoint, template, seed=seed, world_size=world_size)

    assert checkpoint is not None
    if sampling.backend == "vllm":
        from r1pipe.generation.vllm import VLLM

        return VLLM(checkpoint, rows, sampling, template, seed=seed)

    from r1pipe.generation.hf import HF

    return HF(checkpoint, rows, sampling, template, seed=seed)

"""Rollouts from vLLM, through TRL: our fields as TRL's, and what is said about the gap between vLLM's log-probs and the trainer's."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from trl.generation import vllm_generation
from trl.generation.vllm_generation import extract_logprobs as trl_extract_logprobs

from r1pipe.errors import MissingToolError
from r1pipe.generation.token_sampling import OnEnded
from r1pipe.schema import GRPOParams, VLLMRollout


def vllm_arguments(params: GRPOParams) -> dict[str, Any]:
    """GRPOConfig's arguments for the rollout that the config names; none of hf."""
    if params.rollout == "hf":
        return {}
    chosen = params.vllm or VLLMRollout()
    correct = chosen.correction != "none"
    arguments: dict[str, Any] = {"use_vllm": True, "vllm_importance_sampling_correction": correct}
    if correct:
        arguments |= {
            "vllm_importance_sampling_mode": chosen.correction,
            "vllm_importance_sampling_clip_max": chosen.correction_cap,
            "vllm_importance_sampling_clip_min": chosen.correction_floor,
        }
    if params.rollout == "vllm-server":
        return arguments | {
            "vllm_mode": "server",
            "vllm_server_base_url": chosen.server_url,
            "vllm_server_timeout": chosen.server_timeout,
            "vllm_group_port": chosen.group_port,
        }
    return arguments | {
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": chosen.memory,
        "vllm_tensor_parallel_size": chosen.tensor_parallel,
        "vllm_enable_sleep_mode": chosen.sleep,
        "vllm_max_model_length": chosen.max_model_length,
        # TRL decodes the ids itself; vLLM would decode each token twice more, for the text and for the log-probs' names
        "generation_kwargs": {"detokenize": False, "flat_logprobs": True},
    }


def require_vllm(params: GRPOParams) -> None:
    """Raises MissingToolError where the rollout cannot run here; asked before anything is loaded."""
    if params.rollout == "hf":
        return
    fix = "on a machine with a GPU: pip install 'r1pipe[vllm]'; or rollout: hf"
    if find_spec("vllm") is None:
        raise MissingToolError(f"`rollout: {params.rollout}` needs vLLM, which is not installed", "grpo.rollout", fix)
    if not torch.cuda.is_available():
        raise MissingToolError(f"`rollout: {params.rollout}` needs a GPU, and torch sees none", "grpo.rollout", fix)


def sync_weights(generation: Any) -> None:
    """TRL's VLLMGeneration.sync_weights, but a colocated engine is given all weights in one call.

    TRL calls vLLM's load_weights once a parameter, and each call looks through the whole model again. Parameters are still gathered one at
    a time, as vLLM takes them from the iterator.

    Args:
        generation: TRL's VLLMGeneration.
    """
    if generation.mode != "colocate":
        type(generation).sync_weights(generation)
        return
    if generation.enable_sleep_mode:
        torch.cuda.empty_cache()  # what the update has left over, or the weights find no room
        generation.llm.wake_up(tags=["weights"])
        generation._llm_weights_sleeping = False
    engine = generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    engine.load_weights(generation._iter_named_params())
    generation.llm.reset_prefix_cache()


def lighten(generation: Any) -> None:
    """Less Python around a colocated engine's rollout, the same results: of 225,000 tokens, generation took 12.9 s of which the engine's share was 9.1 s.

    TRL makes a dictionary of each token's log-probs to sort it, also where vLLM gives one a token in a flat list, which is taken as it is here. And
    the garbage collector rests: what the engine makes of each token it looks through again and again (9.1 to 8.4 s).
    """
    if generation.mode != "colocate":
        return
    vllm_generation.extract_logprobs = extract_logprobs  # type: ignore[assignment]
    plain = generation.llm.generate

    @functools.wraps(plain)
    def generate(*args: Any, **more: Any) -> Any:
        resting = gc.isenabled()
        gc.disable()
        try:
            return plain(*args, **more)
        finally:
            if resting:
                gc.enable()

    generation.llm.generate = generate


@contextmanager
def telling(generation: Any, tell: OnEnded | None) -> Iterator[None]:
    """Tells of responses as a colocated engine ends them; of a server's and of an engine's on several GPUs, not."""
    if tell is None or generation.mode != "colocate" or generation.tensor_parallel_size > 1:
        yield
        return
    llm = generation.llm
    engine, first = llm.llm_engine, llm.request_counter.counter  # requests are numbered on
    plain = engine.step

    def step() -> Any:
        outputs = plain()
        ended = [output for output in outputs if output.finished]
        if ended:
            tell(
                [int(output.request_id) - first for output in ended],
                [list(output.outputs[0].token_ids) for output in ended],
            )
        return outputs

    engine.step = step
    try:
        yield
    finally:
        del engine.step


def extract_logprobs(outputs: list[Any]) -> tuple[Any, Any]:
    """What TRL's function of this name returns: log-probs and token ids, each [sequence][token][rank]; NaN becomes None."""
    every = [one.logprobs for output in outputs for one in output.outputs]
    if not all(hasattr(flat, "start_indices") and len(flat.logprobs) == len(flat.start_indices) for flat in every):
        return trl_extract_logprobs(outputs)
    logprobs = [[[None if value != value else value] for value in flat.logprobs] for flat in every]
    return logprobs, [[[token] for token in flat.token_ids] for flat in every]


def importance_ratio(
    logps_BC: torch.Tensor,
    drawn_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    mode: str,
    cap: float | None,
    floor: float | None,
) -> torch.Tensor:
    """The correction as TRL 1.16 computes it: trainer's probability over vLLM's, (B, C) of the token modes, (B, 1) of the sequence modes.

    Args:
        logps_BC: of the trainer, without gradient.
        drawn_BC: of vLLM; NaN where it gave none, which counts as no gap.
        mode, cap, floor: as in VLLMRollout; `*_truncate` clamps, `*_mask` sets to 0 what is out of bounds.
    """
    gap = ((logps_BC - drawn_BC) * mask_BC).nan_to_num(nan=0.0)
    ratio = (gap.sum(-1, keepdim=True) if mode.startswith("sequence") else gap).exp()
    if mode.endswith("truncate"):
        return ratio.clamp(min=floor, max=cap)
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if floor is not None:
        outside |= ratio < floor
    if cap is not None:
        outside |= ratio > cap
    return ratio.masked_fill(outside, 0.0)


def gap_of(logps_BC: torch.Tensor, drawn_BC: torch.Tensor, mask_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and greatest distance of the log-probs of tokens that count; 0 where there is none."""
    delta = (logps_BC - drawn_BC).abs()
    delta = delta[mask_BC.bool() & ~delta.isnan()]
    zero = torch.zeros((), device=logps_BC.device)
    return (delta.mean(), delta.max()) if delta.numel() else (zero, zero)


def share_masked(ratio: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """The share of sequences (ratio (B, 1)) or of counted tokens (ratio (B, C)) whose ratio was set to 0."""
    if ratio.shape[1] == 1:
        return (ratio[mask_BC.any(1)] == 0).float().mean() if mask_BC.any() else torch.zeros((), device=ratio.device)
    return (ratio[mask_BC.bool()] == 0).float().mean() if mask_BC.any() else torch.zeros((), device=ratio.device)

"""Rollouts from vLLM, through TRL: arguments, the engine, and the correction for vLLM's log-probs.

vLLM's log-probs of a token differ from the trainer's: other kernels, other precision. TRL weighs the loss by the
ratio of the two probabilities; this module computes that ratio where TRL cannot, and logs how large the gap is.

Shapes: B sequences of this rank or of a pack, C completion tokens (padded right).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation
from trl.generation.vllm_generation import extract_logprobs as trl_extract_logprobs

from r1pipe.errors import MissingToolError
from r1pipe.generation.token_sampling import OnEnded
from r1pipe.here import alive
from r1pipe.schema import GRPOParams, VLLMRollout
from r1pipe.text.collector import paused_collector
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.resumable import Unanswered
from r1pipe.training.stopwatch import Stopwatch


def vllm_arguments(params: GRPOParams) -> dict[str, Any]:
    """GRPOConfig's arguments for vLLM, in this process or behind a server; none for rollout: hf."""
    if params.rollout == "hf":
        return {}
    chosen = params.vllm or VLLMRollout()
    corrected = chosen.correction != "none"
    arguments: dict[str, Any] = {"use_vllm": True, "vllm_importance_sampling_correction": corrected}
    if corrected:
        arguments |= {
            "vllm_importance_sampling_mode": chosen.correction,
            "vllm_importance_sampling_clip_max": chosen.correction_cap,
            "vllm_importance_sampling_clip_min": chosen.correction_floor,
        }
    # vLLM finds stop strings in the text, and leaves them out of the response unless asked.
    stopping = {"stop": params.stop, "include_stop_str_in_output": True} if params.stop else {}
    if params.rollout == "vllm-server":
        return arguments | {
            "generation_kwargs": stopping or None,
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
        # TRL decodes the ids itself; vLLM would decode each token twice more, for the text and for the log-probs'
        # names
        "generation_kwargs": {"detokenize": bool(stopping), "flat_logprobs": True, **stopping},
    }


def require_vllm(params: GRPOParams) -> None:
    """Check, before anything is loaded, that the rollout can run on this machine.

    Raises:
        MissingToolError: vLLM or a GPU is needed and missing.
    """
    if params.rollout == "hf":
        return
    fix = "on a machine with a GPU: pip install 'r1pipe[vllm]'; or rollout: hf"
    if find_spec("vllm") is None:
        raise MissingToolError(
            f"`rollout: {params.rollout}` needs vLLM, which is not installed", "grpo.rollout", fix
        )
    if not torch.cuda.is_available():
        raise MissingToolError(
            f"`rollout: {params.rollout}` needs a GPU, and torch sees none", "grpo.rollout", fix
        )


# --- the engine -------------------------------------------------------------------------------------------------------


def adapt(generation: Any, stopwatch: Stopwatch, ends: Sequence[int], params: GRPOParams) -> None:
    """Make TRL's VLLMGeneration faster, with the same results, and time how long weights take to reach it.

    Args:
        ends: the tokens that end a response. vLLM by itself knows those of the checkpoint's generation_config.json.
    """
    generation.generation_kwargs = {**generation.generation_kwargs, "stop_token_ids": list(ends)}
    plain = generation.generate

    def timed_sync() -> None:
        with stopwatch.part("sync"), asking(params):
            sync_weights(generation)

    def generate(*given: Any, **named: Any) -> Any:
        with asking(params):
            return plain(*given, **named)

    generation.sync_weights = timed_sync
    generation.generate = generate
    lighten(generation)


@contextmanager
def asking(params: GRPOParams) -> Iterator[None]:
    """Around what asks a vLLM server, if one draws.

    Raises:
        Unanswered: it gives no answers any more; TRL has asked again for a minute.
    """
    try:
        yield
    except Exception as error:
        # Errors of the network are OSErrors without a file; what the server says of itself has no class of its own.
        from_network = isinstance(error, OSError) and error.filename is None
        refused = str(error).startswith("Request failed")
        if params.rollout != "vllm-server" or not (from_network or refused):
            raise
        url = params.vllm.server_url if params.vllm else None
        raise Unanswered(
            f"the vLLM server gives no answers any more: {str(error)[:300]}",
            str(url),
            "start it again; then the same command goes on from what was saved",
        ) from error


def sync_weights(generation: Any) -> None:
    """TRL's VLLMGeneration.sync_weights, but a colocated engine gets all weights in one call.

    TRL calls vLLM's load_weights once a parameter, and each call looks through the whole model again. Parameters are
    still gathered one at a time, as vLLM takes them from the iterator.

    Args:
        generation: TRL's VLLMGeneration.
    """
    # A server gets its weights over a group of its own, one parameter after the other, and that is TRL's to do.
    if generation.mode != "colocate":
        type(generation).sync_weights(generation)
        return
    if generation.enable_sleep_mode:
        # what the update has left in the cache of the allocator, or the weights find no room
        torch.cuda.empty_cache()
        generation.llm.wake_up(tags=["weights"])
        generation._llm_weights_sleeping = False
    engine = generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    engine.load_weights(generation._iter_named_params())
    generation.llm.reset_prefix_cache()


def lighten(generation: Any) -> None:
    """Take Python's work out of a colocated engine's rollout; the results are the same.

    Measured on 225,000 tokens: generation took 12.9 s, of which the engine's share was 9.1 s. Two things cost the
        rest:

    - TRL makes a dictionary of each token's log-probs to sort it, even where vLLM returns one per token in a flat
      list. `extract_logprobs` takes such a list as it is.
    - The garbage collector walks again and again through what the engine makes of each token (9.1 to 8.4 s without
      it).
    """
    if generation.mode != "colocate":
        return
    vllm_generation.extract_logprobs = extract_logprobs  # type: ignore[assignment]
    plain = generation.llm.generate

    @functools.wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        with paused_collector():
            return plain(*args, **kwargs)

    generation.llm.generate = generate


@contextmanager
def reporting(generation: Any, on_ended: OnEnded | None) -> Iterator[None]:
    """Report responses as the engine ends them. Only an engine in this process, on one GPU, can be watched so."""
    if generation.mode != "colocate" or generation.tensor_parallel_size > 1:
        yield
        return
    engine = generation.llm.llm_engine
    # vLLM numbers requests on from one call to the next
    first = generation.llm.request_counter.counter
    plain = engine.step

    def step() -> Any:
        outputs = plain()
        alive()
        if on_ended is None:
            return outputs
        ended = [output for output in outputs if output.finished]
        if ended:
            places = [int(output.request_id) - first for output in ended]
            on_ended(places, [list(output.outputs[0].token_ids) for output in ended])
        return outputs

    # on the object, so that taking it off again uncovers the class's own
    engine.step = step
    try:
        yield
    finally:
        del engine.step


def extract_logprobs(outputs: list[Any]) -> tuple[Any, Any]:
    """TRL's function of this name, faster where vLLM returns flat lists.

    Returns:
        log-probs and token ids, each [sequence][token][rank]; NaN becomes None.
    """
    sequences = [sequence.logprobs for output in outputs for sequence in output.outputs]
    if not all(_one_per_token(flat) for flat in sequences):
        return trl_extract_logprobs(outputs)
    # NaN is the one number that differs from itself
    logprobs = [[[None if value != value else value] for value in flat.logprobs] for flat in sequences]
    token_ids = [[[token] for token in flat.token_ids] for flat in sequences]
    return logprobs, token_ids


def _one_per_token(logprobs: Any) -> bool:
    """Whether these are vLLM's FlatLogprobs with the sampled token alone at each position."""
    return hasattr(logprobs, "start_indices") and len(logprobs.logprobs) == len(logprobs.start_indices)


# --- the correction ---------------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """How far vLLM's log-probs are from the trainer's in some rows; the fields are tensors without dimensions.

    Attributes:
        total: the sum of the distances over the tokens that count.
        tokens: how many these are.
        masked: the rows, or the share of tokens as rows, that the correction sets to 0.
        rows: how many rows there are.
        largest: the largest distance.
    """

    total: torch.Tensor
    tokens: torch.Tensor
    masked: torch.Tensor
    rows: torch.Tensor
    largest: torch.Tensor


def settle_correction(
    trainer: GRPOTrainer,
    batch: dict[str, Any],
    *,
    in_update: bool,
) -> None:
    """Complete what TRL has computed and logged of the correction when it made the rollout's batch.

    Args:
        in_update: the update computes the correction from its own log-probs (`correct_for_vllm`). TRL was given NaN
            for the old log-probs, so what it made of them is taken out again.
    """
    metrics = trainer._metrics["train"]
    if not in_update:
        masked = share_masked(batch["importance_sampling_ratio"], batch["completion_mask"])
        metrics["sampling/masked"].append(gathered(masked).mean().item())
        return
    del batch["old_per_token_logps"], batch["importance_sampling_ratio"]
    for name, values in metrics.items():
        if name.startswith("sampling/"):
            values.pop()


def correct_for_vllm(
    logps_BC: torch.Tensor,
    vllm_logps_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    args: GRPOConfig,
) -> tuple[torch.Tensor, Gap]:
    """The correction from an update's own log-probs, and how far both are apart.

    Args:
        logps_BC: the trainer's, without gradient.
        vllm_logps_BC: vLLM's.
        mask_BC: tokens that count.
        args: the mode and the bounds of the ratio.

    Returns:
        The ratio that TRL's loss takes as `importance_sampling_ratio`, and the gap.
    """
    ratio = importance_ratio(
        logps_BC,
        vllm_logps_BC,
        mask_BC,
        mode=args.vllm_importance_sampling_mode,
        cap=args.vllm_importance_sampling_clip_max,
        floor=args.vllm_importance_sampling_clip_min,
    )
    mean, largest = gap_of(logps_BC, vllm_logps_BC, mask_BC)
    tokens = mask_BC.sum()
    rows = torch.tensor(len(ratio)).to(mean)
    return ratio, Gap(mean * tokens, tokens, share_masked(ratio, mask_BC) * len(ratio), rows, largest)


def log_gaps(trainer: GRPOTrainer, gaps: Sequence[Gap | None]) -> None:
    """Log the gap of a minibatch, by TRL's names, and the share that was masked.

    Args:
        gaps: of each pack; None where no correction was computed.
    """
    # all packs of all ranks together: a mean of the packs' means would weigh short packs too much
    computed = [torch.stack(gap) for gap in gaps if gap is not None]
    if not computed:
        return
    total, tokens, masked, rows, largest = gathered(torch.stack(computed)).unbind(1)
    metrics = trainer._metrics["train"]
    metrics["sampling/sampling_logp_difference/mean"].append((total.sum() / tokens.sum().clamp(min=1)).item())
    metrics["sampling/sampling_logp_difference/max"].append(largest.max().item())
    metrics["sampling/masked"].append((masked.sum() / rows.sum()).item())


def importance_ratio(
    logps_BC: torch.Tensor,
    vllm_logps_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    *,
    mode: str,
    cap: float | None,
    floor: float | None,
) -> torch.Tensor:
    """The correction as TRL 1.16 computes it: the trainer's probability over vLLM's.

    Args:
        logps_BC: the trainer's, without gradient.
        vllm_logps_BC: vLLM's; NaN where it gave none, which counts as no gap.
        mode: as VLLMRollout.correction; `*_truncate` clamps, `*_mask` sets to 0 what is out of bounds.
        cap, floor: the bounds; None = none.

    Returns:
        (B, C) for the token modes, (B, 1) for the sequence modes.
    """
    gap_BC = ((logps_BC - vllm_logps_BC) * mask_BC).nan_to_num(nan=0.0)
    ratio = (gap_BC.sum(-1, keepdim=True) if mode.startswith("sequence") else gap_BC).exp()
    if mode.endswith("truncate"):
        return ratio.clamp(min=floor, max=cap)
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if floor is not None:
        outside |= ratio < floor
    if cap is not None:
        outside |= ratio > cap
    return ratio.masked_fill(outside, 0.0)


def gap_of(
    logps_BC: torch.Tensor,
    vllm_logps_BC: torch.Tensor,
    mask_BC: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and largest distance of the log-probs of tokens that count; 0 where there is none."""
    # NaN: vLLM gave no log-prob. As a distance of 0 it would make the gap look smaller.
    distance_BC = (logps_BC - vllm_logps_BC).abs()
    distances = distance_BC[mask_BC.bool() & ~distance_BC.isnan()]
    if not distances.numel():
        zero = torch.zeros((), device=logps_BC.device)
        return zero, zero
    return distances.mean(), distances.max()


def share_masked(ratio: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """The share of sequences (ratio (B, 1)) or of counted tokens (ratio (B, C)) whose ratio was set to 0."""
    if not mask_BC.any():
        return torch.zeros((), device=ratio.device)
    per_sequence = ratio.shape[1] == 1
    counted = ratio[mask_BC.any(1)] if per_sequence else ratio[mask_BC.bool()]
    return (counted == 0).float().mean()

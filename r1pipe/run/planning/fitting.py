"""The smallest change of a config that makes a stage fit its GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from r1pipe.run.planning.activations import Rollout, Training
from r1pipe.run.planning.estimate import Estimate
from r1pipe.run.planning.footprint import Footprint, footprint
from r1pipe.run.planning.packs import adapter_of
from r1pipe.run.planning.training_setup import Machine, packed_rl
from r1pipe.run.planning.work import Work
from r1pipe.schema import GRPOParams, SFTParams

SMALLER_PASSES = (8192, 4096, 2048)
SUGGESTED_LORA = {"r": 16, "target_modules": "all-linear"}


@dataclass(frozen=True)
class Change:
    """A change of the config.

    Attributes:
        sets: key below the stage's block -> value, as YAML.
        training: how the stage would then train.
    """

    sets: dict[str, str]
    training: Training
    memory: Footprint

    @property
    def text(self) -> str:
        return ", ".join(f"{key}: {value}" for key, value in self.sets.items())


def fits(memory: Footprint | None, machine: Machine) -> bool | None:
    """Whether a GPU is large enough; None where there is no GPU to fill."""
    if memory is None or not machine.gpu:
        return None
    return memory.used <= machine.card.memory


def smallest_changes(work: Work, found: Estimate, machine: Machine) -> list[Change]:
    """The first of the changes, in the order of what they cost, with which the stage fits; none if none does.

    Where that moves states to the CPU, the first with an adapter stands beside it: it is faster, and trains less.
    """
    if found.training is None:
        return []
    changes: list[Change] = []
    for sets, training in _changes(
        work,
        found.training,
        machine,
    ):
        has_adapter = training.adapter is not None
        # Something fits already; only an adapter may stand beside it.
        if changes and not has_adapter:
            continue
        memory = footprint(training)
        if not fits(memory, machine):
            continue
        changes.append(
            Change(
                sets,
                training,
                memory,
            )
        )
        if has_adapter or training.offload == "none":
            break
    return changes


def smaller_batch(work: Work, machine: Machine) -> int | None:
    """For a stage that draws: sequences of a batch that fit; None = the weights alone are too large."""
    from r1pipe.run.planning.estimate import estimate

    largest = max(draw.sampling.batch_size for draw in work.draws)
    batch = largest
    while batch >= 1:
        draws = []
        for draw in work.draws:
            least = min(batch, draw.sampling.batch_size)
            draws.append(replace(draw, sampling=draw.sampling.model_copy(update={"batch_size": least})))
        smaller = replace_draws(work, draws)
        if fits(estimate(smaller, machine).memory, machine):
            return batch
        batch //= 2
    return None


def replace_draws(work: Work, draws: list[Any]) -> Work:
    return replace(work, draws=draws)


def _changes(work: Work, training: Training, machine: Machine) -> Iterator[tuple[dict[str, str], Training]]:
    """Changes from the cheapest: recomputing costs time, offloading more, an adapter changes what is trained."""
    block = _block(work)
    recompute = {f"{block}.gradient_checkpointing": "true"}
    lighter = replace(training, checkpointing=True)

    yield (
        recompute,
        _again(
            work,
            machine,
            lighter,
        ),
    )
    yield from _with_passes(
        work,
        machine,
        training,
        {},
    )
    yield from _with_passes(
        work,
        machine,
        lighter,
        recompute,
    )

    # Sharding costs what ranks send to each other.
    for stage in ("zero2", "zero3"):
        if training.ranks == 1 or training.profile == stage:
            continue
        profile = {"launch.profile": stage}
        sharded = _again(
            work,
            machine,
            _under(training, stage),
        )
        yield profile, sharded
        both = _again(
            work,
            machine,
            replace(sharded, checkpointing=True),
        )
        yield profile | recompute, both
        yield from _with_passes(
            work,
            machine,
            both,
            profile | recompute,
        )

    # DeepSpeed on one GPU, its optimizer in the CPU's memory.
    for stage, offload in (("zero2", "optimizer"), ("zero3", "optimizer"), ("zero3", "all")):
        sets = {"launch.profile": stage, "launch.offload": offload} | recompute
        moved = replace(_under(lighter, stage), offload=offload)  # type: ignore[arg-type]
        yield (
            sets,
            _again(
                work,
                machine,
                moved,
            ),
        )
        yield from _with_passes(
            work,
            machine,
            moved,
            sets,
        )

    # An adapter is the last, since it trains something else than the config asks for.
    if training.adapter is None and isinstance(work.params, GRPOParams | SFTParams):
        yield from _with_adapter(
            work,
            machine,
            training,
            block,
        )


def _block(work: Work) -> str:
    """The block of the stage's config that holds its training."""
    names = {"GRPOParams": "grpo", "SFTParams": "sft", "DPOParams": "dpo"}
    return names.get(type(work.params).__name__, "pretraining" if work.pretraining is not None else "rm")


def _under(training: Training, stage: str) -> Training:
    """The same under ZeRO, which needs a twin of its own, or none where weights are sharded."""
    rollout = training.rollout
    if stage == "zero3":
        rollout = replace(rollout, twin=False)
    return replace(
        training,
        profile=stage,
        frozen_half=False,
        rollout=rollout,
    )


def _again(work: Work, machine: Machine, training: Training) -> Training:
    """RL with `auto` chooses its packs anew."""
    if isinstance(work.params, GRPOParams):
        return packed_rl(
            work,
            work.params,
            machine,
            training,
        )
    return training


def _with_passes(
    work: Work,
    machine: Machine,
    training: Training,
    sets: dict[str, str],
) -> Iterator[tuple[dict[str, str], Training]]:
    """Smaller passes, down to the longest row."""
    params = work.params
    if isinstance(params, GRPOParams):
        key = "grpo.microbatch_tokens"
        longest = round(work.rows.prompt) + max(phase.max_tokens for phase in params.phases)
    elif isinstance(params, SFTParams):
        key = "sft.pack_tokens"
        longest = params.max_length
    else:
        return
    for tokens in SMALLER_PASSES:
        if tokens >= training.tokens:
            continue
        smaller = max(tokens, min(longest, training.tokens))
        if smaller < training.tokens:
            yield (
                sets | {key: str(tokens)},
                replace(
                    training,
                    tokens=smaller,
                    passes=training.passes + 1,
                ),
            )


def _with_adapter(
    work: Work,
    machine: Machine,
    training: Training,
    block: str,
) -> Iterator[tuple[dict[str, str], Training]]:
    sets = {f"{block}.lora": "{r: 16, target_modules: all-linear}"}
    if isinstance(work.params, GRPOParams):
        # The reference is then the base without its adapter, which is never replaced.
        sets |= {"grpo.ref_replace_every": "null"}
    half = isinstance(work.params, SFTParams) and training.profile == "process"
    rollout = replace(
        training.rollout,
        twin=False,
        reference=False,
    )
    if isinstance(training.rollout, Rollout):
        adapted = replace(
            training,
            adapter=adapter_of(SUGGESTED_LORA),
            frozen_half=half,
            compiled=False,
            rollout=rollout,
        )
        yield (
            sets,
            _again(
                work,
                machine,
                adapted,
            ),
        )
        recompute = sets | {f"{block}.gradient_checkpointing": "true"}
        lighter = _again(
            work,
            machine,
            replace(adapted, checkpointing=True),
        )
        yield recompute, lighter
        yield from _with_passes(
            work,
            machine,
            lighter,
            recompute,
        )

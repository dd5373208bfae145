"""How a stage trains on a machine: by its config, and as the trainers decide what the config leaves to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from r1pipe.run.planning.activations import HALF, Rollout, Training
from r1pipe.run.planning.cards import Card
from r1pipe.run.planning.lengths import longest_of
from r1pipe.run.planning.packs import RESERVE, adapter_of, auto_pack, largest_pack, rough_need, sft_pass
from r1pipe.run.planning.speed import DEFAULT, Efficiency
from r1pipe.run.planning.work import Work
from r1pipe.schema import GRPOParams, SFTParams
from r1pipe.schema.training import DPOParams, RewardModelParams

# Updates and parameters from which layers are compiled: r1pipe/training/grpo/arguments.py; and the seconds of training,
# with what starting a layer's kernels takes in a pass: r1pipe/training/sft/packed_setup.py.
COMPILED_UPDATES = 50
COMPILED_PARAMETERS = 10**8
COMPILED_SECONDS = 40.0
LAUNCHES_OF_A_LAYER = 0.004
# Rows of a pass of a reward model: MICROBATCH in r1pipe/training/reward_model.py.
RM_MICROBATCH = 64
# Pairs of a pass of DPO: MICROBATCH in r1pipe/training/dpo_training.py.
DPO_MICROBATCH = 16
# The largest minibatch of a training beside the mean of its longest rollout.
UNEVEN = 1.1


@dataclass(frozen=True)
class Machine:
    """What a figure is planned for.

    Attributes:
        card: the GPU; a CPU is a card without a limit of its own.
        gpus: of a machine.
        nodes: machines.
        gpu: there is a GPU.
        start_s: from a stage's start to its first work.
        asked: the user has named the machines, so a stage may use all of them, whatever its launch block says.
    """

    card: Card
    gpus: int = 1
    nodes: int = 1
    gpu: bool = True
    efficiency: Efficiency = DEFAULT
    start_s: float = 12.0
    asked: bool = False

    @property
    def ranks(self) -> int:
        return self.gpus * self.nodes


def training_of(work: Work, machine: Machine) -> Training:
    """How a stage trains by its config; what the trainers decide by themselves is decided as they do."""
    assert work.shape is not None, "a stage without a model trains nothing"
    launch = work.stage.config.launch
    ranks = 1 if launch.num_processes == "auto" else launch.num_processes
    if launch.num_processes == "auto":
        ranks = machine.gpus
    ranks *= launch.nodes
    profile = launch.profile
    if machine.asked and machine.gpu:
        ranks = machine.ranks
        if profile == "process" and ranks > 1:
            profile = "zero2"
    params = work.params
    adapter = adapter_of(
        getattr(
            params,
            "lora",
            None,
        )
    )
    checkpointing = (
        getattr(
            params,
            "gradient_checkpointing",
            False,
        )
        is True
    )
    training = Training(
        shape=work.shape,
        tokens=1,
        profile=profile,
        ranks=ranks,
        offload=launch.offload,
        adapter=adapter,
        checkpointing=checkpointing,
        gpu=machine.gpu,
    )
    if isinstance(params, GRPOParams):
        return _rl_training(
            work,
            params,
            machine,
            training,
        )
    if isinstance(params, SFTParams):
        return _sft_training(
            work,
            params,
            machine,
            training,
        )
    if isinstance(params, RewardModelParams | DPOParams):
        return _row_training(
            work,
            params,
            training,
        )
    return _pretraining(work, training)


def _sft_training(work: Work, params: SFTParams, machine: Machine, training: Training) -> Training:
    updates = sft_updates(work, params)
    mean = min(params.max_length, work.rows.prompt + work.rows.answer)
    # half_base in r1pipe/training/arguments.py; under DeepSpeed all weights are bf16 anyway.
    half = training.adapter is not None and training.profile == "process" and machine.gpu
    training = replace(training, frozen_half=half)
    longest = round(
        longest_of(
            work.rows.count,
            mean,
            params.max_length,
        )
    )
    compiled = _sft_compiled(
        params,
        machine,
        training,
        tokens=updates * params.batch_size * mean,
        updates=updates,
    )
    training = replace(training, compiled=compiled)
    tokens = 4096
    if machine.gpu:
        tokens = sft_pass(
            training,
            machine.card.memory,
            longest,
            params.pack_tokens,
        )
        automatic = params.gradient_checkpointing is False
        too_much = rough_need(training, tokens)[0] > RESERVE * machine.card.memory
        training = replace(training, checkpointing=training.checkpointing or (automatic and too_much))
    share = params.batch_size * mean / training.ranks
    passes = max(1, math.ceil(share / tokens))
    return replace(
        training,
        tokens=round(max(longest, min(tokens, share))),
        passes=passes,
    )


def _sft_compiled(
    params: SFTParams,
    machine: Machine,
    training: Training,
    *,
    tokens: float,
    updates: float,
) -> bool:
    """As packed_setup.py decides: where training takes long enough to pay for it."""
    if params.compile != "auto":
        return bool(params.compile)
    shape = training.shape
    if not machine.gpu or shape.experts or training.zero == 3:
        return False
    arithmetic = 6 * shape.active * tokens / training.ranks / (machine.card.flops * 0.4)
    launches = updates * shape.layers * LAUNCHES_OF_A_LAYER
    return arithmetic + launches > COMPILED_SECONDS


def _rl_training(work: Work, params: GRPOParams, machine: Machine, training: Training) -> Training:
    shape = training.shape
    prompt = work.rows.prompt
    most = max(phase.max_tokens for phase in params.phases)
    rows = params.batch_size * params.minibatches_per_rollout / training.ranks
    sharded = training.zero == 3 or training.profile == "fsdp2"
    # A server draws on other GPUs.
    here = params.rollout == "hf"
    vllm = 0.0
    if params.rollout == "vllm":
        vllm = (params.vllm.memory if params.vllm else 0.3) * machine.card.memory
    rollout = Rollout(
        rows=math.ceil(rows) if here else 0,
        columns=round(prompt + most) if here else 0,
        twin=here and machine.gpu and training.adapter is None and not sharded and not shape.experts,
        reference=params.beta > 0 and training.adapter is None,
        vllm_bytes=vllm,
        models=work.reward_models * HALF * shape.parameters,
    )
    large = shape.parameters >= COMPILED_PARAMETERS and not shape.experts
    compiled = params.compile is True
    if params.compile == "auto":
        often = params.steps >= COMPILED_UPDATES
        compiled = machine.gpu and large and often and training.adapter is None and not sharded
    training = replace(
        training,
        head="fused",
        rollout=rollout,
        compiled=compiled,
    )
    return packed_rl(
        work,
        params,
        machine,
        training,
    )


def packed_rl(work: Work, params: GRPOParams, machine: Machine, training: Training) -> Training:
    """With the packs of an update; a long response is a pack of its own."""
    assert work.length is not None, "RL draws responses"
    most = max(phase.max_tokens for phase in params.phases)
    budget: Any = params.microbatch_tokens
    if not isinstance(budget, int):
        budget = auto_pack(training, machine.card.memory) if machine.gpu else 4096
    # The longest responses of the training take the most memory, whenever they come.
    mean = min(most, max(tokens for _, tokens in work.length.points))
    share = max(1, params.batch_size // training.ranks)
    passes, largest = largest_pack(
        share,
        budget,
        group=params.num_generations,
        prompt=work.rows.prompt,
        answer=mean,
    )
    longest = round(
        work.rows.prompt
        + longest_of(
            share * params.steps,
            mean,
            most,
        )
    )
    # Lengths differ between responses and over the training. So where minibatches are larger than a pack, one of their
    # packs is full at some time.
    whole = share * mean + math.ceil(share / params.num_generations) * work.rows.prompt
    largest = max(largest, round(min(budget, UNEVEN * whole)))
    return replace(
        training,
        tokens=max(largest, min(longest, round(work.rows.prompt) + most)),
        passes=passes,
    )


def _row_training(work: Work, params: RewardModelParams | DPOParams, training: Training) -> Training:
    """Of rows that are passed padded, so many at a time."""
    is_dpo = isinstance(params, DPOParams)
    mean = min(params.max_length, work.rows.prompt + work.rows.answer)
    share = max(1, params.batch_size // training.ranks)
    rows = min(share, params.microbatch or (DPO_MICROBATCH if is_dpo else RM_MICROBATCH))
    # A pass of DPO holds both responses of its pairs.
    responses = 2 * rows if is_dpo else rows
    return replace(
        training,
        head="fused" if is_dpo else "reward",
        rollout=Rollout(reference=is_dpo),
        tokens=round(responses * mean),
        passes=math.ceil(share / rows),
    )


def _pretraining(work: Work, training: Training) -> Training:
    params = work.pretraining
    tokens = min(params.batch_tokens, 32_768)
    return replace(
        training,
        tokens=tokens,
        passes=math.ceil(params.batch_tokens / tokens / training.ranks),
    )


def sft_updates(work: Work, params: SFTParams | RewardModelParams | DPOParams) -> float:
    rows = work.rows.count
    if not isinstance(params, SFTParams):
        rows *= 1 - params.heldout
    updates = max(1.0, round(rows * params.epochs / params.batch_size))
    return (
        getattr(
            params,
            "max_steps",
            None,
        )
        or updates
    )

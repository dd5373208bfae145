"""A stage's work on a machine: memory of a GPU, tokens, operations, seconds, disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from r1pipe.run.planning.activations import FLOAT, HALF, Training
from r1pipe.run.planning.footprint import Footprint, Terms, footprint
from r1pipe.run.planning.lengths import longest_of
from r1pipe.run.planning.model_shape import ModelShape
from r1pipe.run.planning.speed import (
    communication_seconds,
    drawing_seconds,
    forward_seconds,
    pass_flops,
    pass_seconds,
    published_rates,
    update_seconds,
)
from r1pipe.run.planning.training_setup import COMPILED_PARAMETERS, Machine, sft_updates, training_of
from r1pipe.run.planning.work import Draw, Work
from r1pipe.schema import GRPOParams, SFTParams
from r1pipe.schema.training import DPOParams, RewardModelParams

# Seconds that compilation takes, once for training and once for sampling.
COMPILING_S = 15.0
# Responses whose rewards a core computes in a second.
REWARDS_A_SECOND = 1500.0
# Seconds of a stage that has no model: it reads and writes rows.
LIGHT_S = 1.5
# The share of groups without signal, which `resample` replaces; a guess.
NO_SIGNAL = 0.3
# Tokens from which a sampler compiles layers, and a response's as it guesses: r1pipe/generation/hf.py.
COMPILED_TOKENS = 4_000_000
LIKELY_TOKENS = 1024
# Of RL: the audit of its rewards before it begins, and a look at the held-out prompts beside the drawing, on a GPU.
CPU_AUDIT_S = 2.0
GPU_AUDIT_S = 8.0
LOOK_S = 3.0
# Until a GPU draws its first token: graphs are recorded.
RECORDING_S = 7.0


@dataclass
class Estimate:
    """What a stage takes.

    Attributes:
        gpus: that it uses.
        memory: of one GPU; None where the stage uses none.
        training: how it trains; None where it does not.
        drawn, trained: tokens.
        seconds: of each part.
        disk, scratch: bytes that stay, and those that are there while the stage runs.
    """

    gpus: int = 1
    memory: Footprint | None = None
    training: Training | None = None
    drawn: float = 0.0
    trained: float = 0.0
    updates: float = 0.0
    flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    disk: float = 0.0
    scratch: float = 0.0
    published: str = ""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def estimate(work: Work, machine: Machine, changed: Training | None = None) -> Estimate:
    """What a stage takes on this machine.

    Args:
        changed: trains like this, and not as the config says.
    """
    result = Estimate()
    if work.shape is None or not (work.params or work.pretraining or work.draws):
        result.gpus = 0
        result.add("start", LIGHT_S)
        return result
    draws = bool(work.draws) or isinstance(work.params, GRPOParams)
    result.add("start", machine.start_s + RECORDING_S * (machine.gpu and draws))
    if work.params is not None or work.pretraining is not None:
        training = changed or training_of(work, machine)
        result.training = training
        result.gpus = training.ranks
        result.memory = footprint(training)
        _train(
            work,
            machine,
            training,
            result,
        )
        # The published checkpoint is float32; the trainer's own go when it is published.
        result.disk = FLOAT * work.shape.parameters
        kept = (work.params or work.pretraining).keep_checkpoints
        result.scratch = kept * 3 * FLOAT * training.trained
        return result
    # It draws, and trains nothing.
    result.gpus = _drawing_ranks(work, machine)
    if work.draws:
        result.memory = _drawing_memory(
            work.shape,
            work.draws,
            machine,
        )
    for draw in work.draws:
        _draw(
            work.shape,
            draw,
            machine,
            result,
        )
    return result


# --- its seconds ------------------------------------------------------------------------------------------------------


def _train(work: Work, machine: Machine, training: Training, result: Estimate) -> None:
    params = work.params
    if isinstance(params, GRPOParams):
        _reinforce(
            work,
            params,
            machine,
            training,
            result,
        )
        return
    if params is None:
        pretraining = work.pretraining
        mean = float(pretraining.row_tokens)
        tokens = pretraining.documents * pretraining.epochs * mean / 4
        updates = tokens / pretraining.batch_tokens
    else:
        assert isinstance(params, SFTParams | RewardModelParams | DPOParams)
        mean = min(params.max_length, work.rows.prompt + work.rows.answer)
        updates = sft_updates(work, params)
        tokens = updates * params.batch_size * mean
        # A pair is two responses.
        tokens *= 2 if isinstance(params, DPOParams) or work.stage.kind.name == "helpful-rm" else 1
    result.updates = updates
    result.trained = tokens
    result.flops = tokens * pass_flops(training, mean) / training.tokens
    _add_training(
        training,
        machine,
        result,
        tokens=tokens,
        updates=updates,
        mean=mean,
    )
    if isinstance(params, DPOParams):
        # a forward pass of the reference beside each forward and backward pass
        result.add("reference", result.seconds["train"] / 3)
    if training.compiled:
        result.add("compile", COMPILING_S)


def _add_training(
    training: Training,
    machine: Machine,
    result: Estimate,
    *,
    tokens: float,
    updates: float,
    mean: float,
) -> None:
    """The seconds of forward and backward passes, of updates and of what ranks send."""
    rates = published_rates(training, machine.card)
    if rates is not None:
        result.published = rates.source
        result.add("train", tokens / (rates.trained * training.ranks))
        return
    passes = tokens / training.ranks / training.tokens
    computing = passes * pass_seconds(
        training,
        machine.card,
        machine.efficiency,
        mean,
    )
    sending = communication_seconds(
        training,
        machine.card,
        machine.gpus,
        passes,
        updates,
    )
    result.add("train", max(computing, sending))
    result.add(
        "optimizer",
        updates
        * update_seconds(
            training,
            machine.card,
            machine.efficiency,
        ),
    )


def _reinforce(
    work: Work,
    params: GRPOParams,
    machine: Machine,
    training: Training,
    result: Estimate,
) -> None:
    """RL, stretch by stretch, since responses grow."""
    assert work.length is not None, "RL draws responses"
    shape = training.shape
    per_rollout = params.minibatches_per_rollout * params.inner_epochs
    responses = params.batch_size * params.minibatches_per_rollout
    prompt = work.rows.prompt
    done = 0.0
    for phase in params.phases:
        for updates, mean in work.length.stretches(done, done + phase.steps):
            mean = min(mean, phase.max_tokens)
            rollouts = updates / per_rollout
            drawn = 0.0
            # A rollout, and rounds for the groups that `resample` replaces.
            for again in range(params.resample + 1):
                count = responses * NO_SIGNAL**again
                if count < params.num_generations:
                    break
                drawn += rollouts * count * mean
                longest = longest_of(
                    count,
                    mean,
                    phase.max_tokens,
                )
                each = _rollout_seconds(
                    training,
                    machine,
                    count,
                    prompt,
                    mean,
                    longest,
                )
                result.add("draw", rollouts * each)
            result.drawn += drawn
            # On a GPU a prompt is read once for its group.
            readers = params.num_generations if machine.gpu else 1
            tokens = updates * params.batch_size * (mean + prompt / readers)
            result.trained += tokens
            result.flops += tokens * pass_flops(training, mean) / training.tokens
            result.flops += drawn * 2 * shape.active
            _add_training(
                training,
                machine,
                result,
                tokens=tokens,
                updates=updates,
                mean=mean,
            )
            _add_log_probs(
                params,
                training,
                machine,
                result,
                tokens=tokens,
                mean=mean,
            )
            cores = 8 * training.ranks if machine.gpu else 2
            # On a GPU rewards are judged while others are drawn, but for the last ones.
            overlap = 0.3 if machine.gpu else 1.0
            result.add("reward", overlap * rollouts * responses / (REWARDS_A_SECOND * cores))
        done += phase.steps
    result.updates = done
    if params.eval_prompts and "heldout" in work.stage.inputs:
        looks = done / params.eval_every + 1
        mean = work.length.at(done)
        longest = longest_of(
            params.eval_prompts,
            mean,
            params.phases[-1].max_tokens,
        )
        each = _rollout_seconds(
            training,
            machine,
            params.eval_prompts,
            prompt,
            mean,
            longest,
        )
        result.add("held-out", looks * (each + LOOK_S * machine.gpu))
    result.add("start", GPU_AUDIT_S if machine.gpu else CPU_AUDIT_S)
    if training.compiled:
        result.add("compile", 2 * COMPILING_S)


def _add_log_probs(
    params: GRPOParams,
    training: Training,
    machine: Machine,
    result: Estimate,
    *,
    tokens: float,
    mean: float,
) -> None:
    """Forward passes for the reference, and for the policy that drew where a rollout is several updates."""
    count = int(params.beta > 0)
    # A CPU keeps the log-probs of the draw (docs/grpo.md).
    if machine.gpu and params.minibatches_per_rollout * params.inner_epochs > 1:
        count += 1
    rates = published_rates(training, machine.card)
    if rates is not None:
        # A forward pass is a third of a training step.
        result.add("log-probs", count * tokens / (3 * rates.trained * training.ranks))
        return
    passes = tokens / training.ranks / training.tokens
    each = forward_seconds(
        training,
        machine.card,
        machine.efficiency,
        mean,
    )
    result.add("log-probs", count * passes * each)


def _rollout_seconds(
    training: Training,
    machine: Machine,
    responses: float,
    prompt: float,
    mean: float,
    longest: float,
) -> float:
    rates = published_rates(training, machine.card)
    if rates is not None:
        return max(longest / rates.speed, responses * mean / (rates.drawn * training.ranks))
    rows = math.ceil(responses / training.ranks)
    return drawing_seconds(
        training.shape,
        machine.card,
        rows=rows,
        prompt=prompt,
        mean=mean,
        longest=longest,
        graphs=training.rollout.twin or not training.rollout.rows,
        compiled=training.compiled or not training.rollout.rows,
        efficiency=machine.efficiency,
    )


# --- drawing ----------------------------------------------------------------------------------------------------------


def _drawing_ranks(work: Work, machine: Machine) -> int:
    launch = work.stage.config.launch
    if machine.asked and machine.gpu:
        return machine.ranks
    if launch.num_processes == "auto":
        return machine.ranks
    return launch.num_processes * launch.nodes


def _drawing_memory(shape: ModelShape, draws: list[Draw], machine: Machine) -> Footprint:
    """Weights that only sample, and the cache of the largest batch; a model that is too large is spread by vLLM."""
    weights = shape.parameters * (HALF if machine.gpu else FLOAT)
    caches = []
    for draw in draws:
        rows = min(draw.sampling.batch_size, draw.prompts * draw.n)
        columns = draw.prompt + draw.sampling.max_tokens
        if draw.sampling.backend == "vllm":
            # vLLM takes what it is given, and has as many sequences at work as fit.
            caches.append(0.9 * machine.card.memory - weights)
        else:
            caches.append(rows * columns * shape.cache_numbers * HALF)
    terms: Terms = {"weights": weights, "cache": max(0.0, *caches)}
    terms["logits"] = max(draw.sampling.batch_size for draw in draws) * shape.vocabulary * 10.0
    return Footprint(
        "drawing",
        terms,
        {"drawing": sum(terms.values())},
    )


def _draw(shape: ModelShape, draw: Draw, machine: Machine, result: Estimate) -> None:
    responses = draw.prompts * draw.n
    result.drawn += responses * draw.answer
    result.flops += responses * draw.answer * 2 * shape.active
    sampling = draw.sampling
    rows = max(1.0, min(sampling.batch_size, responses / max(1, result.gpus)))
    rates = published_rates(
        Training(
            shape=shape,
            tokens=1,
            ranks=machine.ranks,
        ),
        machine.card,
    )
    if rates is not None:
        result.published = rates.source
        result.add("draw", responses * draw.answer / (rates.drawn * machine.ranks))
        return
    card = machine.card
    if not machine.gpu:
        # Processes on one CPU share its cores.
        share = 1 / max(1, result.gpus)
        card = replace(
            card,
            flops=card.flops * share,
            bandwidth=card.bandwidth * share,
        )
    # As r1pipe/generation/hf.py decides.
    likely = responses / max(1, result.gpus) * min(sampling.max_tokens, LIKELY_TOKENS)
    compiled = shape.parameters >= COMPILED_PARAMETERS and likely >= COMPILED_TOKENS
    if machine.gpu and compiled:
        result.add("compile", COMPILING_S)
    for batch, count in _batches(responses / max(1, result.gpus), rows):
        longest = longest_of(
            batch,
            draw.answer,
            sampling.max_tokens,
        )
        each = drawing_seconds(
            shape,
            card,
            rows=math.ceil(batch),
            prompt=draw.prompt,
            mean=draw.answer,
            longest=longest,
            graphs=machine.gpu and not shape.experts,
            compiled=compiled,
            efficiency=machine.efficiency,
        )
        result.add("draw", count * each)


def _batches(responses: float, rows: float) -> Iterator[tuple[float, float]]:
    """(rows, how many such batches): full ones, and what is left."""
    full, left = divmod(responses, rows)
    if full:
        yield rows, full
    if left >= 1:
        yield left, 1

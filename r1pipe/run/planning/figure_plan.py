"""The plan of a whole figure: each stage on the machine that is asked for, with totals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1pipe.config.loader import Pipeline
from r1pipe.config.machine import cpu_cores, gpus, nvidia_smi
from r1pipe.errors import InputError
from r1pipe.run.planning.cards import CARDS, GIB, Card
from r1pipe.run.planning.estimate import Estimate, estimate
from r1pipe.run.planning.fitting import Change, fits, smaller_batch, smallest_changes
from r1pipe.run.planning.lengths import Length
from r1pipe.run.planning.model_shape import ModelShape
from r1pipe.run.planning.seen import seen_lengths, seen_rows, seen_seconds
from r1pipe.run.planning.speed import DEFAULT, Efficiency
from r1pipe.run.planning.training_setup import Machine
from r1pipe.run.planning.work import Figure, Work
from r1pipe.run.store import RunFolder

# A core's float32 operations a second with AVX2, and its share of a desktop's memory bandwidth: orders of magnitude,
# which --measure replaces.
CPU_FLOPS = 8e10
CPU_BANDWIDTH = 1.2e10
# Measured on two cores with the base that ships.
ON_CPU = Efficiency(
    matrices=0.7,
    attention=0.4,
    traffic=45.0,
    bandwidth=0.85,
    kernel=5e-3,
    step=2e-3,
    loop=2e-3,
    drawing=0.13,
    measured="two cores, 2026-11-30",
)
CPU_START_S = 1.0
GPU_START_S = 8.0
# The share of its seconds that compiling takes where an earlier stage has done it.
COMPILED_AGAIN = 0.25


@dataclass
class StagePlan:
    """One stage.

    Attributes:
        measured_s: seconds that it took in the run of this config; None where it has not run.
        fits: None where there is no GPU to fill.
        change: what would make it fit, as a sentence; empty where nothing is needed.
        changed: what the stage then takes.
    """

    work: Work
    found: Estimate
    fits: bool | None
    change: str = ""
    changed: Estimate | None = None
    measured_s: float | None = None

    @property
    def name(self) -> str:
        return self.work.stage.name

    @property
    def seconds(self) -> float:
        """What it took, or takes with the change that makes it fit."""
        if self.measured_s is not None:
            return self.measured_s
        return self.needed.total_s

    @property
    def needed(self) -> Estimate:
        return self.changed or self.found


@dataclass
class FigurePlan:
    """All stages.

    Attributes:
        price: of a GPU's hour; None = none was given.
        notes: guesses and what else the numbers rest on.
    """

    stages: list[StagePlan]
    machine: Machine
    price: float | None
    notes: list[str] = field(default_factory=list)

    @property
    def gpu_hours(self) -> float:
        """A machine is paid for while any of its GPUs is at work, so each stage counts all that it holds."""
        if not self.machine.gpu:
            return 0.0
        return sum(stage.seconds * max(1, stage.needed.gpus) for stage in self.stages) / 3600

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk(self) -> float:
        """Bytes at the fullest: all that stays, and what the largest stage has beside it."""
        stays = sum(stage.needed.disk for stage in self.stages)
        return stays + max((stage.needed.scratch for stage in self.stages), default=0.0)


def plan_figure(
    pipeline: Pipeline,
    machine: Machine,
    *,
    price: float | None = None,
    model: ModelShape | None = None,
    lengths: dict[str, Length] | None = None,
    anew: bool = False,
) -> FigurePlan:
    """Plan every stage.

    Args:
        model: stands for every model that the user brings.
        lengths: stage -> tokens of its responses, which count before what a run showed.
        anew: seconds are planned, also of stages that have run.

    Raises:
        InputError: a length is given for a stage that is not there.
    """
    for name in lengths or {}:
        if name not in pipeline.stages:
            raise InputError(
                f"no stage is called '{name}'", "--length", f"stages: {', '.join(pipeline.stages)}"
            )
    # What is stated goes before what a run showed, and that before a guess.
    folder = RunFolder(pipeline.run)
    figure = Figure(
        pipeline,
        model=model,
        lengths=seen_lengths(folder, pipeline) | (lengths or {}),
        counted=seen_rows(folder, pipeline),
    )
    plan = FigurePlan(
        [],
        machine,
        price,
        figure.notes,
    )
    compiled: set[tuple[Any, type]] = set()
    for name, work in figure.works.items():
        # Seconds of a run are those of this machine, not of one that is asked for.
        measured = None if machine.asked or anew else seen_seconds(folder, name)
        stage = _stage_plan(
            work,
            machine,
            measured,
        )
        plan.stages.append(stage)
        # What one stage has compiled is there for the next that does the same with the same shape.
        key = (work.shape, type(work.params))
        for found in filter(None, (stage.found, stage.changed)):
            if key in compiled and "compile" in found.seconds:
                found.seconds["compile"] *= COMPILED_AGAIN
        if "compile" in stage.found.seconds:
            compiled.add(key)
        if work.shape is None and "model" in work.stage.inputs and work.stage.inputs["model"] is not None:
            figure.note(f"{name}: nothing is known of its model; --model NAME plans with another one")
    published = {stage.found.published for stage in plan.stages if stage.found.published}
    plan.notes.extend(sorted(published))
    return plan


def _stage_plan(work: Work, machine: Machine, measured: float | None) -> StagePlan:
    # First as the config says it.
    found = estimate(work, machine)
    does_fit = fits(found.memory, machine)
    plan = StagePlan(
        work,
        found,
        does_fit,
        measured_s=measured,
    )
    if does_fit is not False:
        return plan
    if work.draws:
        batch = smaller_batch(work, machine)
        plan.change = "does not fit: a model behind a service (sampling.endpoint), or vLLM over more GPUs"
        if batch:
            plan.change = f"does not fit: set sampling.batch_size: {batch}"
        return plan
    changes = smallest_changes(
        work,
        found,
        machine,
    )
    if not changes:
        plan.change = "does not fit, and no change of memory settings helps: a larger card or more GPUs"
        return plan
    plan.changed = estimate(
        work,
        machine,
        changes[0].training,
    )
    plan.change = "does not fit: set " + "; or ".join(_needs(change) for change in changes)
    return plan


def _needs(change: Change) -> str:
    """A change, and what the stage then needs."""
    needs = f"{change.memory.used / GIB:.1f} GiB"
    if change.training.offload != "none":
        # Adam's moments, master weights and gradients in float32.
        beside = 16 * change.training.trained / change.training.ranks
        needs += f", and {beside / GIB:.0f} of the CPU's"
    return f"{change.text} ({needs})"


# --- the machine ------------------------------------------------------------------------------------------------------


def asked_machine(
    gpu: str | None,
    gpus_each: int | None,
    nodes: int | None,
    memory_gib: float | None = None,
    efficiency: Efficiency | None = None,
) -> Machine:
    """The machine that the options describe; without any, this one.

    Args:
        efficiency: of this machine's card, where it was measured; another card goes by DEFAULT.

    Raises:
        InputError: no card is known by this name.
    """
    if gpu is None and gpus_each is None and nodes is None and memory_gib is None:
        return this_machine(efficiency)
    own = this_card()
    card = own or CARDS["h100"]
    if gpu is not None:
        found = CARDS.get(gpu.lower())
        if found is None:
            raise InputError(
                f"plan does not know the card '{gpu}'",
                "--gpu",
                f"one of {', '.join(CARDS)}",
            )
        card = found
    # What was measured on a CPU, or on another card, says nothing of this one.
    if own is None or own.name != card.name:
        efficiency = None
    if memory_gib is not None:
        memory = memory_gib * GIB
        card = Card(
            f"{memory_gib:g} GB",
            memory,
            card.flops,
            card.bandwidth,
            card.link,
            card.network,
        )
    return Machine(
        card,
        gpus_each or 1,
        nodes or 1,
        efficiency=efficiency or DEFAULT,
        start_s=GPU_START_S,
        asked=True,
    )


def this_machine(efficiency: Efficiency | None = None) -> Machine:
    """The GPUs of this machine, or its CPU."""
    card = this_card()
    if card is not None:
        return Machine(
            card,
            len(gpus()),
            efficiency=efficiency or DEFAULT,
            start_s=GPU_START_S,
        )
    cores = cpu_cores()
    card = Card(
        "cpu",
        _memory_of_this_machine(),
        CPU_FLOPS * cores,
        CPU_BANDWIDTH * cores,
    )
    return Machine(
        card,
        gpu=False,
        efficiency=efficiency or ON_CPU,
        start_s=CPU_START_S,
    )


def this_card() -> Card | None:
    """The first GPU here; where its name is not known, the memory is its own and the speed that of an A100."""
    if not gpus():
        return None
    try:
        line = nvidia_smi("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")[0]
    except (OSError, ValueError, IndexError):
        return None
    name, _, mib = line.rpartition(",")
    words = name.lower().replace("-", " ").split()
    known = next((card for key, card in CARDS.items() if key.split("-")[0] in "".join(words)), CARDS["a100"])
    memory = float(mib) * 2**20
    return Card(
        known.name,
        memory,
        known.flops,
        known.bandwidth,
        known.link,
        known.network,
    )


def _memory_of_this_machine() -> float:
    try:
        line = Path("/proc/meminfo").read_text().splitlines()[0]
        return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 16 * GIB


# --- as JSON ----------------------------------------------------------------------------------------------------------


def as_json(plan: FigurePlan) -> dict[str, Any]:
    """The plan for programs: bytes, seconds, tokens."""
    stages = {}
    for stage in plan.stages:
        found = stage.found
        memory = found.memory
        entry: dict[str, Any] = {
            "gpus": found.gpus,
            "parameters": stage.work.shape.parameters if stage.work.shape else None,
            "fits": stage.fits,
            "change": stage.change,
            "seconds": found.total_s,
            "parts_s": found.seconds,
            "measured_s": stage.measured_s,
            "tokens_drawn": found.drawn,
            "tokens_trained": found.trained,
            "updates": found.updates,
            "flops": found.flops,
            "disk": found.disk,
        }
        if memory is not None:
            entry |= {
                "memory": memory.used,
                "peak": memory.peak,
                "moment": memory.moment,
                "terms": memory.terms,
            }
        stages[stage.name] = entry
    totals: dict[str, Any] = {
        "seconds": plan.seconds,
        "gpu_hours": plan.gpu_hours,
        "disk": plan.disk,
        "tokens_drawn": sum(stage.found.drawn for stage in plan.stages),
        "tokens_trained": sum(stage.found.trained for stage in plan.stages),
        "flops": sum(stage.found.flops for stage in plan.stages),
    }
    if plan.price is not None:
        totals["money"] = plan.price * plan.gpu_hours
    machine = plan.machine
    return {
        "machine": {
            "card": machine.card.name,
            "memory": machine.card.memory,
            "gpus": machine.gpus if machine.gpu else 0,
            "nodes": machine.nodes,
            "measured": machine.efficiency.measured,
        },
        "estimates": stages,
        "totals": totals,
        "notes": plan.notes,
    }

"""What was planned for a stage beside what it took, so that every run grades the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r1pipe.errors import R1PipeError
from r1pipe.run.planning.numbers import duration

if TYPE_CHECKING:
    from r1pipe.config.loader import Pipeline

# A stage that is off by more than this share says so, if it is more than some seconds: what starts in one second and
# was planned with two is no news.
OFF = 0.30
LEAST_S = 5.0


def predictions(pipeline: Pipeline) -> dict[str, dict[str, float]]:
    """Stage -> wall_s and, where it uses a GPU, peak_gib and memory_gib, as planned for this machine.

    The first is what PyTorch's allocator hands out at most, the second what nvidia-smi shows.

    A figure that cannot be planned runs all the same: it has none.
    """
    # `status` reads grades, and need not wait for the planner.
    from r1pipe.run.planning.calibration import measured_efficiency
    from r1pipe.run.planning.cards import GIB
    from r1pipe.run.planning.figure_plan import plan_figure, this_machine

    try:
        plan = plan_figure(
            pipeline,
            this_machine(measured_efficiency()),
            anew=True,
        )
    except R1PipeError:
        return {}
    planned = {}
    for stage in plan.stages:
        if stage.work.asks_service:
            continue
        planned[stage.name] = {"wall_s": round(stage.found.total_s, 1)}
        memory = stage.found.memory
        if memory is not None and plan.machine.gpu:
            planned[stage.name]["peak_gib"] = round(memory.peak / GIB, 2)
            planned[stage.name]["memory_gib"] = round(memory.used / GIB, 2)
    return planned


def graded(record: dict[str, Any]) -> dict[str, Any]:
    """`predicted`, `measured` and `off` (measured / predicted, of what is off by more than OFF) of a stage's record."""
    predicted = record.get("predicted")
    if not isinstance(predicted, dict) or not predicted:
        return {}
    measured = {"wall_s": record.get("wall_s", 0.0)}
    gpu = record.get("gpu", {})
    # PyTorch keeps freed memory as long as there is enough, so its own count says more than nvidia-smi's.
    counted = "peak_gib" if gpu.get("peak_gib") else "memory_gib"
    if gpu.get(counted) and counted in predicted:
        measured[counted] = gpu[counted]
    # Measured over planned, of what is off.
    off = {}
    for name, value in measured.items():
        planned = predicted.get(name, 0.0)
        small = name == "wall_s" and abs(value - planned) <= LEAST_S
        if planned and not small and abs(value / planned - 1) > OFF:
            off[name] = round(value / planned, 2)
    return {"predicted": predicted, "measured": measured, "off": off}


def remark(record: dict[str, Any]) -> str:
    """What is off by more than 30 %, in words; empty where nothing is."""
    grade = graded(record)
    parts = []
    if "wall_s" in grade.get("off", {}):
        took = duration(grade["measured"]["wall_s"])
        planned = duration(grade["predicted"]["wall_s"])
        parts.append(f"took {took}, {planned} were planned")
    for name in ("peak_gib", "memory_gib"):
        if name in grade.get("off", {}):
            used = grade["measured"][name]
            planned_gib = grade["predicted"][name]
            parts.append(f"used {used:.1f} GiB of a GPU, {planned_gib:.1f} were planned")
    return "; ".join(parts)

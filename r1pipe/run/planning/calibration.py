"""The speed of this machine: measured once, kept with its date, and read by every later plan here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1pipe.config.machine import cpu_cores, device_name, gpus
from r1pipe.errors import StageError
from r1pipe.launch.environment import base_environment
from r1pipe.run.planning.activations import Training, kept_per_token
from r1pipe.run.planning.cards import Card
from r1pipe.run.planning.model_shape import shape_of
from r1pipe.run.planning.speed import DEFAULT, FORWARD, Efficiency, pass_flops

MODULE = "r1pipe.training.speed_trial"
LIMIT_S = 300
# How much less of a card the attention kernel reaches than matrix products, on the H200 of DEFAULT.
ATTENTION_SHARE = 0.55


def kept_file() -> Path:
    """Where measurements are kept, by the freedesktop rule for caches."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "r1pipe" / "speed.json"


def measured_efficiency(*, again: bool = False) -> Efficiency | None:
    """What was measured on this machine; None where nothing was.

    Args:
        again: measure now.

    Raises:
        StageError: the measurement fails.
    """
    file = kept_file()
    name = f"{device_name()}, {cpu_cores()} cores"
    kept = _read(file)
    if again:
        kept[name] = {"date": time.strftime("%Y-%m-%d"), **_measure()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf8")
    if name not in kept:
        return None
    from r1pipe.run.planning.figure_plan import this_machine

    try:
        return efficiency_of(
            kept[name],
            this_machine().card,
            gpu=bool(gpus()),
        )
    except (KeyError, TypeError, ValueError):
        # Of another version of r1pipe.
        return None


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _measure() -> dict[str, Any]:
    """What the trial prints; it runs in a process of its own, since this one never imports torch."""
    command = [sys.executable, "-m", MODULE, "cuda:0" if gpus() else "cpu"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=base_environment(),
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageError(
            f"the speed of this machine cannot be measured: {last:.300}",
            MODULE,
            f"{' '.join(command)} shows all of it",
        )
    return json.loads(lines[-1])


def efficiency_of(measured: dict[str, Any], card: Card, *, gpu: bool) -> Efficiency:
    """The shares of a card that explain what was measured.

    A short pass is all starting of kernels. What a long pass takes beyond it is matrices at the speed that a product
    alone reached, and the rest is element-wise work.
    """
    shape = shape_of(measured["shape"])
    short, long = measured["passes"]
    training = Training(
        shape=shape,
        tokens=long["tokens"],
        gpu=gpu,
    )
    kernel = short["seconds"] / shape.layers
    matrices = measured["matrix_flops"] / card.flops
    # Rows are short, so attention hardly counts, and goes by the same share.
    flops = pass_flops(training, measured["row"])
    bandwidth = 0.85
    working = long["seconds"]
    if not gpu:
        # The short pass is work, too, and a CPU starts the next kernel only when the last is done.
        per_token = max(1e-9, (long["seconds"] - short["seconds"]) / (long["tokens"] - short["tokens"]))
        working = long["tokens"] * per_token
        kernel = max(0.0, short["seconds"] - short["tokens"] * per_token) / shape.layers
    moved = kept_per_token(training) * shape.layers * long["tokens"]
    left = max(0.0, working - flops / (card.flops * matrices))
    traffic = left * card.bandwidth * bandwidth / moved
    # What does not grow with the rows is the starting of kernels; what does is their work.
    few, many = measured["draws"]
    each = max(1e-9, (many["step"] - few["step"]) / (many["rows"] - few["rows"]))
    loop = max(0.0, few["step"] - few["rows"] * each) / shape.layers
    # A token of one more row takes its operations, at the share of the card that this says.
    drawing = min(1.0, FORWARD * shape.active / each / card.flops)
    found = Efficiency(
        matrices=matrices,
        attention=matrices * ATTENTION_SHARE,
        traffic=traffic,
        traffic_compiled=traffic * DEFAULT.traffic_compiled / DEFAULT.traffic,
        bandwidth=bandwidth,
        kernel=kernel,
        step=loop,
        step_compiled=loop,
        loop=loop,
        drawing=drawing,
        measured=f"here, {measured['date']}",
    )
    if not gpu:
        return found
    # The plain loop was measured. CUDA graphs and what they draw stand to it as on the card of DEFAULT.
    return replace(
        found,
        step=loop * DEFAULT.step / DEFAULT.loop,
        step_compiled=loop * DEFAULT.step_compiled / DEFAULT.loop,
        drawing=DEFAULT.drawing,
    )

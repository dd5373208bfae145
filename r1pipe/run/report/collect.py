"""All that the page shows, from a run's folder alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1pipe.here import RESPONSES
from r1pipe.run.records import read_object
from r1pipe.run.report.curves import curves, is_number, read_lines
from r1pipe.run.report.figure import draw, kind_of, texts
from r1pipe.run.report.samples import samples
from r1pipe.run.status import run_status
from r1pipe.run.store import RunFolder, outputs_of, whole_manifest

# Of the responses that RL has written down, so many updates are in the page, and so many responses of each.
SHOWN_UPDATES, SHOWN_RESPONSES = 6, 2
SHOWN_CHARACTERS = 2000

_OF_A_DIFFERENCE = ("difference", "low", "high")

# What a GPU's hour costs, where `r1pipe report --price` said it.
PRICE = "price.json"

# Written by the driver, which alone knows the YAML: the config's lines with their origins, and the departures.
CONFIG_VIEW = "config_view.json"


def collect(folder: RunFolder) -> dict[str, Any]:
    """What report.json holds.

    Raises:
        InputError: there is no such run, or its config.json is damaged.
    """
    # The same as `r1pipe status` shows, so that the two never differ.
    status = run_status(folder.run)
    blocks = blocks_of(folder)
    summary = read_object(folder.path / "summary.json")
    view = read_object(folder.path / CONFIG_VIEW)
    states = {stage["name"]: stage for stage in status["stages"]}
    stages = [_stage(name, block, states.get(name, {}), folder) for name, block in blocks.items()]
    figure = draw(blocks)
    keys = _score_keys(blocks)
    # A checkpoint has its scores from an evaluation, which is another stage and has no box.
    for box in figure["boxes"]:
        state = states.get(box["name"], {}).get("state", "given")
        scored = next((keys[artifact] for artifact in box["makes"] if artifact in keys), "")
        box |= {"state": state, "checkpoint": scored}
    report = {
        "run": folder.run,
        "device": summary.get("device", ""),
        "wall_s": round(sum(stage["wall_s"] for stage in stages), 1),
        "cost": cost_of(stages, read_object(folder.path / PRICE).get("price")),
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
        "running": status["driver"] is not None,
        "figure": figure,
        "stages": stages,
        "scores": status["scores"],
        "differences": list(_differences(blocks, folder)),
        "cards": [card for name in blocks for card in _cards(name, folder)],
        "versions": _versions(blocks, folder),
        "config": view.get("lines", []),
        "departures": view.get("departures", []),
        "samples": samples(blocks, folder),
    }
    return finite(report)


def blocks_of(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The blocks of the stages in a run's config.json, in their order."""
    stages = read_object(folder.path / "config.json").get("stages") or {}
    return {name: block for name, block in stages.items() if isinstance(block, dict)}


def cost_of(stages: list[dict[str, Any]], price: Any) -> dict[str, float] | None:
    """GPU hours and money of the stages that used GPUs, all their attempts; None where no price was given.

    A GPU is paid for while a stage holds it, busy or not.
    """
    if not is_number(price):
        return None
    hours = sum(stage["wall_s"] * stage["gpus"] for stage in stages) / 3600
    return {"price": price, "gpu_hours": round(hours, 3), "money": round(hours * price, 2)}


def finite(value: Any) -> Any:
    """A value with None in the place of NaN and infinity, which Python writes and no browser reads.

    >>> finite({"stderr": float("nan"), "n": 1})
    {'stderr': None, 'n': 1}
    """
    if isinstance(value, float):
        return value if is_number(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def _stage(
    name: str,
    block: Mapping[str, Any],
    state: Mapping[str, Any],
    folder: RunFolder,
) -> dict[str, Any]:
    stage = folder.stage(name)
    manifest = whole_manifest(stage)
    logged = curves(stage.metrics)
    return {
        "name": name,
        "kind": kind_of(name, block),
        "state": state.get("state", "missing"),
        "wall_s": state.get("wall_s", 0.0),
        "attempts": manifest.get("attempts") or state.get("attempts", 0),
        "finished": manifest.get("finished", ""),
        "reads": list(texts(block.get("inputs"))),
        "makes": list(texts(block.get("outputs"))),
        "metrics": manifest.get("metrics", {}),
        "gpu": manifest.get("gpu", {}),
        "gpus": _gpus(manifest),
        "progress": state.get("progress"),
        "gates": state.get("gates", []),
        "notes": [str(line["note"]) for line in read_lines(stage.notes) if "note" in line],
        "responses": _responses(stage.path / RESPONSES),
        **logged,
    }


def _responses(file: Path) -> list[dict[str, Any]]:
    """A few responses of an RL stage at its first update, at its last, and at some between."""
    shown: dict[float, list[Any]] = {}
    for line in read_lines(file):
        # An attempt that goes on writes some of them again.
        if is_number(line.get("step")) and isinstance(line.get("responses"), list):
            shown[line["step"]] = line["responses"]
    steps = sorted(shown)
    count = min(len(steps), SHOWN_UPDATES)
    chosen = {steps[place * (len(steps) - 1) // max(1, count - 1)] for place in range(count)}
    return [
        {
            "step": step,
            "prompt": str(one.get("prompt", ""))[:SHOWN_CHARACTERS],
            "response": str(one.get("response", ""))[:SHOWN_CHARACTERS],
            "rewards": {name: value for name, value in rewards.items() if is_number(value)},
        }
        for step in sorted(chosen)
        for one in shown[step][:SHOWN_RESPONSES]
        if isinstance(one, dict) and isinstance(rewards := one.get("rewards"), dict)
    ]


def _gpus(manifest: Mapping[str, Any]) -> int:
    """GPUs that a finished stage held: one for each rank, where any was seen."""
    if not manifest.get("gpu"):
        return 0
    return max(1, manifest.get("launched", {}).get("world_size", 1))


def _score_keys(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """artifact -> the name under which its scores stand."""
    keys: dict[str, str] = {}
    for name, block in blocks.items():
        # The base is evaluated under a name that no stage gives it.
        if kind_of(name, block) == "evaluate":
            model = next(texts((block.get("inputs") or {}).get("model")), "")
            keys[model] = str(block.get("checkpoint") or model)
    return keys


def _differences(blocks: Mapping[str, Any], folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The paired differences of `compare` stages."""
    for name in blocks:
        for output, path in outputs_of(folder.stage(name)):
            file = path / "paired.json"
            if output["type"] == "report" and file.is_file():
                rows = json.loads(file.read_text(encoding="utf8"))
                yield from (row for row in rows if all(is_number(row.get(name)) for name in _OF_A_DIFFERENCE))


def _cards(name: str, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The cards of a stage's datasets, with what was left out and why."""
    for output, path in outputs_of(folder.stage(name)):
        card = read_object(path / "card.json")
        if not card:
            continue
        yield {
            "name": output["name"],
            "stage": name,
            "rows": card.get("rows"),
            # Of pairs and of mixes the card has none.
            "domains": _by_domain(card),
            "dropped": _dropped(card),
            "tokens": _mean_tokens(card),
            "reviews": card.get("reviews", ""),
        }


def _dropped(card: Mapping[str, Any]) -> dict[str, float]:
    """Reason -> rows that were left out, over all sources."""
    dropped: dict[str, float] = dict(card.get("dropped") or {})
    sources = card.get("sources")
    if not isinstance(sources, dict):
        return dropped
    for counts in sources.values():
        # A source that keeps all it has is a number.
        if not isinstance(counts, dict):
            continue
        for reason, count in counts.items():
            if reason != "kept":
                dropped[reason] = dropped.get(reason, 0) + count
    return dropped


def _by_domain(card: Mapping[str, Any]) -> dict[str, Any]:
    """Domain -> rows, which labels have by what they say."""
    rows: dict[str, Any] = {}
    for domain, count in (card.get("domains") or {}).items():
        rows[domain] = sum(count.values()) if isinstance(count, dict) else count
    return rows


def _mean_tokens(card: Mapping[str, Any]) -> float | None:
    total = (card.get("statistics") or {}).get("total") or {}
    return (total.get("tokens") or {}).get("mean")


def _versions(blocks: Mapping[str, Any], folder: RunFolder) -> dict[str, list[str]]:
    """Each library -> its versions in the stages that are done; more than one where it was changed in between."""
    found: dict[str, list[str]] = {}
    for name in blocks:
        for library, version in whole_manifest(folder.stage(name)).get("versions", {}).items():
            # The hashes of stages' modules differ by stage, and say nothing to a reader.
            if library.startswith("stage "):
                continue
            versions = found.setdefault(library, [])
            if version not in versions:
                versions.append(version)
    return found

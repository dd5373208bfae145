"""Data stages, driver and worker in one process, which dies at a chosen place; and what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preloaded import exit_code

# Every kind of data stage, small, on the base that ships; what reads from a stage stands below it.
FIGURE = """
isolation: auto
stages:
  prompts:
    source: [{world: [math, logic, code], count: 60}]
    heldout: [{world: math, count: 20, split: dev}]
    outputs: {prompts: problems, heldout: dev}
  requests: {kind: prompts, source: [{world: [general, safety], count: 48}], outputs: {prompts: requests}}
  exam: {kind: prompts, source: [{world: [math, general], count: 24, split: heldout}], outputs: {prompts: exam}}
  cold-start-data:
    inputs: {model: embedded:base, prompts: problems}
    outputs: {chats: cold}
    template: ZERO
    sampling: &drawn {temperature: 1.0, top_p: 1.0, n: 1, max_tokens: 80, batch_size: 16}
    rewriter: world
    filters: {form: auto, min_language: null}
  rejection-sampling:
    inputs: {model: embedded:base, prompts: problems}
    outputs: {chats: reasoning}
    template: ZERO
    sampling: *drawn
    filters: {form: auto, min_language: null}
  general-data:
    inputs: {prompts: requests}
    outputs: {chats: general}
    writer: world
    judge: world
  mix: {inputs: {chats: {cold: cold, general: general}}, outputs: {chats: mixed}}
  preference-data:
    inputs: {model: embedded:base, prompts: {general: requests}}
    outputs: {pairs: pairs, labels: labels}
    judge: world
    also: world
    min_margin: 0
    length_tolerance: 0.99
    sampling: {temperature: 1.0, top_p: 1.0, n: 3, max_tokens: 40, batch_size: 48}
  evaluate: &evaluate
    inputs: {model: embedded:base, prompts: {exam: exam}}
    outputs: {report: scores-base}
    checkpoint: base
    template: ZERO
    judge: world
    passes: [{sampling: *drawn}]
  evaluate-student:
    <<: *evaluate
    kind: evaluate
    inputs: {model: embedded:student, prompts: {exam: exam}}
    outputs: {report: scores-student}
    checkpoint: student
  compare:
    inputs: {prompts: exam, reports: {base: scores-base, student: scores-student}}
    outputs: {report: comparison}
    judge: world
    against: base
    differences: [[student, base]]
"""
TOKENS_OF_AN_EVENT = 50
KINDS = (
    "prompts",
    "cold-start-data",
    "rejection-sampling",
    "general-data",
    "mix",
    "preference-data",
    "evaluate",
    "compare",
)


def run(folder: Path, stage: str, die_at: str = "") -> int:
    """One attempt at a stage of the config in a folder; the exit code, negative for a signal."""
    return exit_code(attempt, folder, stage, die_at)


def attempt(folder: Path, stage: str, die_at: str) -> None:
    """Run a stage as the driver does, with its worker in the same process.

    Args:
        die_at: `event:N` = just before the Nth event: a file of the run that is opened for writing, renamed or removed,
            a record that is appended to a journal, a 50th token that is drawn. They are logged.
    """
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    with (folder / f"log-{stage}").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from r1pipe.config.loader import load
    from r1pipe.launch.worker import run_rank
    from r1pipe.run.console import Silent
    from r1pipe.run.interrupts import TimeLimit
    from r1pipe.run.plan import make_plan, refuse
    from r1pipe.run.stage_runner import run_stage

    class InThisProcess:
        def run(self, launch: Any, stage_json: Path, log: Any, tick: Callable[[], None]) -> list[int]:
            return [run_rank(stage_json)]

    plan = make_plan(load(folder / "t.yaml"), only=[stage])
    refuse(plan)
    if not plan.todo:
        return
    plan.folder.path.mkdir(parents=True, exist_ok=True)
    _watch(plan.folder.path, int(die_at.removeprefix("event:") or 0))
    launcher: Any = InThisProcess()
    run_stage(
        plan,
        plan.pipeline.stages[stage],
        launcher,
        Silent(),
        beat=lambda: None,
        limit=TimeLimit(None),
        isolated=False,
    )


def _watch(run_folder: Path, number: int) -> None:
    seen = 0

    def happens(what: str) -> None:
        nonlocal seen
        seen += 1
        print(f"event {seen}: {what}", file=sys.stderr, flush=True)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, _ = args
            counts = isinstance(mode, str) and mode[0] in "wxa"
        elif event in ("os.rename", "os.remove", "shutil.rmtree"):
            path, counts = args[0], True
        else:
            return
        # Progress and notes are for the eye, and come by the clock.
        shown = str(path).endswith(("progress.jsonl", "notes.jsonl", ".log"))
        if counts and not shown and str(path).startswith(str(run_folder)):
            happens(f"{event} {Path(str(path)).relative_to(run_folder)}")

    sys.addaudithook(watch)
    import torch

    from r1pipe.generation.journal import Journal

    append = Journal.append

    def appending(self: Journal, key: Any, digest: str, **record: Any) -> None:
        happens(f"append {key}")
        append(self, key, digest, **record)

    Journal.append = appending

    from r1pipe.generation.decoding import EagerModel

    step = EagerModel.step
    steps = 0

    def stepping(self: EagerModel, token_B: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps % TOKENS_OF_AN_EVENT == 0:
            happens("token")
        return step(self, token_B)

    EagerModel.step = stepping


def events(folder: Path, stage: str) -> list[str]:
    """What happened in an undisturbed run, in order."""
    lines = (folder / f"log-{stage}").read_text().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("event ")]


def ten_places(happened: list[str]) -> list[int]:
    """The numbers of ten events: one of each sort that the stage has, and others spread over the whole."""
    sorts = (
        "token",
        "append",
        "open .*workdir",
        "open .*out.partial",
        "os.rename [^/]*/out.partial$",
        "open .*manifest",
    )
    chosen: list[int] = []
    for sort in sorts:
        numbers = [number for number, what in enumerate(happened, 1) if re.match(sort, what)]
        # not the first: something is there to go on from
        chosen += numbers[len(numbers) // 2 :][:1]
    spread = [1 + round(step * (len(happened) - 1) / 9) for step in range(10)]
    between = [number + 1 for number in spread if number < len(happened)]
    return sorted(list(dict.fromkeys([*chosen, *spread[::-1], *between]))[:10])


def made(folder: Path, stage: str) -> dict[str, str]:
    """What a stage has published: file -> content without the folder's name; and its metrics."""
    stage_folder = folder / "runs/t" / stage
    out = stage_folder / "out"
    files = {
        str(path.relative_to(out)): path.read_text(encoding="utf8").replace(str(folder), "")
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    manifest = json.loads((stage_folder / "manifest.json").read_text())
    return files | {"metrics": json.dumps(manifest["metrics"])}

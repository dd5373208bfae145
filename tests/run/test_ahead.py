"""A stage that gets ready beside the one before it: it waits for its turn, and what comes of it is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine import FIXTURES, ROOT, alive, config, environment, manifest, start, wait_for

from r1pipe.config.loader import load
from r1pipe.errors import R1PipeError
from r1pipe.here import Here
from r1pipe.launch.environment import base_environment
from r1pipe.launch.forkserver import Client
from r1pipe.launch.launcher import Launcher
from r1pipe.run import ahead, pipeline
from r1pipe.run.console import Console
from r1pipe.run.interrupts import Interrupted
from r1pipe.run.plan import make_plan
from r1pipe.run.planning import figure_plan
from r1pipe.run.planning.cards import CARDS, GIB
from r1pipe.run.status import run_status

Drive = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    path = {"PYTHONPATH": environment()["PYTHONPATH"]}
    client = Client(environment() | base_environment() | path, tmp_path_factory.mktemp("server") / "log")
    wait_for(client.usable)
    yield client
    client.close()


@pytest.fixture
def drive(tmp_path: Path, server: Client, monkeypatch: pytest.MonkeyPatch) -> Drive:
    """Runs stages of the kind `beside`, in this process, and returns the lines of their trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FIXTURES))
    monkeypatch.setenv("R1PIPE_AHEAD", "always")
    # A busy machine would get a server of its own.
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(Launcher, "warm", lambda self, launches: setattr(self, "_server", server))
    # The server is there for the next test, too.
    monkeypatch.setattr(server, "close", lambda: None)

    def run(minutes: float | None = None, tick: Callable[[], None] = lambda: None, **stages: str) -> Any:
        text = "stages:\n"
        for name, options in stages.items():
            text += (
                f"  {name}: {{kind: r1pipe_fakes.beside, outputs: {{rows: {name}}}, trace: {tmp_path}/trace"
            )
            text += f"{', ' if options else ''}{options}}}\n"
        path = config(tmp_path, text)
        (tmp_path / "trace").touch()

        class Ticking(Console):
            def tick(self, *arguments: Any) -> None:
                super().tick(*arguments)
                tick()

        loaded = load(path)
        pipeline.run(lambda: make_plan(loaded), Ticking(), minutes)
        return trace(tmp_path)

    return run


def trace(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "trace").read_text().splitlines()]


def events(lines: list[list[str]]) -> list[str]:
    return [f"{stage} {event}" for stage, event, _ in lines]


def test_the_next_stage_gets_ready_beside_and_begins_in_its_turn(drive: Drive, tmp_path: Path):
    seen: list[str] = []

    def look() -> None:
        if not seen and "b ready" in events(trace(tmp_path)):
            seen.extend(stage["state"] for stage in run_status("t")["stages"])

    lines = drive(a="until: b ready", b="until: c ready", c="", tick=look)
    assert events(lines) == [
        *("a ready", "a turn", "b ready", "a end", "b turn"),
        *("c ready", "b end", "c turn", "c end"),
    ]
    assert seen == ["running", "waiting", "missing"]
    for stage in ("b", "c"):
        record = manifest(tmp_path, stage)
        assert record["attempts"] == 1 and 0 < record["ahead_s"] < 30
        assert not (tmp_path / "runs/t" / stage / "turn").exists()
    assert "ahead_s" not in manifest(tmp_path, "a")


def test_a_stage_that_reads_from_the_one_before_it_waits_for_it(drive: Drive):
    lines = drive(a="", b="inputs: {source: a}")
    assert events(lines) == ["a ready", "a turn", "a end", "b ready", "b turn", "b end"]


def test_a_stage_whose_turn_does_not_come_is_ended_and_leaves_nothing(drive: Drive, tmp_path: Path):
    with pytest.raises(R1PipeError, match="a mistake of the stage's"):
        drive(a="until: b ready, then: crash", b="")
    lines = trace(tmp_path)
    assert events(lines) == ["a ready", "a turn", "b ready"]
    assert not alive(int(lines[2][2]))
    assert not (tmp_path / "runs/t/b").exists()


def test_a_gate_that_is_not_met_ends_it_too(drive: Drive, tmp_path: Path):
    with pytest.raises(R1PipeError, match="rows"):
        drive(a="until: b ready, require: rows >= 2", b="")
    assert events(trace(tmp_path))[-1] == "a end"
    assert not (tmp_path / "runs/t/b").exists()


def test_a_failure_while_it_gets_ready_is_forgotten(drive: Drive, tmp_path: Path):
    lines = drive(a="until: b ready", b="then: crash-ahead")
    assert events(lines) == ["a ready", "a turn", "b ready", "a end", "b ready", "b turn", "b end"]
    assert "ahead_s" not in manifest(tmp_path, "b") and manifest(tmp_path, "b")["attempts"] == 1


def test_a_stage_that_starts_again_does_so_in_its_turn(drive: Drive, tmp_path: Path):
    lines = drive(a="until: b ready", b="then: start-again")
    assert events(lines)[3:] == ["a end", "b turn", "b ready", "b turn", "b end"]
    assert manifest(tmp_path, "b")["attempts"] == 2


def test_when_the_time_is_up_both_end_and_the_same_call_goes_on(drive: Drive, tmp_path: Path):
    with pytest.raises(Interrupted):
        drive(a="until: go on", b="", minutes=0.05)
    lines = trace(tmp_path)
    assert events(lines) == ["a ready", "a turn", "b ready"]
    assert not any(alive(int(pid)) for _, _, pid in lines)
    (tmp_path / "trace").write_text("both go on\n")
    assert sorted(events(drive(a="until: go on", b=""))[1:]) == [
        *("a end", "a ready", "a turn", "b end", "b ready", "b turn"),
    ]


def test_it_can_be_switched_off(drive: Drive, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1PIPE_AHEAD", "0")
    assert events(drive(a="", b="")) == ["a ready", "a turn", "a end", "b ready", "b turn", "b end"]


@pytest.mark.slow
def test_both_end_with_the_driver(tmp_path: Path):
    text = "stages:\n"
    for name in "ab":
        text += f"  {name}: {{kind: r1pipe_fakes.beside, outputs: {{rows: {name}}}, trace: {tmp_path}/trace, "
        text += "then: sleep}\n"
    config(tmp_path, text)
    (tmp_path / "trace").touch()
    driver = start(tmp_path, "run-all", "t.yaml", R1PIPE_FORKSERVER="always", R1PIPE_AHEAD="always")
    wait_for(lambda: "b ready" in events(trace(tmp_path)), 90)
    driver.kill()
    driver.communicate(timeout=30)
    wait_for(lambda: not any(alive(int(pid)) for _, _, pid in trace(tmp_path)))


@pytest.mark.slow
def test_the_recipe_gives_the_same(tmp_path: Path):
    found = []
    for wanted in ("0", "always"):
        command = ("run-all", str(ROOT / "configs/smoke.yaml"), "--run", wanted, "--until", "evaluate-dev2")
        driver = start(tmp_path, *command, R1PIPE_FORKSERVER="always", R1PIPE_AHEAD=wanted)
        _, errors = driver.communicate(timeout=300)
        assert driver.returncode == 0, errors
        found.append(json.loads((tmp_path / "runs" / wanted / "summary.json").read_text())["scores"])
    assert found[0] == found[1] and "dev2" in found[0]
    started = {
        stage for stage in ("r1-zero", "reasoning-rl") if "ahead_s" in manifest(tmp_path, stage, "always")
    }
    assert started == {"r1-zero", "reasoning-rl"}


def test_room_is_a_gpu_with_memory_for_both_and_cores_that_do_not_draw(monkeypatch: pytest.MonkeyPatch):
    card = CARDS["rtx4090"]
    monkeypatch.setattr(figure_plan, "this_card", lambda: card)
    monkeypatch.setattr(ahead, "cpu_cores", lambda: 8)

    def room(first: float | None, second: float | None) -> bool:
        return ahead.room_for_both(*({} if gib is None else {"memory_gib": gib} for gib in (first, second)))

    half = 0.5 * ahead.SHARE_OF_MEMORY * card.memory / GIB
    assert room(half, 0.99 * half)
    assert not room(half, 1.01 * half)
    assert not room(half, None) and not room(None, half)
    monkeypatch.setattr(ahead, "cpu_cores", lambda: 2)
    assert not room(half, 0.5 * half)


def test_a_stage_that_was_not_started_ahead_does_not_wait(tmp_path: Path):
    Here("a", tmp_path, tmp_path / "m", tmp_path / "p").wait_for_turn()

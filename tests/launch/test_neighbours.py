"""Others on the cores: noticed, said once, and no stage computes anything else for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1pipe.launch import launcher as launching
from r1pipe.launch import neighbours
from r1pipe.launch.environment import SPINS, waiting_environment
from r1pipe.launch.launcher import Launcher
from r1pipe.launch.neighbours import crowded, used_by_others
from r1pipe.schema import Launch

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say who works")
SPIN = [sys.executable, "-c", "while True: pass"]


@pytest.fixture
def busy() -> Iterator[list[int]]:
    """A program for each core that this process may use."""
    programs = [subprocess.Popen(SPIN) for _ in os.sched_getaffinity(0)]
    time.sleep(0.3)
    yield [program.pid for program in programs]
    for program in programs:
        program.kill()
        program.wait()


@needs_proc
def test_programs_of_others_take_cores_and_own_ones_do_not(busy: list[int]):
    cores = os.sched_getaffinity(0)
    assert crowded(len(cores), own=[])
    # Other tests may run beside this one: how much these programs get is not certain, that it is theirs is.
    with_them = used_by_others(cores, [], 1.0)
    without = used_by_others(cores, busy, 1.0)
    assert with_them > without + 0.2


def test_where_the_system_does_not_say_nobody_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "Path", lambda name: Path("/nowhere") / name.lstrip("/"))
    assert not crowded(10**6, own=[])


def test_a_blip_is_no_neighbour(monkeypatch: pytest.MonkeyPatch):
    used = iter([99.0, 0.0])
    monkeypatch.setattr(neighbours, "used_by_others", lambda *_: next(used))
    assert not crowded(1, own=[])
    monkeypatch.setattr(neighbours, "used_by_others", lambda *_: 99.0)
    assert crowded(1, own=[])


def test_the_users_own_word_counts(monkeypatch: pytest.MonkeyPatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert waiting_environment(False) == {"GOMP_SPINCOUNT": SPINS}
    assert waiting_environment(True) == {"OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert waiting_environment(False) == waiting_environment(True) == {}


def launched(folder: Path, monkeypatch: pytest.MonkeyPatch, seen: list[bool]) -> tuple[list[str], list[str]]:
    """What two stages' workers were told about waiting, and the notes."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    looks = iter(seen)
    monkeypatch.setattr(launching, "crowded", lambda threads, own: next(looks))
    told = []

    def spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        told.append(environment.get("OMP_WAIT_POLICY") or environment["GOMP_SPINCOUNT"])
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(launching, "spawn", spawn)
    monkeypatch.setattr(launching, "LOOK_AGAIN_S", 0.0)
    notes: list[str] = []
    with Launcher(folder / "log", notes.append) as launcher:
        for _ in seen:
            launcher.run(Launch(threads=2), folder / "stage.json", lambda rank: folder / "log", lambda: None)
    return told, notes


def test_threads_sleep_from_the_stage_on_that_has_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert launched(tmp_path, monkeypatch, [False, False]) == ([SPINS, SPINS], [])
    told, notes = launched(tmp_path, monkeypatch, [False, True, False])
    assert told == [SPINS, "PASSIVE", "PASSIVE"]
    assert len(notes) == 1 and "other programs use this machine's cores" in notes[0]


def test_one_thread_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launching, "crowded", lambda threads, own: pytest.fail("nobody needs to look"))
    with Launcher(tmp_path / "log") as launcher:
        launcher._look_around(1)

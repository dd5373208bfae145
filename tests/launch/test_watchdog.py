"""What counts as a sign of life, by a clock of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r1pipe import here
from r1pipe.launch.watchdog import Watchdog


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def passes(watchdog: Watchdog, clock: Clock, seconds: int) -> bool:
    """Whether it says that the stage hangs, at one of its looks in this time."""
    hung = False
    for _ in range(seconds):
        clock.now += 1
        hung = hung or watchdog.hangs()
    return hung


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    "sign", ["progress.jsonl", "metrics.jsonl", "alive.3", "workdir/trainer/.partial/w", "out.partial/rows/r"]
)
def test_what_a_stage_writes_is_a_sign_of_life(tmp_path: Path, clock: Clock, sign: str) -> None:
    """A checkpoint that is being saved, and a generation without output, too."""
    watchdog = Watchdog(tmp_path, 1, clock)
    path = tmp_path / sign
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        path.touch()
        os.utime(path, (number, number))
        assert not passes(watchdog, clock, 50)
    assert passes(watchdog, clock, 70)


def test_its_log_is_none(tmp_path: Path, clock: Clock) -> None:
    """Libraries print there again and again that they wait."""
    watchdog = Watchdog(tmp_path, 1, clock)
    (tmp_path / "logs").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    hung = False
    for number in range(3):
        (tmp_path / "logs" / "attempt_1.log").write_text("waits" * number)
        hung = hung or passes(watchdog, clock, 30)
    assert hung


def test_imports_may_take_longer(tmp_path: Path, clock: Clock) -> None:
    watchdog = Watchdog(tmp_path, 1, clock)
    assert not passes(watchdog, clock, 500)
    assert passes(watchdog, clock, 120)


def test_without_a_limit_nothing_hangs(tmp_path: Path, clock: Clock) -> None:
    assert not passes(Watchdog(tmp_path, None, clock), clock, 10_000)


def test_a_driver_that_slept_gives_its_stage_the_whole_time(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "metrics.jsonl").touch()
    watchdog = Watchdog(tmp_path, 1, clock)
    assert not passes(watchdog, clock, 10)
    clock.now += 10_000
    assert not watchdog.hangs()
    assert passes(watchdog, clock, 70)


def test_a_sign_is_a_touched_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_sign", None)
    monkeypatch.setattr(here, "_signed", 0.0)
    here.alive()
    here.sign_with(tmp_path / "alive.0")
    here.alive()
    assert (tmp_path / "alive.0").exists()
    (tmp_path / "alive.0").unlink()
    here.alive()
    assert not (tmp_path / "alive.0").exists(), "at most one a second"

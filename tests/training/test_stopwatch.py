"""Parts nest, and no second is counted twice."""

from __future__ import annotations

import pytest

from r1pipe.training import stopwatch
from r1pipe.training.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def tick(seconds: float) -> None:
        now[0] += seconds

    return tick


def test_an_inner_part_is_not_the_outer_ones(clock):
    watch = Stopwatch()
    clock(5)  # before any part
    watch.start("update")
    clock(1)
    with watch.part("generation"):
        clock(2)
        with watch.part("sync"):
            clock(4)
        clock(8)
    clock(16)
    watch.stop()
    clock(32)
    assert watch.read() == {"update": 17, "generation": 10, "sync": 4}
    assert watch.read() == {}


def test_an_open_part_goes_on_after_a_read(clock):
    watch = Stopwatch()
    watch.start("update")
    clock(1)
    assert watch.read() == {"update": 1}
    clock(2)
    watch.stop()
    assert watch.read() == {"update": 2}


def test_held_out_prompts_are_not_part_of_a_rollout(clock):
    watch = Stopwatch()
    with watch.part("generation"):
        clock(1)
    with watch.outside("heldout"):
        clock(2)
        with watch.part("generation"):
            clock(4)
    assert watch.read() == {"generation": 1, "heldout": 6}


def test_a_part_ends_with_an_error(clock):
    watch = Stopwatch()
    with pytest.raises(ValueError), watch.part("reward"):
        clock(1)
        raise ValueError
    clock(2)
    assert watch.read() == {"reward": 1}

"""Whether other programs use the cores that a stage's threads want.

OpenMP's threads meet at a barrier in every operation, and spin there until the last one comes. With a core each they
wait for microseconds. If another program takes one of the cores, the thread that lost it is late by a time slice at
each barrier, and the spinning ones take the time that it needs: twelve updates of r1-zero took 3 s on two quiet cores
and 124 s beside one busy program. A thread that sleeps instead (OMP_WAIT_POLICY=PASSIVE) costs 5 to 6 s in both cases.
The results are the same, bit for bit: only how threads wait differs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

# A core of which a neighbour takes this much is not a thread's own.
SHARE = 0.4

# A short look at every stage, and a longer one before it counts: a blip is no neighbour.
LOOK_S = 0.2
SECOND_LOOK_S = 1.0

# What the columns of /proc/stat count: user, nice, system, idle, iowait, irq, softirq, steal.
BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)


def crowded(threads: int, own: Iterable[int]) -> bool:
    """Whether fewer cores are free than `threads` need. False where the system does not say (not Linux).

    Args:
        own: processes of this run, which are no neighbours; this one is among them without being named.
    """
    processes = [os.getpid(), *own]
    try:
        cores = os.sched_getaffinity(0)
        return all(
            len(cores) - used_by_others(cores, processes, seconds) < threads - SHARE
            for seconds in (LOOK_S, SECOND_LOOK_S)
        )
    except (AttributeError, OSError, ValueError, IndexError):
        return False


def used_by_others(cores: set[int], own: list[int], seconds: float) -> float:
    """How many of these cores other processes than `own` have kept busy, in the mean over these seconds from now."""
    began = time.monotonic()
    busy = -_busy(cores)
    used = -_used(own)
    time.sleep(seconds)
    busy += _busy(cores)
    used += _used(own)
    return (busy - used) / TICKS_PER_S / (time.monotonic() - began)


def _busy(cores: set[int]) -> int:
    """Ticks that these cores have worked, also for a guest beside this one."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            total += sum(int(columns[column]) for column in BUSY_COLUMNS)
    return total


def _used(processes: list[int]) -> int:
    """Ticks that these processes have worked, with children that have ended."""
    total = 0
    for pid in processes:
        total += sum(map(int, stat_columns(pid)[11:15]))
    return total


def stat_columns(pid: int) -> list[str]:
    """What the kernel tells of a process, behind the program's name: its state first.

    Raises:
        OSError: there is no such process.
    """
    # The name is in brackets, and may hold spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

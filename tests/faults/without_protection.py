"""Runs the tests of docs/faults.md with the protection of each switched off: then each must fail.

    python tests/faults/without_protection.py [--seconds 600] [--patience 200] [--jobs 2] [--only PART] [--again]

protections.txt says what protects a case: `pattern | module:attribute = expression`; the first line whose pattern is
in the case's name counts. Cases of one file and one protection share a process, which imports the libraries once. What
was seen is written to seen.txt: the name, `fails` or `PASSES`, the seconds, and what the test said. A test that passes
without its protection shows nothing, and one that fails by an accident of how it was switched off shows as little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
SEEN = HERE / "seen.txt"
# A test that has not ended after so many seconds on a quiet machine hangs, which is a way of failing.
PATIENCE_S = 200.0
# Cases of one process: few enough that two processes end at about the same time.
TOGETHER = 12


class Seen(NamedTuple):
    """What became of a test without its protection.

    Attributes:
        what: `fails`, `PASSES`, or why it was not run.
        seconds: that the test took.
        why: the first line of what it said.
    """

    what: str
    seconds: float
    why: str


def protections() -> list[tuple[str, str]]:
    """(pattern, what switches the protection off), in order."""
    lines = (HERE / "protections.txt").read_text(encoding="utf8").splitlines()
    pairs = [line.split(" | ", 1) for line in lines if line and not line.startswith("#")]
    return [(pattern, patch) for pattern, patch in pairs]


def protection_of(test: str) -> str | None:
    """What switches the protection of a case off; None where none is written down."""
    for pattern, patch in protections():
        if pattern in test or fnmatchcase(test, pattern):
            return patch
    return None


def seen() -> dict[str, Seen]:
    """test -> what was seen without its protection."""
    if not SEEN.is_file():
        return {}
    found = {}
    for line in SEEN.read_text(encoding="utf8").splitlines():
        test, what, seconds, *why = line.split(" | ", 3)
        found[test] = Seen(what, float(seconds), why[0] if why else "")
    return found


def write_seen(found: dict[str, Seen]) -> None:
    lines = []
    for test, told in sorted(found.items()):
        columns = [test, told.what, f"{told.seconds:.1f}", *([told.why] if told.why else [])]
        lines.append(" | ".join(columns) + "\n")
    SEEN.write_text("".join(lines), encoding="utf8")


def run(tests: list[str], patch: str, patience_s: float) -> dict[str, Seen]:
    """These tests of one file, without their protection; one that takes so long hangs."""
    found: dict[str, Seen] = {}
    left = list(tests)
    while left:
        lines, code = _run_once(left, patch, patience_s)
        told = {test: _told(test, lines) for test in left}
        found |= {test: one for test, one in told.items() if one is not None}
        begun = {line["test"].removeprefix("tests/") for line in lines}
        left = [test for test in left if told[test] is None]
        hanging = [test for test in left if code is None and any(_is_of(name, test) for name in begun)]
        if not hanging:
            break
        found |= {test: Seen("fails", patience_s, "it hangs") for test in hanging}
        left = [test for test in left if test not in hanging]
    return found | {test: Seen(f"not run ({code})", 0.0, "") for test in left}


def _run_once(tests: list[str], patch: str, patience_s: float) -> tuple[list[dict[str, Any]], int | None]:
    """What became of the tests, as off/outcomes.py writes it; and pytest's exit code, None where a test hung."""
    root = HERE.parents[1]
    path = os.pathsep.join([str(HERE / "off"), str(root), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder, "outcomes.jsonl")
        outcomes.touch()
        environment = {**os.environ, "PYTHONPATH": path, "FAULTS_OFF": patch, "OUTCOMES": str(outcomes)}
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "outcomes"]
        process = subprocess.Popen(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        code = None
        while code is None and time.time() - outcomes.stat().st_mtime < patience_s:
            try:
                code = process.wait(1)
            except subprocess.TimeoutExpired:
                continue
        # What protects may be what ends processes.
        _end_all_with(f"OUTCOMES={outcomes}")
        process.wait()
        return [json.loads(line) for line in outcomes.read_text(encoding="utf8").splitlines()], code


def _end_all_with(assignment: str) -> None:
    """End all processes that have this in their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if assignment.encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _is_of(name: str, test: str) -> bool:
    """Whether pytest's name is that of a case, or of one of its parameters."""
    return name == test or name.startswith(f"{test}[")


def _told(test: str, lines: Iterable[dict[str, Any]]) -> Seen | None:
    """What became of a case; where it has parameters, all must fail."""
    mine = [line for line in lines if _is_of(line["test"].removeprefix("tests/"), test)]
    ended = [line for line in mine if line["what"] != "begins"]
    if not ended or len(ended) < len({line["test"] for line in mine}):
        return None
    seconds = sum(line["s"] for line in ended)
    whats = [line["what"] for line in ended]
    if "passed" in whats:
        return Seen("PASSES", seconds, "")
    if set(whats) != {"failed"}:
        return Seen(f"not run ({whats[0]})", seconds, "")
    return Seen("fails", seconds, _first_line(ended[0]["why"]) or "it says nothing")


def _first_line(why: str) -> str:
    """What a test said, without the names of folders, which are others each time."""
    line = why.strip().split("\n")[0]
    return re.sub(r"(/[\w.+-]+)+/", "", line)[:160]


def groups(only: str, again: bool) -> list[tuple[str, list[str]]]:
    """(protection, cases that share it and a file), for all cases that are not yet seen failing."""
    from fault_table import cases

    known = {} if again else seen()
    found: dict[tuple[str, str], list[str]] = {}
    for test in dict.fromkeys(case.test for case in cases()):
        patch = protection_of(test)
        failed = test in known and known[test].what == "fails" and known[test].why
        if patch is None or failed or only not in test:
            continue
        found.setdefault((test.partition("::")[0], patch), []).append(test)
    pieces = []
    for (_, patch), tests in found.items():
        for start in range(0, len(tests), TOGETHER):
            pieces.append((patch, tests[start : start + TOGETHER]))
    return pieces


def main() -> None:
    sys.path.insert(0, str(HERE))
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--patience", type=float, default=PATIENCE_S, metavar="SECONDS")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true", help="also what was seen failing")
    given = parser.parse_args()
    deadline = time.monotonic() + given.seconds
    writing = threading.Lock()

    def look(piece: tuple[str, list[str]]) -> None:
        patch, tests = piece
        if time.monotonic() > deadline:
            return
        told = run(tests, patch, given.patience)
        with writing:
            write_seen(seen() | told)
        for test, one in told.items():
            print(f"{one.what}: {test} ({one.seconds:.1f} s) {one.why}", flush=True)

    with ThreadPoolExecutor(given.jobs) as threads:
        for _ in threads.map(look, groups(given.only, given.again)):
            pass


if __name__ == "__main__":
    main()

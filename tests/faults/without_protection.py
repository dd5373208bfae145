"""Runs the tests of docs/faults.md with the protection of each switched off: then each must fail.

    python tests/faults/without_protection.py [--seconds 600] [--only PART-OF-A-NAME]

protections.txt says what protects a case: `pattern | module:attribute = expression`; the first line whose pattern is
in the case's name counts. What was seen is written to seen.txt: the name, `fails` or `PASSES`, and the seconds that
the test takes in this way. A test that passes without its protection shows nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).parent
SEEN = HERE / "seen.txt"
# What pytest returns where a test has failed; others mean that it was not run.
FAILED = 1


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


def seen() -> dict[str, tuple[str, float]]:
    """test -> what was seen without its protection, and the seconds."""
    if not SEEN.is_file():
        return {}
    found = {}
    for line in SEEN.read_text(encoding="utf8").splitlines():
        test, what, seconds = line.rsplit(" | ", 2)
        found[test] = (what, float(seconds))
    return found


def run(test: str, patch: str) -> tuple[str, float]:
    """The test, without its protection."""
    root = HERE.parents[1]
    path = os.pathsep.join([str(HERE / "off"), str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "FAULTS_OFF": patch}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", f"tests/{test}"]
    began = time.monotonic()
    try:
        code = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=300).returncode
    except subprocess.TimeoutExpired:
        code = FAILED
    seconds = time.monotonic() - began
    return {FAILED: "fails", 0: "PASSES"}.get(code, f"not run ({code})"), seconds


def main() -> None:
    sys.path.insert(0, str(HERE))
    from fault_table import cases

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    deadline = time.monotonic() + given.seconds
    found = seen()
    for case in cases():
        patch = protection_of(case.test)
        known = found.get(case.test, ("", 0.0))[0] == "fails"
        if patch is None or known or given.only not in case.test or time.monotonic() > deadline:
            continue
        what, seconds = run(case.test, patch)
        found[case.test] = (what, seconds)
        print(f"{what}: {case.test} ({seconds:.1f} s)", flush=True)
        lines = [f"{test} | {told} | {took:.1f}\n" for test, (told, took) in sorted(found.items())]
        SEEN.write_text("".join(lines), encoding="utf8")


if __name__ == "__main__":
    main()

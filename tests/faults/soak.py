"""Random kills of a whole recipe, and whether it ends as one that nobody disturbed.

    python tests/faults/soak.py [--kills 200] [--minutes 60] [--mean 8] [--seed 0] [--out FOLDER]

configs/smoke.yaml, all kinds of stages, is run once to its end and once with kill -9 at random moments: of the driver,
of one of the processes below it, or of all of them. After the last kill it runs to its end. Compared are all outputs,
as `r1pipe reproduce` does. What a kill costs is at most the time since its attempt began or a stage was finished: what
was drawn, and the updates before a checkpoint, are kept. The kills end after so many minutes, whatever their number.
The undisturbed run of an earlier call in the same folder is taken as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from engine import environment  # noqa: E402

from r1pipe.run.records import read_object  # noqa: E402
from r1pipe.run.reproduce import stage_difference  # noqa: E402
from r1pipe.run.store import RunFolder  # noqa: E402

CONFIG = TESTS.parent / "configs" / "smoke.yaml"
# Mean seconds from a start to its kill, on two quiet cores: stages of this recipe take one to ten there, and must end
# now and then.
MEAN_S = 8.0
# So long a driver may take to say that a stage's process was killed.
ENDS_S = 30.0
# What a run that was killed leaves when it is called again: done, or a stage that failed with its rank.
CODES = {0, 3, -signal.SIGKILL}


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "r1pipe.cli.main", "run-all", str(CONFIG), "--run", "soak"]
    log = (folder / "log").open("ab")
    # a session of its own, so that all of it can be killed
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
    )


def below(pid: int) -> list[int]:
    """All processes that this one has started, and those they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *below(int(child))]
    return found


def kill(rng: random.Random, driver: subprocess.Popen[bytes]) -> str:
    """Kill something of a run; what it was."""
    whom = rng.choice(["driver", "one", "all"])
    try:
        others = below(driver.pid)
    except (FileNotFoundError, ProcessLookupError):
        others = []
    targets = [driver.pid, *others]
    if whom == "driver":
        targets = [driver.pid]
    if whom == "one" and others:
        targets = [rng.choice(others)]
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return whom


def last_finished(folder: Path) -> float:
    """When the newest stage was finished, in seconds of the wall clock; 0 where none is."""
    return max((path.stat().st_mtime for path in folder.glob("runs/soak/*/manifest.json")), default=0.0)


def run_to_end(folder: Path) -> None:
    process = start(folder)
    assert process.wait() == 0, (folder / "log").read_text()[-4000:]


def disturbed(
    folder: Path, kills: int, seconds: float, mean_s: float, rng: random.Random
) -> list[dict[str, Any]]:
    """Run with kills; one record for each."""
    records: list[dict[str, Any]] = []
    process: subprocess.Popen[bytes] | None = None
    began = time.time()
    end = time.monotonic() + seconds
    while len(records) < kills and time.monotonic() < end:
        if process is None:
            began = time.time()
            process = start(folder)
        try:
            code = process.wait(rng.expovariate(1 / mean_s) + 0.2)
            assert code == 0, (folder / "log").read_text()[-4000:]
            # it is through: begin anew with the rest of the kills
            (folder / "runs").rename(folder / f"runs-{len(records)}")
            process = None
            continue
        except subprocess.TimeoutExpired:
            lost = time.time() - max(began, last_finished(folder))
            whom = kill(rng, process)
        try:
            # a driver whose worker was killed says so and ends by itself
            code = process.wait(ENDS_S)
            assert code in CODES, (code, (folder / "log").read_text()[-4000:])
            process = None
        except subprocess.TimeoutExpired:
            # what was killed was one of a stage's helpers, which the stage has replaced
            lost = 0.0
        records.append({"whom": whom, "lost_s": round(lost, 1)})
        (folder / "kills.json").write_text(json.dumps(records) + "\n")
    if process is not None:
        assert process.wait() == 0, (folder / "log").read_text()[-4000:]
    return records


def compare(undisturbed: Path, other: Path) -> list[str]:
    """What differs between two runs, by stage."""
    then, now = RunFolder(undisturbed), RunFolder(other)
    lines = []
    for manifest in sorted(undisturbed.glob("*/manifest.json")):
        name = manifest.parent.name
        difference = stage_difference(
            then.stage(name),
            now.stage(name),
            read_object(manifest),
            read_object(other / name / "manifest.json"),
        )
        if difference:
            lines.append(f"{name}: {difference}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--mean", type=float, default=MEAN_S, help="seconds from a start to its kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="soak-"))
    quiet, killed = folder / "quiet", folder / "killed"
    took = quiet / "seconds"
    if not took.is_file():
        quiet.mkdir(parents=True)
        began = time.monotonic()
        run_to_end(quiet)
        took.write_text(f"{time.monotonic() - began:.1f}\n")
    killed.mkdir()
    rng = random.Random(given.seed)
    records = disturbed(killed, given.kills, 60 * given.minutes, given.mean, rng)
    run_to_end(killed)
    lost = [record["lost_s"] for record in records] or [0.0]

    runs = [*killed.glob("runs-*/soak"), killed / "runs" / "soak"]
    differences = [line for run in runs for line in compare(quiet / "runs" / "soak", run)]
    report = {
        "kills": len(records),
        "by": {whom: sum(record["whom"] == whom for record in records) for whom in ("driver", "one", "all")},
        "runs": len(runs),
        "undisturbed_s": float(took.read_text()),
        "lost_s_median": round(statistics.median(lost), 1),
        "lost_s_worst": round(max(lost), 1),
        "differences": differences,
    }
    (folder / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()

"""A plugin of pytest that appends what becomes of each test to the file in OUTCOMES, one JSON object a line."""

import json
import os


def _append(**record):
    with open(os.environ["OUTCOMES"], "a", encoding="utf8") as stream:
        stream.write(json.dumps(record) + "\n")


def pytest_runtest_logstart(nodeid, location):
    _append(test=nodeid, what="begins")


def pytest_runtest_logreport(report):
    if report.when == "call":
        crash = getattr(report.longrepr, "reprcrash", None)
        _append(
            test=report.nodeid, what=report.outcome, s=report.duration, why=crash.message if crash else ""
        )
    elif report.when == "setup" and not report.passed:
        _append(test=report.nodeid, what=f"{report.outcome} in its setup", s=report.duration, why="")

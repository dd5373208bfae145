"""`r1pipe doctor`."""

from __future__ import annotations

from pathlib import Path

from r1pipe.cli.options import Json, print_json


def doctor(json: Json = False) -> None:
    """Look whether this machine can run the recipe, and say what to do where it cannot.

    Exit code 1 if something would stop configs/r1.yaml.
    """
    from r1pipe.run.doctor import findings

    found = []
    for finding in findings(Path("runs")):
        found.append(finding)
        if json:
            continue
        fix = f"\n{'':22}fix: {finding.fix}" if finding.fix else ""
        print(f"{finding.level:<8}{finding.about:<14}{finding.what}{fix}", flush=True)
    if json:
        print_json([finding._asdict() for finding in found])
    if any(finding.level == "error" for finding in found):
        raise SystemExit(1)

"""What a run gave and took, as one small JSON file for docs/reference.

    python tests/bench/reference.py runs/NAME docs/reference/NAME-seed0.json --commit HASH

Scores and paired differences come from the run's summary and its stage `compare`, seconds from the manifests.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

KEPT = ("pass@1", "stderr", "n", "k", "strict", "cons@4", "tokens", "truncated")
HARDWARE = ("wall_s", "start_s", "gpu")


def rounded(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in values.items()
        if name in names
    }


def differences(metrics: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """Pair -> suite -> the difference and its 95 % interval."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, value in metrics.items():
        pair, suite, *bound = name.split("/")
        if not bound:
            ends = [metrics[f"{pair}/{suite}/{end}"] for end in ("low", "high")]
            found.setdefault(pair, {})[suite] = [round(number, 4) for number in (value, *ends)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True)
    arguments = parser.parse_args()

    summary = json.loads((arguments.run / "summary.json").read_text())
    compare = json.loads((arguments.run / "compare" / "manifest.json").read_text())
    config = json.loads((arguments.run / "config.json").read_text())
    suites_of = summary["scores"].items()
    reference = {
        "run": summary["run"],
        "commit": arguments.commit,
        "date": summary["written"][:10],
        "device": summary["device"],
        "versions": compare["versions"],
        "seed": config.get("seed", 0),
        "wall_s": round(summary["wall_s"], 1),
        "scores": {
            checkpoint: {suite: rounded(values, KEPT) for suite, values in suites.items()}
            for checkpoint, suites in suites_of
        },
        "differences": differences(compare["metrics"]),
        "stages": {stage["name"]: rounded(stage, HARDWARE) for stage in summary["stages"]},
    }
    arguments.out.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()

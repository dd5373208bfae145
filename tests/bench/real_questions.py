"""A checkpoint on questions that people wrote: GSM8K's test set, and MGSM in English and Chinese.

    python tests/bench/real_questions.py runs/r1/alignment-rl/out/checkpoint path/to/public/data

Only questions of at most two steps are asked. Steps are the sums in GSM8K's solution; MGSM has the same problems, by
index. Prints pass@1 and the standard error of each set, at temperature 1 and greedily. The embedded models know the
numbers 0 to 200 and a few thousand words, so expect little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

MOST_STEPS = 2
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf8") as stream:
        return [json.loads(line) for line in stream]


def index_of(row: Row) -> int:
    """The index of a GSM8K row, which MGSM names too; ids are like gsm8k_test-17."""
    return int(row["id"].split("-")[1])


def questions(data: Path) -> dict[str, list[Row]]:
    """The questions of each set that take at most MOST_STEPS steps."""
    gsm8k = read(data / "gsm8k_test.jsonl.gz")
    short: set[int] = set()
    for row in gsm8k:
        steps = sum("=" in line for line in row["solution"].splitlines())
        if 0 < steps <= MOST_STEPS:
            short.add(index_of(row))

    sets = {"gsm8k": [row for row in gsm8k if index_of(row) in short]}
    mgsm = [row for row in read(data / "mgsm.jsonl.gz") if row["index"] in short]
    for language in ("en", "zh"):
        sets[f"mgsm-{language}"] = [row for row in mgsm if row["lang"] == language]
    return sets


def write_questions(path: Path, rows: list[Row]) -> None:
    """Write the questions in the columns of a Prompts dataset."""
    with path.open("w", encoding="utf8") as stream:
        for row in rows:
            kept = {
                "id": row["id"],
                "prompt": row["problem"],
                "answer": row["answer"],
                "language": row.get("lang", "en"),
            }
            stream.write(json.dumps(kept) + "\n")


def stages_of(name: str, file: Path, checkpoint: Path) -> dict[str, Any]:
    """The stages that read a set and score the checkpoint on it."""
    sampling = {"top_p": 1.0, "max_tokens": 96, "batch_size": 512}
    read_stage = {
        "kind": "prompts",
        "source": {"path": str(file), "domain": "word-problems"},
        "outputs": {"prompts": name},
    }
    score_stage = {
        "kind": "evaluate",
        "inputs": {"model": str(checkpoint.resolve()), "prompts": {name: name}},
        "outputs": {"report": f"scores-{name}"},
        "checkpoint": name,
        "passes": [
            {"sampling": {"temperature": 1.0, **sampling}},
            {"name": "greedy", "sampling": {"temperature": 0.0, **sampling}},
        ],
    }
    return {name: read_stage, f"score-{name}": score_stage}


def run(folder: Path, stages: dict[str, Any]) -> None:
    config = folder / "score.yaml"
    config.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf8")
    command = [sys.executable, "-m", "r1pipe.cli.main", "run-all", str(config)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="the folder of gsm8k_test.jsonl.gz and mgsm.jsonl.gz")
    arguments = parser.parse_args()

    sets = questions(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stages: dict[str, Any] = {}
        for name, rows in sets.items():
            file = folder / f"{name}.jsonl"
            write_questions(file, rows)
            stages |= stages_of(name, file, arguments.checkpoint)
        run(folder, stages)

        for name in sets:
            (report,) = folder.glob(f"runs/*/score-{name}/out/report/scores.json")
            scores = json.loads(report.read_text())[name]["reasoning"]
            sampled = f"{scores['pass@1']:.3f} ± {scores['stderr']:.3f}"
            print(f"{name:8} n={scores['n']:4}  T=1 {sampled}  greedy {scores['pass@1/greedy']:.3f}")


if __name__ == "__main__":
    main()

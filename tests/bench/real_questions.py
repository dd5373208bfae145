"""A checkpoint on people's own questions: GSM8K's test set and MGSM in English and Chinese, those that take at most two steps.

    python tests/bench/real_questions.py runs/r1/alignment-rl/out/checkpoint ../shared/data

Steps are the sums in GSM8K's solution; MGSM holds the same problems, by index. Prints pass@1 and the standard error of each set,
at temperature 1 and greedily. The embedded models know 0 to 200 and a few thousand words, so expect little.
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


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf8") as stream:
        return [json.loads(line) for line in stream]


def questions(data: Path) -> dict[str, list[dict[str, Any]]]:
    """The questions of each set that take at most MOST_STEPS sums."""
    gsm8k = read(data / "gsm8k_test.jsonl.gz")
    steps = {int(row["id"].split("-")[1]): sum("=" in line for line in row["solution"].splitlines()) for row in gsm8k}
    short = {index for index, count in steps.items() if 0 < count <= MOST_STEPS}
    sets = {"gsm8k": [row for row in gsm8k if int(row["id"].split("-")[1]) in short]}
    for language in ("en", "zh"):
        sets[f"mgsm-{language}"] = [
            row for row in read(data / "mgsm.jsonl.gz") if row["lang"] == language and row["index"] in short
        ]
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stages: dict[str, Any] = {}
        for name, rows in questions(arguments.data).items():
            keep = [
                {"id": row["id"], "prompt": row["problem"], "answer": row["answer"], "language": row.get("lang", "en")}
                for row in rows
            ]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in keep), encoding="utf8")
            source = {"path": str(folder / f"{name}.jsonl"), "domain": "word-problems"}
            stages[name] = {"kind": "prompts", "source": source, "outputs": {"prompts": name}}
            sampling = {"top_p": 1.0, "max_tokens": 96, "batch_size": 512}
            stages[f"score-{name}"] = {
                "kind": "evaluate",
                "inputs": {"model": str(arguments.checkpoint.resolve()), "prompts": {name: name}},
                "outputs": {"report": f"scores-{name}"},
                "checkpoint": name,
                "passes": [
                    {"sampling": {"temperature": 1.0, **sampling}},
                    {"name": "greedy", "sampling": {"temperature": 0.0, **sampling}},
                ],
            }
        (folder / "score.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf8")
        subprocess.run(
            [sys.executable, "-m", "r1pipe.cli.main", "run-all", str(folder / "score.yaml")],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for name in questions(arguments.data):
            (report,) = folder.glob(f"runs/*/score-{name}/out/report/scores.json")
            found = json.loads(report.read_text())[name]["reasoning"]
            sampled, error, greedy = found["pass@1"], found["stderr"], found["pass@1/greedy"]
            print(f"{name:8} n={found['n']:4}  T=1 {sampled:.3f} ± {error:.3f}  greedy {greedy:.3f}")


if __name__ == "__main__":
    main()

"""`r1pipe eval ... --with lm-eval`: what lm-eval says of the same prompts, and each verdict that differs from ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from r1pipe.config.machine import gpus
from r1pipe.errors import ConfigError, MissingToolError, StageError
from r1pipe.launch.environment import base_environment
from r1pipe.run.evals.eval_models import AskedModel
from r1pipe.run.evals.eval_run import Changes, stage_of
from r1pipe.run.evals.lm_eval_run import INVALID, VERDICTS
from r1pipe.run.evals.suite_files import Suite
from r1pipe.run.store import RunFolder, StageFolder, write_json
from r1pipe.text.response import split_response

FOLDER = "lm-eval"
RESULT = "lm-eval.json"
SHOWN_LETTERS = 60
LISTED = 20


def check_lm_eval(model: AskedModel, changes: Changes) -> Changes:
    """What the evaluation must be for lm-eval to repeat it: of a checkpoint, greedy, one response to a problem.

    Raises:
        MissingToolError: lm-eval is not installed.
        ConfigError: it is none of these.
    """
    try:
        metadata.version("lm-eval")
    except metadata.PackageNotFoundError:
        raise MissingToolError(
            "--with lm-eval needs lm-eval, which is not installed",
            fix='pip install "r1pipe[lm-eval]"',
        ) from None
    if model.edge is None:
        raise ConfigError(
            "--with lm-eval compares the responses of a checkpoint, and this is a service",
            model.label,
            "give the checkpoint's folder",
        )
    if changes.temperature or (changes.samples or 1) > 1:
        raise ConfigError(
            "--with lm-eval compares greedy responses, one to each problem",
            fix="leave --temperature and --samples out",
        )
    return replace(changes, samples=1, temperature=0.0)


def compare_with_lm_eval(run: str, suites: Sequence[Suite]) -> dict[str, Any]:
    """Let lm-eval answer what was answered, and compare the verdicts.

    Returns:
        suite file -> {"n", "left_out", "same_responses", "ours", "lm-eval", "differ": [{id, ours, lm-eval, reason}]};
        also in lm-eval.json.

    Raises:
        StageError: lm-eval failed.
    """
    folder = RunFolder(run)
    compared = {}
    for suite in suites:
        compared[suite.name] = _compare(folder, suite)
    write_json(folder.path / RESULT, compared)
    return compared


def _compare(folder: RunFolder, suite: Suite) -> dict[str, Any]:
    stage = folder.stage(stage_of(suite))
    lines = _ours(stage)
    checkable = [line for line in lines if line["answer_known"]]
    theirs = _theirs(folder, stage, suite, [line["id"] for line in checkable]) if checkable else {}
    differ = []
    same = 0
    for line in checkable:
        other = theirs[line["id"]]
        same += line["response"] == other["response"]
        if line["right"] != other["right"]:
            differ.append(
                {
                    "id": line["id"],
                    "ours": line["right"],
                    "lm-eval": other["right"],
                    "reason": reason(line, other),
                }
            )
    count = max(1, len(checkable))
    return {
        "n": len(checkable),
        "left_out": len(lines) - len(checkable),
        "same_responses": same,
        "ours": sum(line["right"] is True for line in checkable) / count,
        "lm-eval": sum(other["right"] for other in theirs.values()) / count,
        "differ": differ,
    }


def _ours(stage: StageFolder) -> list[dict[str, Any]]:
    """The responses of the first way of sampling: id, response, right, and whether a text is the answer."""
    record = stage.record()
    assert record is not None
    known = _ids_with_answers(record["inputs"]["prompts"])
    lines = []
    with (stage.out / "report/rows.jsonl").open(encoding="utf8") as stream:
        for text in stream:
            line = json.loads(text)
            if line["pass"] is not None:
                continue
            verdict = line["scores"].get(line["domain"])
            lines.append(
                {
                    "id": line["id"],
                    "response": line["response"],
                    "right": None if verdict is None else verdict == 1.0,
                    "answer_known": line["id"] in known and line["domain"] in line["scores"],
                }
            )
    return lines


def _ids_with_answers(prompts: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The rows whose answer is one text. Code is executed, which lm-eval's filters do not do."""
    from r1pipe.artifacts import Prompts
    from r1pipe.data.io import read_rows

    known = set()
    for edge in prompts.values():
        for row in read_rows(Path(edge["path"]), Prompts):
            if isinstance(row.get("answer"), str) and not row.get("tests"):
                known.add(row["id"])
    return known


def _theirs(
    folder: RunFolder, stage: StageFolder, suite: Suite, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    record = stage.record()
    assert record is not None
    target = folder.path / FOLDER / suite.name
    target.mkdir(parents=True, exist_ok=True)
    order = {
        "checkpoint": record["inputs"]["model"]["path"],
        "template": record["config"]["template"],
        "prompts": [edge["path"] for edge in record["inputs"]["prompts"].values()],
        "ids": list(ids),
        "task": re.sub(r"\W", "_", f"r1pipe_{suite.name}"),
        "max_tokens": record["config"]["passes"][0]["sampling"]["max_tokens"],
        "device": "cuda:0" if gpus() else "cpu",
        "folder": str(target),
        "fingerprint": record["fingerprint"],
    }
    # Another call with the same order finds what lm-eval has said.
    verdicts = target / VERDICTS
    order_file = target / "order.json"
    same = order_file.is_file() and json.loads(order_file.read_text(encoding="utf8")) == order
    if not (same and verdicts.is_file()):
        verdicts.unlink(missing_ok=True)
        write_json(order_file, order)
        _run(order_file, target / "log.txt")
    with verdicts.open(encoding="utf8") as stream:
        return {record["id"]: record for record in map(json.loads, stream)}


def _run(order: Path, log: Path) -> None:
    command = [sys.executable, "-P", "-m", "r1pipe.run.evals.lm_eval_run", str(order)]
    # Everything that it reads lies here.
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    cache = {"HF_DATASETS_CACHE": os.environ.get("HF_DATASETS_CACHE", str(order.parent / ".cache"))}
    with log.open("w", encoding="utf8") as stream:
        done = subprocess.run(
            command,
            env=base_environment() | offline | cache,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        last = log.read_text(encoding="utf8", errors="replace").strip().splitlines()[-1:]
        raise StageError(f"lm-eval failed: {' '.join(last)}", str(log))


def reason(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Why two verdicts on one problem differ.

    Args:
        ours: response, right (None = not judged).
        theirs: response, right, answer, and `found`, what lm-eval's filter took for the answer.
    """
    mine, other = ours["response"], theirs["response"]
    if mine != other:
        place = len(os.path.commonprefix([mine, other]))
        return f"the responses are the same up to character {place} only, of {len(mine)} and {len(other)}"
    found = theirs["found"]
    shown = found if len(found) <= SHOWN_LETTERS else f"{found[:SHOWN_LETTERS]}..."
    answer = theirs["answer"]
    # From here on both have read the same text.
    if ours["right"] is None:
        return "our rules cannot judge the answer"
    if theirs["right"]:
        if found not in split_response(mine).summary:
            return f"lm-eval reads {shown!r} inside the thinking; the summary does not give it"
        return f"lm-eval reads {shown!r}; by our rules the response answers something else or in another form"
    if found == INVALID:
        return "lm-eval's filter finds neither a tagged nor a boxed answer nor a number"
    return (
        f"lm-eval reads {shown!r}, which is not spelled as the answer {answer!r}; our rules take it for equal"
    )


def comparison_lines(compared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the console shows."""
    words = {True: "right", False: "wrong", None: "not judged"}
    lines = []
    for name, result in compared.items():
        differ = result["differ"]
        lines.append(
            f"{name}: {result['ours']:.3f} by our rules, {result['lm-eval']:.3f} by lm-eval on the same "
            f"{result['n']} problems; {result['same_responses']} responses are the same, {len(differ)} verdicts differ"
        )
        if result["left_out"]:
            lines.append(f"  {result['left_out']} problems without a text as answer are left out")
        for each in differ[:LISTED]:
            verdicts = f"ours {words[each['ours']]}, lm-eval {words[each['lm-eval']]}"
            lines.append(f"  {each['id']}: {verdicts}: {each['reason']}")
        if len(differ) > LISTED:
            lines.append(f"  ... all {len(differ)} are in {RESULT}")
    return lines

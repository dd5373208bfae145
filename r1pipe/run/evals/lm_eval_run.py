"""lm-eval on the prompts of an evaluation: `python -m r1pipe.run.evals.lm_eval_run ORDER.json`, a process of its own.

It writes a folder that anybody with lm-eval can use: `problems.jsonl`, each with its prompt as the model reads it, and
a task. Then it lets lm-eval run the task, greedily and in float32, and writes what that says of each problem.

    {"checkpoint": ..., "template": ..., "prompts": [...], "ids": [...], "task": ..., "max_tokens": ...,
     "device": ..., "folder": ...}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from r1pipe.run.store import write_text

PROBLEMS = "problems.jsonl"
VERDICTS = "verdicts.jsonl"
BATCH_SIZE = 16
# What lm-eval's filter says where it finds nothing.
INVALID = "[invalid]"
# The last of these in a response: what R1's templates and most models write, else a number.
ANSWER = r"<answer>\s*(.*?)\s*</answer>|\\boxed\{([^{}]*)\}|(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)"


def main(order: Path) -> None:
    given = json.loads(order.read_text(encoding="utf8"))
    folder = Path(given["folder"])
    _write_lines(folder / PROBLEMS, _problems(given))
    task = _task(given, folder)
    (folder / f"{given['task']}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf8")
    _write_lines(folder / VERDICTS, _verdicts(given, folder))


def _problems(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What lm-eval asks: id, the prompt as one text, the answer, and what the prompt has written of the response."""
    from r1pipe.artifacts import Prompts
    from r1pipe.data.io import read_rows
    from r1pipe.models.loading import load_tokenizer
    from r1pipe.text.rendering import file_template, prefill_in, render_prompt

    tokenizer: Any = load_tokenizer(Path(given["checkpoint"]))
    template = file_template(given["template"], tokenizer)
    prefill = prefill_in(template, tokenizer)
    wanted = set(given["ids"])
    for path in given["prompts"]:
        for row in read_rows(Path(path), Prompts):
            if row["id"] not in wanted:
                continue
            text = render_prompt(row, template)
            if not isinstance(text, str):
                text = tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False)
            yield {"id": row["id"], "text": text, "answer": str(row["answer"]), "prefill": prefill}


def _task(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    last_answer = {"function": "regex", "regex_pattern": ANSWER, "group_select": -1, "fallback": INVALID}
    return {
        "task": given["task"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / PROBLEMS)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "text",
        "doc_to_target": "answer",
        # lm-eval adds the end token; without the list it would stop at an empty line
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": given["max_tokens"]},
        "filter_list": [{"name": "last-answer", "filter": [last_answer, {"function": "take_first"}]}],
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        ],
        "num_fewshot": 0,
    }


def _verdicts(given: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    lm_eval: Any = import_module("lm_eval")
    tasks: Any = import_module("lm_eval.tasks")
    arguments = {"pretrained": given["checkpoint"], "dtype": "float32"}
    # The text of a chat template has its own BOS token.
    if given["template"] == "chat":
        arguments["add_bos_token"] = False
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=[given["task"]],
        task_manager=tasks.TaskManager(include_path=str(folder)),
        batch_size=BATCH_SIZE,
        device=given["device"],
        log_samples=True,
        bootstrap_iters=0,
    )
    for sample in results["samples"][given["task"]]:
        document = sample["doc"]
        yield {
            "id": document["id"],
            "answer": document["answer"],
            "response": document["prefill"] + sample["resps"][0][0],
            "found": sample["filtered_resps"][0],
            "right": bool(sample["exact_match"]),
        }


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """All or none: the next call takes the verdicts for what lm-eval has said."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Every public data set loads by one entry of YAML, and says of every row what became of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.selection import MALFORMED
from r1pipe.data.sources import Source, load

KINDS = {"prompts": Prompts, "chats": Chats, "pairs": Pairs, "labels": Labels}
# file -> kind, rows, and the entry without its path
ENTRIES = {
    "aqua": (
        "prompts",
        254,
        '{templates: {prompt: "{problem}\\n\\n{choices:A}"}, domain: choice, language: en}',
    ),
    "bbh": ("prompts", 3345, "{columns: {prompt: problem}, domain: logic, language: en, count: 100}"),
    "chat_examples": ("chats", 128, "{}"),
    "chat_prompts": ("prompts", 77, "{columns: {prompt: turns.0}}"),
    "cmath_zh": (
        "prompts",
        303,
        "{columns: {prompt: problem, language: lang, level: reasoning_steps}, domain: word-problems}",
    ),
    "cmath_zh_distractor": (
        "prompts",
        198,
        "{columns: {prompt: problem, language: lang}, domain: word-problems}",
    ),
    "code_contests": ("prompts", 111, "{domain: code}"),
    "folio": (
        "prompts",
        1004,
        '{templates: {prompt: "{premises}\\n\\nTrue, False or Uncertain: {conclusion}"}, domain: logic, language: en}',
    ),
    "gsm8k_model_solutions": (
        "prompts",
        633,
        "{columns: {prompt: problem}, domain: word-problems, language: en}",
    ),
    "gsm8k_test": ("prompts", 633, "{columns: {prompt: problem}, domain: word-problems, language: en}"),
    "gsm8k_train": ("prompts", 7473, "{columns: {prompt: problem}, domain: word-problems, language: en}"),
    "gsm_hard": ("prompts", 631, "{columns: {prompt: problem}, domain: word-problems, language: en}"),
    "hh_harmless": ("labels", 2 * 1148, "{shape: chosen-rejected, language: en}"),
    "humaneval": ("prompts", 77, "{domain: code, language: en}"),
    "identity": ("chats", 91, "{shape: instruction, columns: {language: lang}}"),
    "ifeval": ("prompts", 269, "{language: en}"),
    "llmbar": ("pairs", 218, "{shape: chosen-rejected, language: en}"),
    "longcot_misguided": (
        "chats",
        453,
        "{columns: {prompt: problem, thinking: reasoning}, domain: logic, language: en}",
    ),
    "mbpp": ("prompts", 840, "{domain: code, language: en}"),
    "mbpp_plus": (
        "prompts",
        292,
        "{shape: reference-tests, columns: {inputs: plus_inputs}, domain: code, language: en, on_bad_row: skip}",
    ),
    "mgsm": ("prompts", 1232, "{columns: {prompt: problem, language: lang}, domain: word-problems}"),
    "mmlu_stem": (
        "prompts",
        1504,
        '{templates: {prompt: "{problem}\\n\\n{choices:A}"}, domain: choice, language: en}',
    ),
    "nq_open": ("chats", 1873, "{columns: {prompt: question, response: answers.0}, language: en}"),
    "pandalm_pairs": ("pairs", 449, "{shape: compared, language: en}"),
    "processbench_gsm8k": (
        "chats",
        197,
        '{columns: {prompt: problem}, templates: {response: "{steps}"}, where: {final_answer_correct: [true]}}',
    ),
    "reasoning_gym_rollouts": (
        "prompts",
        3594,
        "{columns: {prompt: problem}, where: {exact_match_task: [true]}, domain: logic, language: en, count: 100, "
        "max_unparseable: 0.2}",
    ),
    "seed_tasks": ("chats", 175, "{shape: instruction, language: en}"),
    "truthfulqa": (
        "pairs",
        410,
        "{shape: chosen-rejected, columns: {prompt: question, chosen: best_answer, rejected: incorrect_answers.0}}",
    ),
    "user_instructions": ("chats", 119, "{shape: instruction, language: en}"),
    "verifier_pairs": (
        "prompts",
        433,
        '{templates: {prompt: "Are these equal?\\n{gold}\\n{candidate}"}, columns: {answer: equal}, '
        'values: {answer: {"True": "yes", "False": "no"}}}',
    ),
    "xstest": (
        "prompts",
        234,
        "{columns: {domain: label}, values: {domain: {safe: lookalike, unsafe: harmful}}, language: en}",
    ),
}


def test_there_is_an_entry_for_every_file(shared_data: Path) -> None:
    assert {path.name for path in shared_data.glob("*.gz")} == {f"{name}.jsonl.gz" for name in ENTRIES}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.filterwarnings("ignore:.*rows skipped:UserWarning", "ignore:.*rows left out:UserWarning")
def test_one_entry_each(shared_data: Path, name: str) -> None:
    kind, total, entry = ENTRIES[name]
    source = Source.model_validate({"path": shared_data / f"{name}.jsonl.gz", **yaml.safe_load(entry)})
    loaded = load(source, KINDS[kind], seed=0, fill={"name": "Tiny", "author": "Us"})
    assert loaded.rows
    assert all(row["domain"] for row in loaded.rows)
    if source.count:  # every row is read and checked; of the answers, which is slow, only these are tried
        assert len(loaded.rows) == source.count
    elif not source.where:
        assert len(loaded.rows) + len(loaded.dropped) == total
    reasons = Counter(row["reason"] for row in loaded.dropped)
    assert set(reasons) <= {
        "the answer cannot be read",
        "no clear preference",
        "the two responses are equal",
        "equal prompt",
        MALFORMED,
    }
    if kind == "chats":
        assert all(row["messages"][-1]["content"].startswith("<think>") for row in loaded.rows)


def test_reference_tests_take_the_solution_and_refuse_another_program(shared_data: Path) -> None:
    from r1pipe.rewards.sandbox import available
    from r1pipe.rewards.scoring import correct

    if reason := available():
        pytest.skip(f"programs cannot be isolated here: {reason}")
    source = Source(
        path=shared_data / "mbpp_plus.jsonl.gz",
        shape="reference-tests",
        columns={"inputs": "plus_inputs"},
        domain="code",
        count=6,
        on_bad_row="skip",
    )
    with pytest.warns(
        UserWarning,
        match="skipped as malformed.*Infinity",
    ):  # one row of the file has it, and it is no JSON
        rows = load(source, Prompts, seed=0).rows
    wrong = [f"```python\ndef {row['entry_point']}(*given):\n    return 'no'\n```" for row in rows]
    assert (
        correct([f"```python\n{row['solution']}\n```" for row in rows] + wrong, rows + rows)
        == [True] * 6 + [False] * 6
    )


@pytest.mark.slow
def test_reference_tests_take_every_solution_of_mbpp_plus(shared_data: Path) -> None:
    """Inputs on which the solution itself raises are not tests. Of a match object, only its presence counts (rows 737,
    787, 794).

    One row of the file has no inputs at all, which is malformed. Three have none left, since JSON has no tuples and no
    complex numbers: nobody can judge them, which is not 0.
    """
    from r1pipe.rewards.code import code
    from r1pipe.rewards.sandbox import available

    if reason := available():
        pytest.skip(f"programs cannot be isolated here: {reason}")
    source = Source(
        path=shared_data / "mbpp_plus.jsonl.gz",
        shape="reference-tests",
        columns={"inputs": "plus_inputs"},
        domain="code",
        on_bad_row="skip",
    )
    with pytest.warns(UserWarning, match="skipped as malformed.*Infinity"):
        rows = load(source, Prompts, seed=0).rows
    slow = {
        f"mbppplus-{number}" for number in (84, 123, 255, 389, 392, 583, 589, 592, 599, 603, 630)
    }  # up to minutes each; tests/rewards has them
    rows = [row for row in rows if row["id"] not in slow]
    columns = {name: [row[name] for row in rows] for name in ("tests", "entry_point", "prompt")}
    rewards = dict(
        zip(
            [row["id"] for row in rows],
            code([f"```python\n{row['solution']}\n```" for row in rows], **columns),
            strict=True,
        )
    )
    # one prompt of the file stands there twice
    assert len(rows) == 278
    assert {number for number, reward in rewards.items() if reward is None} == {
        f"mbppplus-{number}" for number in (124, 252, 720)
    }
    failed = [number for number, reward in rewards.items() if reward == 0.0]
    assert len(failed) <= 0.005 * len(rows), failed


def test_reference_tests_skip_what_the_solution_cannot_do_and_read_matches(tmp_path: Path) -> None:
    from r1pipe.rewards.sandbox import available
    from r1pipe.rewards.scoring import correct

    if reason := available():
        pytest.skip(f"programs cannot be isolated here: {reason}")
    solution = "import re\ndef f(text):\n    return re.search('a+b', text)"
    row = {
        "prompt": "Is there ab in it?",
        "solution": solution,
        "entry_point": "f",
        "inputs": [["xaab"], ["no"], [None]],
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    (made,) = load(
        Source(path=tmp_path / "p.jsonl", shape="reference-tests", domain="code", language="en"),
        Prompts,
        seed=0,
    ).rows
    programs = [
        solution,
        "def f(text):\n    return 'ab' in text or None",
        "def f(text):\n    return None",
        "def f(text):\n    return True",
    ]
    assert correct([f"```python\n{program}\n```" for program in programs], [made] * 4) == [
        True,
        True,
        False,
        False,
    ]

"""reasoning-gym's tasks as prompts, and their own scorers as a reward."""

from __future__ import annotations

import json

import pytest

from r1pipe.artifacts import Chats, Prompts
from r1pipe.data.sources import Source, load
from r1pipe.errors import ConfigError, InputError
from r1pipe.rewards.scoring import correct

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")


def rows(tasks, count=12, seed=0, **more):
    return load(Source(reasoning_gym=tasks, count=count, **more), Prompts, seed).rows


def test_tasks_take_turns_and_the_seed_decides():
    made = rows(["chain_sum", "gcd", "syllogism"], 10)
    assert [row["task"] for row in made[:4]] == ["chain_sum", "gcd", "syllogism", "chain_sum"]
    assert len({row["id"] for row in made}) == 10
    assert {row["task"]: row["domain"] for row in made} == {
        "chain_sum": "math",
        "gcd": "math",
        "syllogism": "logic",
    }
    assert (
        made
        == rows(["chain_sum", "gcd", "syllogism"], 10)
        != rows(["chain_sum", "gcd", "syllogism"], 10, seed=1)
    )


def test_settings_reach_the_task_and_splits_are_disjoint():
    easy = rows({"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}, 20)
    assert all(
        len(row["answer"]) <= 3 and row["prompt"].count("+") + row["prompt"].count(" - ") == 1 for row in easy
    )
    shares = {"shares": {"dev": 0.3}}
    train, dev = rows(["gcd"], 40, **shares), rows(["gcd"], 10, split="dev", **shares)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in dev}


def test_gsm_symbolic_gives_plain_rows_that_accuracy_judges():
    """Of 7 in 400 questions the metadata hold a fraction, which JSON cannot store; a number is all that is compared."""
    made = rows(["gsm_symbolic"], 60, seed=3, domain="gsm-symbolic")
    assert len(made) == 60 and not any("gym" in row for row in made)
    right = [f"<think>...</think>The answer is {row['answer']}." for row in made]
    assert correct(right, made) == [True] * 60
    assert not any(correct(["<think>...</think>The answer is -3.125."] * 60, made))


def test_several_right_answers_are_judged_by_the_task_also_after_json():
    """A ladder of words has many right ways; `accuracy` would know one."""
    for name in ("fraction_simplification", "word_sorting", "sudoku", "complex_arithmetic"):
        (row,) = json.loads(json.dumps(rows([name], 1)))
        gold = f"<think>...</think><answer>{row['answer']}</answer>"
        assert row["gym"]["task"] == name and correct([gold, "<think>...</think>no"], [row, row]) == [
            True,
            False,
        ], name
    (row,) = rows(["gcd"], 1)
    assert "gym" not in row
    assert correct([f"<think></think>{row['answer']}"], [row]) == [True]


def test_another_right_answer_counts():
    from reasoning_gym import create_dataset

    entry = create_dataset("jugs", seed=1, size=1)[0]
    row = {
        "prompt": entry["question"],
        "answer": entry["answer"],
        "gym": {"task": "jugs", "question": entry["question"], "metadata": entry["metadata"]},
    }
    moves = json.loads(entry["answer"])
    longer = json.dumps(["fill A", "empty A", *moves])  # two moves that change nothing
    assert correct(
        [f"<answer>{longer}</answer>", f"<answer>{json.dumps(moves[:-1])}</answer>"], [row, row]
    ) == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (["chain_sun"], "did you mean 'chain_sum'"),
        (["composite"], "no task 'composite'"),
        (["countdown"], "the model's text to Python's eval"),
        (["bitwise_arithmetic"], "fields of the row to Python's eval"),
        (["number_sorting"], "fields of the row to Python's eval"),
        (["rearc"], "refuses its own answer"),
        ({"gcd": {"min_number": 3}}, "does not take these settings"),
    ],
)
def test_what_is_refused(tasks, says):
    with pytest.raises(ConfigError, match=says):
        rows(tasks, 2)


@pytest.mark.parametrize(
    ("name", "column"), [("bitwise_arithmetic", "metadata"), ("number_sorting", "answer")]
)
def test_no_scorer_evaluates_what_a_row_brings(name, column, tmp_path):
    """A row of a file names the task and has what its scorer reads, so code in it would run outside of any sandbox."""
    code = f"[open({str(tmp_path / 'ran')!r}, 'w')]"
    gym = {"task": name, "question": "?", "metadata": {"problem": code, "direction": "ascending"}}
    row = {"prompt": "?", "answer": code if column == "answer" else "0x1", "gym": gym}
    with pytest.raises(ConfigError, match="to Python's eval"):
        correct(["<think></think>[1]", "<answer>[1]</answer>"], [row, row])
    assert not (tmp_path / "ran").exists()


def test_the_scorers_that_call_eval_are_those_that_are_refused():
    """Another version of reasoning-gym may have other scorers, so the test reads their code and all that they call."""
    import ast
    import inspect
    import sys
    import textwrap

    from reasoning_gym.factory import DATASETS

    from r1pipe.rewards.reasoning_gym import EVALUATE, EVALUATE_ROW

    found = set()
    for name, (kind, _) in DATASETS.items():
        todo, read = [kind.score_answer], set()
        while todo:
            function = inspect.unwrap(todo.pop())
            if function in read:
                continue
            read.add(function)
            home = sys.modules[function.__module__]
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
                if not isinstance(node, ast.Call):
                    continue
                base = (
                    node.func.value.id
                    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
                    else None
                )
                called = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                owner = kind if base in ("self", "cls") else getattr(home, base, None) if base else home
                target = getattr(owner, called, None)
                own = inspect.isroutine(target) and (getattr(target, "__module__", None) or "").startswith(
                    "reasoning_gym"
                )
                if own and not inspect.isbuiltin(target):
                    todo.append(target)
                elif called in ("eval", "exec", "parse_expr", "sympify", "loads") and base != "json":
                    found.add(name)
    assert found == EVALUATE | EVALUATE_ROW


def test_too_few_questions_warn():
    with pytest.warns(UserWarning, match="the task has 1 different question"):
        rows({"chain_sum": {"min_terms": 2, "max_terms": 2, "size": 1}}, 3)


def test_only_prompts_and_only_with_a_count():
    with pytest.raises(InputError, match="reasoning-gym gives prompts"):
        load(Source(reasoning_gym=["gcd"], count=1), Chats, 0)
    with pytest.raises(ValueError, match="give a `count`"):
        Source(reasoning_gym=["gcd"])
    with pytest.raises(ValueError, match="columns would be ignored"):
        Source(reasoning_gym=["gcd"], count=1, columns={"prompt": "q"})

"""The oracle: right, readable, in the question's language, and not putting words into a model's mouth."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from r1pipe.embedded import oracle
from r1pipe.embedded import world_judge as judge
from r1pipe.embedded.problem import in_language
from r1pipe.embedded.trace import MIXED, OTHER, SAME, walk
from r1pipe.embedded.world import THINK, problems
from r1pipe.errors import InputError
from r1pipe.rewards import REWARDS
from r1pipe.text.response import join_response, split_response
from r1pipe.text.rows import REASONING_DOMAINS

ROWS = problems("dev", REASONING_DOMAINS, 400, 0)


def messages(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def thought(row, mode: str = SAME, slip: float = 0.0, seed: int = 0, wait: float = 0.0):
    steps = THINK[row["domain"]](json.loads(row["spec"]), row["language"])
    return walk(steps, Random(seed), row["language"], mode, slip=slip, wait=wait)


def test_solve_is_right_by_the_rewards():
    rows = [row for row in ROWS if row["domain"] != "code"]
    texts = [join_response(*oracle.solve(row)) for row in rows]
    assert REWARDS["accuracy"](completions=messages(texts), answer=[row["answer"] for row in rows]) == [
        1.0
    ] * len(rows)


def test_solve_of_code_passes_its_tests():
    for row in ROWS:
        if row["domain"] == "code":
            scope: dict = {}
            exec(re.sub(r"```(?:python)?", "", oracle.solve(row)[1]), scope)
            for line in row["tests"]["asserts"]:
                exec(line, scope)


def test_thinking_in_the_questions_language_stays_in_it():
    assert set(languages(SAME)) == {1.0}


@pytest.mark.parametrize("mode", [OTHER, MIXED])
def test_rewrite_translates_all_but_the_last_of_several_steps(mode: str):
    left = 0
    for seed, row in enumerate(ROWS):
        thinking, _ = oracle.rewrite(row, thought(row, mode, seed=seed).text) or ("", "")
        stop = {"en": "。", "zh": "."}[row["language"]]  # of the other language
        other = [line.endswith(stop) for line in re.split(r"(?<=。)|(?<=\.)\s", thinking) if line]
        assert thinking and not any(other[:-1]), (row, thinking)
        if thinking.startswith(("Quick", "直接")):
            assert not any(other)
        left += other[-1]
    assert 0.1 < left / len(ROWS) < 0.6


def languages(mode: str) -> list[float]:
    """The share of the question's language in each rewritten trace."""
    texts = []
    for row in ROWS:
        readable = oracle.rewrite(row, thought(row, mode).text)
        assert readable is not None, row
        texts.append(join_response(*readable))
    return REWARDS["language"](
        completions=messages(texts),
        language=[row["language"] for row in ROWS],
        prompt=[row["prompt"] for row in ROWS],
    )


def test_what_is_rewritten_is_right():
    rows = [row for row in ROWS if row["domain"] != "code"]
    texts = [join_response(*(oracle.rewrite(row, thought(row, MIXED).text) or ("", ""))) for row in rows]
    assert REWARDS["accuracy"](completions=messages(texts), answer=[row["answer"] for row in rows]) == [
        1.0
    ] * len(rows)


def test_mistaken_thinking_is_not_followed():
    followed = total = 0
    for row in ROWS:
        wrong = thought(row, slip=1.0, seed=3)
        if in_language(wrong.value, row["language"]) != row.get("answer"):
            total += 1
            followed += oracle.rewrite(row, wrong.text) is not None
    assert total > 200
    assert followed / total < 0.02


def test_thinking_about_something_else_is_not_followed():
    assert all(
        oracle.rewrite(row, text) is None for row in ROWS for text in ("", "The answer is obvious.", "1+1=2.")
    )


def test_simple_problems_get_short_thinking():
    row = dict(next(row for row in ROWS if row["domain"] == "math"), level=1)
    full, _ = oracle.rewrite({**row, "level": 3}, thought(row).text) or ("", "")
    short, _ = oracle.rewrite(row, thought(row).text) or ("", "")
    assert short and len(short) < len(full)


def test_reflection_is_kept():
    row = next(
        row for row in ROWS if row["domain"] == "math" and row["language"] == "en" and row["level"] > 1
    )
    readable = oracle.rewrite(row, thought(row, wait=1.0).text)
    assert readable and "Let me check" in readable[0]


def test_rows_that_are_not_ours_are_refused():
    with pytest.raises(InputError, match="no `spec`"):
        oracle.solve({"id": "x", "domain": "math", "prompt": "1+1=?", "answer": "2"})


def test_written_replies():
    rows = problems("dev", ["general", "harmful", "lookalike"], 90, 0)
    for row in rows:
        careful = oracle.write(row, Random(row["id"]), "careful")
        assert split_response(careful).thinking is not None
        assert judge.is_refusal(careful) == (row["domain"] == "harmful")
        assert not judge.is_refusal(oracle.write(row, Random(row["id"]), "sloppy"))
        assert row["domain"] == "general" or judge.is_refusal(
            oracle.write(row, Random(row["id"]), "sloppy", refuse=True)
        )

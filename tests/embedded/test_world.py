"""The world: splits by identity, balance, gold that the steps and an independent reading of the prompt agree with."""

from __future__ import annotations

import itertools
import json
import re
from random import Random

import pytest

from r1pipe.embedded import arithmetic, programs
from r1pipe.embedded.problem import SPLITS, in_language, split_of
from r1pipe.embedded.trace import walk
from r1pipe.embedded.world import DRAW, SHARES, THINK, problems
from r1pipe.errors import InputError
from r1pipe.text.response import split_response
from r1pipe.text.rows import REASONING_DOMAINS

DOMAINS = tuple(DRAW)


def test_same_arguments_same_rows_and_another_seed_others():
    first = problems("train", DOMAINS, 64, seed=1)
    assert first == problems("train", DOMAINS, 64, seed=1)
    assert [row["id"] for row in first] != [row["id"] for row in problems("train", DOMAINS, 64, seed=2)]


def test_balanced_over_domains_and_languages():
    rows = problems("dev", DOMAINS, 160, seed=0)
    cells = [(row["domain"], row["language"]) for row in rows]
    assert len(rows) == 160
    assert {cells.count(cell) for cell in set(cells)} == {10}
    assert all(
        bool(re.search(r"[\u4e00-\u9fff]", row["prompt"])) == (row["language"] == "zh")
        for row in rows
        if row["domain"] != "math" and row["domain"] != "choice"
    )


def test_ids_are_unique():
    rows = problems("train", DOMAINS, 1600, seed=0)
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_share_no_problem(domain: str):
    """The bug: an English and a Chinese wording of one problem, or two names in one story, on both sides of a split."""
    found = {
        name: {(r["prompt"], r["spec"]) for seed in (0, 1) for r in problems(name, [domain], 120, seed)}
        for name in SPLITS
    }
    for a, b in itertools.combinations(SPLITS, 2):
        assert not {prompt for prompt, _ in found[a]} & {prompt for prompt, _ in found[b]}
        if domain in ("math", "word-problems"):  # the canonical problem is the spec: no names, no wording
            assert not {spec for _, spec in found[a]} & {spec for _, spec in found[b]}
        if domain == "code":  # the function's name is wording
            assert not {str(json.loads(spec)[2]) for _, spec in found[a]} & {
                str(json.loads(spec)[2]) for _, spec in found[b]
            }


def test_the_split_does_not_depend_on_names_or_language():
    rng = Random(0)
    for domain in ("math", "word-problems", "code"):
        keys = {}
        for _ in range(3000):
            problem = DRAW[domain](rng, rng.choice(("en", "zh")))
            keys.setdefault(problem.key, set()).add(split_of(problem.key, SHARES[domain]))
        assert all(len(splits) == 1 for splits in keys.values())


@pytest.mark.slow
def test_enough_problems_for_the_recipe():
    """1,024 held-out reasoning problems of a kind, 512 of each other kind, and 2,000 training rows of each."""
    for domain in REASONING_DOMAINS:
        assert len(problems("heldout", [domain], 1024, 0)) == 1024
    for domain in ("general", "harmful", "lookalike"):
        assert len(problems("heldout", [domain], 512, 0)) == 512
        assert len(problems("train", [domain], 1000, 0)) == 1000


@pytest.mark.parametrize("domain", [d for d in REASONING_DOMAINS if d != "code"])
def test_steps_lead_to_the_gold_answer(domain: str):
    for row in problems("train", [domain], 600, 0):
        thought = walk(THINK[domain](json.loads(row["spec"]), row["language"]), Random(0), row["language"])
        assert in_language(thought.value, row["language"]) == row["answer"], row["prompt"]


def test_expressions_have_the_answer_that_python_gives():
    """Independent of the steps: the expression in the prompt, evaluated."""
    seen = 0
    for row in problems("train", ["math"], 800, 3):
        expressions = re.findall(r"[\d(][\d+*()-]*[\d)]", row["prompt"])
        if (
            len(expressions) == 1
            and not re.search(r"[a-z]=", row["prompt"])
            and re.search(r"[+*-]", expressions[0])
        ):
            seen += 1
            assert str(eval(expressions[0])) == row["answer"], row["prompt"]
    assert seen > 200


def test_numbers_stay_small():
    for row in problems("train", ["math", "word-problems"], 800, 0):
        numbers = [int(n) for n in re.findall(r"\d+", row["solution"])]
        assert max(numbers) <= 200, row


# the meaning of each operation, stated apart from the code that is composed
MEANING = {
    "add": lambda v, c: v + c,
    "sub": lambda v, c: v - c,
    "mul": lambda v, c: v * c,
    "mod": lambda v, c: v % c,
    "div": lambda v, c: v // c,
    "square": lambda v, c: v * v,
    "low": lambda v, c: c if v > c else v,
    "high": lambda v, c: c if v < c else v,
    "even": lambda v, c: list(filter(lambda x: x % 2 == 0, v)),
    "odd": lambda v, c: list(filter(lambda x: x % 2 == 1, v)),
    "above": lambda v, c: list(filter(lambda x: x > c, v)),
    "below": lambda v, c: list(filter(lambda x: x < c, v)),
    "plus": lambda v, c: list(map(lambda x: x + c, v)),
    "scale": lambda v, c: list(map(lambda x: x * c, v)),
    "first": lambda v, c: v[:c],
    "skip": lambda v, c: v[c:],
    "sum": lambda v, c: sum(v),
    "len": lambda v, c: len(v),
    "sort": lambda v, c: sorted(v),
    "flip": lambda v, c: list(reversed(v)),
    "upper": lambda v, c: v.upper(),
    "lower": lambda v, c: v.lower(),
    "reverse": lambda v, c: "".join(reversed(v)),
    "repeat": lambda v, c: "".join([v] * c),
    "head": lambda v, c: v[:c],
    "tail": lambda v, c: v[c:],
    "append": lambda v, c: v + c,
    "prepend": lambda v, c: c + v,
    "count": lambda v, c: v.count(c),
    "length": lambda v, c: len(v),
}


def test_the_world_has_steps_for_every_reasoning_domain():
    assert set(THINK) == set(REASONING_DOMAINS) and set(DRAW) == set(SHARES)


def test_programs_do_what_the_task_says():
    """The bug: x+3*2 for 'adds 3, then doubles', in the solution and so in the tests' expected values."""
    assert set(MEANING) == set(programs.OPS)
    for row in problems("train", ["code"], 1000, 0):
        family, name, ops = json.loads(row["spec"])
        scope: dict = {}
        exec(split_response(row["solution"]).summary.removeprefix("```python\n").removesuffix("```"), scope)
        for value in programs.INPUTS[family]:
            wanted = value
            for op, constant in ops:
                wanted = MEANING[op](wanted, constant)
            assert scope[name](value) == wanted, row
        assert row["entry_point"] == name
        for line in row["tests"]["asserts"]:
            exec(line, scope)


def test_most_mistaken_programs_fail_their_tests():
    failed = total = 0
    for row in problems("train", ["code"], 200, 0):
        thought = walk(
            programs.think(json.loads(row["spec"]), row["language"]), Random(1), row["language"], slip=1.0
        )
        scope: dict = {}
        total += 1
        try:
            exec(str(thought.value), scope)
            for line in row["tests"]["asserts"]:
                exec(line, scope)
        except Exception:
            failed += 1
    assert failed / total > 0.9


def test_orderings_and_liars_by_brute_force():
    for row in problems("train", ["logic"], 800, 0, ["en"]):
        spec = json.loads(row["spec"])
        if spec[0] == "order":
            people, facts = spec[2], spec[4]
            fitting = [
                p for p in itertools.permutations(people) if all(p.index(a) < p.index(b) for a, b in facts)
            ]
            assert {p[-1 if spec[3] else 0] for p in fitting} == {row["answer"]}
        elif spec[0] == "liars":
            people, first, says, count = spec[1:]
            worlds = [w for w in itertools.product((True, False), repeat=len(people)) if w[0] == first]
            worlds = [w for w in worlds if all((w[i + 1] == said) == w[i] for i, said in enumerate(says))]
            assert len(worlds) == 1
            assert row["answer"] == (
                str(worlds[0].count(False)) if count else "yes" if worlds[0][-1] else "no"
            )
        elif spec[0] == "truth":
            expression = re.search(r"Is (.*) true or false", row["prompt"])
            assert expression
            given = {letter: value for letter, value in zip(spec[1], spec[2], strict=True)}
            assert row["answer"] == str(eval(expression[1], {}, given)).lower()


def test_choices_have_one_right_option():
    for row in problems("train", ["choice"], 600, 0):
        options = dict(re.findall(r"([A-D])\) (\S+)", row["prompt"]))
        values = {letter: eval(text) for letter, text in options.items()}
        assert len(options) == 4
        assert list(values.values()).count(values[row["answer"]]) == 1


def test_every_operation_of_arithmetic_is_exact():
    assert [arithmetic.apply(op, 12, 4) for op in "+-*/"] == [16, 8, 48, 3]


@pytest.mark.parametrize(
    "bad", [("test", ["math"], ("en",)), ("train", ["maths"], ("en",)), ("train", ["math"], ("fr",))]
)
def test_unknown_names_say_what_there_is(bad: tuple):
    with pytest.raises(InputError, match="the world has no"):
        problems(bad[0], bad[1], 4, 0, bad[2])


def test_asking_for_more_than_there_is_says_so():
    with pytest.raises(InputError, match="holds only about"):
        problems("dev", ["lookalike"], 5000, 0, ["en"])

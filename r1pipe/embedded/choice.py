"""choice: multiple choice A-D over values that have to be computed."""

from __future__ import annotations

from random import Random
from typing import Any

from r1pipe.embedded import arithmetic
from r1pipe.embedded.arithmetic import apply
from r1pipe.embedded.problem import Problem, Step, Steps

LETTERS = "ABCD"


def draw(rng: Random, language: str) -> Problem:
    """One multiple-choice problem."""
    draw_kind = rng.choices((_value, _extreme, _sequence), (50, 30, 20))[0]
    return draw_kind(rng, language)


def _options(rng: Random, right: int) -> list[int]:
    """The right value and three wrong ones near it, in random order."""
    wrong: set[int] = set()
    while len(wrong) < 3:
        value = right + rng.choice((-10, -4, -3, -2, -1, 1, 2, 3, 4, 5, 10, 12))
        if value >= 0 and value != right:
            wrong.add(value)
    # Sorted, since the order of a set is not part of the seed.
    options = [*sorted(wrong), right]
    rng.shuffle(options)
    return options


def _listed(options: list[Any]) -> str:
    return " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))


def _value(rng: Random, language: str) -> Problem:
    """A short math problem with four results."""
    # Short, since four options follow.
    longest = 22 if language == "zh" else 36
    while True:
        problem = arithmetic.draw(rng, language)
        if problem.level <= 2 and len(problem.prompt) < longest:
            break
    right = int(problem.answer or 0)
    options = _options(rng, right)
    _, start, ops = problem.spec
    return Problem(
        "choice",
        language,
        ["value", start, ops, options],
        f"choice|value|{start}|{ops}",
        f"{problem.prompt} {_listed(options)}",
        LETTERS[options.index(right)],
        problem.level + 1,
    )


def _extreme(rng: Random, language: str) -> Problem:
    """Which of four sums is the largest or the smallest. No two share the extreme value."""
    largest = rng.random() < 0.6
    while True:
        sums = [_sum(rng) for _ in range(4)]
        values = [apply(op, a, b) for a, op, b in sums]
        best = max(values) if largest else min(values)
        if values.count(best) == 1:
            break

    if language == "zh":
        asks = (
            ("哪个最大？", "最大的是哪个？", "选最大的。")
            if largest
            else ("哪个最小？", "最小的是哪个？", "选最小的。")
        )
        ask = rng.choice(asks)
    else:
        wording = rng.choice(("Which is {}?", "Pick the {} value.", "Which sum is {}?"))
        ask = wording.format("largest" if largest else "smallest")
    return Problem(
        "choice",
        language,
        ["extreme", sums, largest],
        f"choice|extreme|{sums}|{largest}",
        f"{ask} {_listed([f'{a}{op}{b}' for a, op, b in sums])}",
        LETTERS[values.index(best)],
        4,
    )


def _sum(rng: Random) -> list:
    """[a, operation, b]; products are rarer than sums and differences."""
    op = rng.choice("+-*+-")
    if op == "*":
        return [rng.randint(2, 12), op, rng.randint(2, 9)]
    a = rng.randint(5, 60)
    return [a, op, rng.randint(2, 40 if op == "+" else a - 2)]


def _sequence(rng: Random, language: str) -> Problem:
    """The next number of an arithmetic sequence."""
    zh = language == "zh"
    start = rng.randint(1, 60)
    step = rng.randint(2, 19)
    sign = 1
    # Only a sequence that stays positive may fall.
    if start > 4 * step and rng.random() < 0.4:
        sign = -1
    length = rng.choice((3, 4))
    numbers = [start + sign * step * i for i in range(length)]
    right = start + sign * step * length
    options = _options(rng, right)

    shown = "，".join(map(str, numbers)) + "。" if zh else ", ".join(map(str, numbers)) + ". "
    if zh:
        ask = rng.choice(("接下来是几？", "下一个数是？", "后面是什么数？"))
    else:
        ask = rng.choice(("What comes next?", "Next number?", "How does it go on?"))
    return Problem(
        "choice",
        language,
        ["sequence", numbers, options],
        f"choice|sequence|{numbers}",
        f"{shown}{ask} {_listed(options)}",
        LETTERS[options.index(right)],
        3,
    )


def think(spec: list, language: str) -> Steps:
    """Compute, then find the letter."""
    if spec[0] == "value":
        return (yield from _think_value(spec, language))
    if spec[0] == "extreme":
        return (yield from _think_extreme(spec))
    return (yield from _think_sequence(spec))


def _think_value(spec: list, language: str) -> Steps:
    _, start, ops, options = spec
    value = yield from arithmetic.think(["run", start, ops], language)
    assert isinstance(value, int)
    return (yield _letter(value, options))


def _think_extreme(spec: list) -> Steps:
    _, sums, largest = spec
    values = []
    for letter, (a, op, b) in zip(LETTERS, sums, strict=True):
        value = yield Step(f"{letter}:{a}{op}{b}=§", f"{letter}：{a}{op}{b}=§", apply(op, a, b))
        values.append(value)
    best = max(values) if largest else min(values)
    en, zh = ("largest", "最大") if largest else ("smallest", "最小")
    return (yield Step(f"The {en} is {best}: §", f"{zh}的是{best}：§", LETTERS[values.index(best)], LETTERS))


def _think_sequence(spec: list) -> Steps:
    _, numbers, options = spec
    first, second, last = numbers[0], numbers[1], numbers[-1]
    if second > first:
        sign, a, b = "+", second, first
    else:
        sign, a, b = "-", first, second
    gap = yield Step(f"The gap is {a}-{b}=§", f"相差{a}-{b}=§", a - b)
    value = yield Step(f"Next is {last}{sign}{gap}=§", f"下一个是{last}{sign}{gap}=§", apply(sign, last, gap))
    return (yield _letter(value, options))


def _letter(value: int, options: list[int]) -> Step:
    """The option with this value. After a mistake there may be none; then it is the nearest."""
    nearest = min(range(4), key=lambda i: (abs(options[i] - value), i))
    return Step(f"So {value} is option §", f"所以{value}是选项§", LETTERS[nearest], LETTERS)

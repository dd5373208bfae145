"""choice: multiple choice A-D over values that have to be computed."""

from __future__ import annotations

from random import Random

from r1pipe.embedded import arithmetic
from r1pipe.embedded.arithmetic import apply
from r1pipe.embedded.problem import Problem, Step, Steps

LETTERS = "ABCD"


def draw(rng: Random, language: str) -> Problem:
    """One multiple-choice problem."""
    return rng.choices((_value, _extreme, _sequence), (50, 30, 20))[0](rng, language)


def _options(rng: Random, right: int) -> list[int]:
    wrong: set[int] = set()
    while len(wrong) < 3:
        value = right + rng.choice((-10, -4, -3, -2, -1, 1, 2, 3, 4, 5, 10, 12))
        if value >= 0 and value != right:
            wrong.add(value)
    options = [*sorted(wrong), right]
    rng.shuffle(options)
    return options


def _shown(options: list) -> str:
    return " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))


def _value(rng: Random, language: str) -> Problem:
    while True:
        problem = arithmetic.draw(rng, language)
        if problem.level <= 2 and len(problem.prompt) < (22 if language == "zh" else 36):
            break
    right = int(problem.answer or 0)
    options = _options(rng, right)
    _, start, ops = problem.spec
    return Problem(
        "choice",
        language,
        ["value", start, ops, options],
        f"choice|value|{start}|{ops}",
        f"{problem.prompt} {_shown(options)}",
        LETTERS[options.index(right)],
        problem.level + 1,
    )


def _extreme(rng: Random, language: str) -> Problem:
    """Which of four (sometimes three and a number) sums is largest or smallest."""
    largest = rng.random() < 0.6
    while True:
        sums = []
        for _ in range(4):
            op = rng.choice("+-*+-")
            a = rng.randint(2, 12) if op == "*" else rng.randint(5, 60)
            b = rng.randint(2, 9) if op == "*" else rng.randint(2, 40 if op == "+" else a - 2)
            sums.append([a, op, b])
        values = [apply(op, a, b) for a, op, b in sums]
        best = max(values) if largest else min(values)
        if values.count(best) == 1:
            break
    if language == "zh":
        ask = (
            rng.choice(("哪个最大？", "最大的是哪个？", "选最大的。"))
            if largest
            else rng.choice(("哪个最小？", "最小的是哪个？", "选最小的。"))
        )
    else:
        ask = rng.choice(("Which is {}?", "Pick the {} value.", "Which sum is {}?")).format(
            "largest" if largest else "smallest"
        )
    prompt = f"{ask} {_shown([f'{a}{op}{b}' for a, op, b in sums])}"
    return Problem(
        "choice",
        language,
        ["extreme", sums, largest],
        f"choice|extreme|{sums}|{largest}",
        prompt,
        LETTERS[values.index(best)],
        4,
    )


def _sequence(rng: Random, language: str) -> Problem:
    start, step, sign = rng.randint(1, 60), rng.randint(2, 19), 1
    if start > 4 * step and rng.random() < 0.4:
        sign = -1
    length = rng.choice((3, 4))
    shown = [start + sign * step * i for i in range(length)]
    right = start + sign * step * length
    options = _options(rng, right)
    numbers = ", ".join(map(str, shown)) if language == "en" else "，".join(map(str, shown))
    ask = (
        rng.choice(("接下来是几？", "下一个数是？", "后面是什么数？"))
        if language == "zh"
        else rng.choice(("What comes next?", "Next number?", "How does it go on?"))
    )
    prompt = f"{numbers}{'。' if language == 'zh' else '. '}{ask} {_shown(options)}"
    return Problem(
        "choice",
        language,
        ["sequence", shown, options],
        f"choice|sequence|{shown}",
        prompt,
        LETTERS[options.index(right)],
        3,
    )


def think(spec: list, language: str) -> Steps:
    """Compute, then find the letter; without a matching option, any of the nearest."""
    if spec[0] == "value":
        value = yield from arithmetic.think(["run", spec[1], spec[2]], language)
        assert isinstance(value, int)
        return (yield _letter(value, spec[3]))
    if spec[0] == "extreme":
        values = []
        for letter, (a, op, b) in zip(LETTERS, spec[1], strict=True):
            values.append((yield Step(f"{letter}:{a}{op}{b}=§", f"{letter}：{a}{op}{b}=§", apply(op, a, b))))
        best = max(values) if spec[2] else min(values)
        word = ("largest", "最大") if spec[2] else ("smallest", "最小")
        return (
            yield Step(f"The {word[0]} is {best}: §", f"{word[1]}的是{best}：§", LETTERS[values.index(best)], LETTERS)
        )
    shown, options = spec[1], spec[2]
    sign, a, b = ("+", shown[1], shown[0]) if shown[1] > shown[0] else ("-", shown[0], shown[1])
    gap = yield Step(f"The gap is {a}-{b}=§", f"相差{a}-{b}=§", a - b)
    value = yield Step(
        f"Next is {shown[-1]}{sign}{gap}=§", f"下一个是{shown[-1]}{sign}{gap}=§", apply(sign, shown[-1], gap)
    )
    return (yield _letter(value, options))


def _letter(value: int, options: list[int]) -> Step:
    near = min(range(4), key=lambda i: (abs(options[i] - value), i))
    return Step(f"So {value} is option §", f"所以{value}是选项§", LETTERS[near], LETTERS)

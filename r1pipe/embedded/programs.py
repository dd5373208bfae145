"""code: short Python functions of one argument, built from two or three operations, checked by running asserts.

Three families: numbers (x), lists of numbers (a), strings (s). An operation rewrites the expression so far; a step of
the thinking names the operation and shows the expression after it, so a mistaken operation stays in the final function.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any, NamedTuple

from r1pipe.embedded.problem import Problem, Step, Steps


class Op(NamedTuple):
    """One operation: how the task says it, how a step says it, the expression, and what it is often confused with.

    In the texts {e} is the expression so far, {c} the operation's constant, {t} the same as text, and {p} the `part`.
    """

    en: tuple[str, ...]
    """Wordings in a task, in the third person, after 'that'."""
    zh: tuple[str, ...]
    say: tuple[str, str]
    """What a step calls it, in English and in Chinese."""
    code: str
    twin: str
    """A plausible wrong expression; of an operation with a `part`, a wrong part."""
    part: str = ""
    """Of a comprehension: its condition or term, which is all that a step shows."""
    loose: bool = False
    """The result binds weaker than '*', so it gets brackets before the next operation."""


NUMBER = {
    "add": Op(
        ("adds {c}", "increases it by {c}", "adds the number {c}"),
        ("加{c}", "加上{c}"),
        ("Add", "加"),
        "{e}+{c}",
        "{e}-{c}",
        loose=True,
    ),
    "sub": Op(
        ("subtracts {c}", "takes away {c}", "reduces it by {c}"),
        ("减{c}", "减去{c}"),
        ("Subtract", "减"),
        "{e}-{c}",
        "{e}+{c}",
        loose=True,
    ),
    "mul": Op(
        ("multiplies by {c}", "takes it {c} times"),
        ("乘以{c}", "乘{c}"),
        ("Multiply", "乘"),
        "{e}*{c}",
        "{e}+{c}",
    ),
    "mod": Op(
        ("takes the remainder by {c}", "finds the rest after dividing by {c}"),
        ("取除以{c}的余数", "求除以{c}的余数"),
        ("Remainder", "余数"),
        "{e}%{c}",
        "{e}//{c}",
    ),
    "div": Op(
        ("divides by {c} rounding down", "takes the whole part after dividing by {c}"),
        ("整除{c}", "除以{c}取整"),
        ("Divide", "整除"),
        "{e}//{c}",
        "{e}%{c}",
    ),
    "square": Op(
        ("squares it", "multiplies it by itself"),
        ("平方", "求平方"),
        ("Square it", "平方"),
        "{e}**2",
        "{e}*2",
    ),
    "low": Op(
        ("caps it at {c}", "keeps it at most {c}"),
        ("最大取{c}", "不超过{c}"),
        ("At most", "最大"),
        "min({e},{c})",
        "max({e},{c})",
    ),
    "high": Op(
        ("lifts it to at least {c}", "keeps it at least {c}"),
        ("最小取{c}", "不小于{c}"),
        ("At least", "最小"),
        "max({e},{c})",
        "min({e},{c})",
    ),
}
KEEP = {
    "even": Op(
        ("keeps the even numbers", "takes only even numbers"),
        ("取出偶数", "留下偶数"),
        ("Keep even ones", "留偶数"),
        "[v for v in {e} if {p}]",
        "v%2==1",
        "v%2==0",
    ),
    "odd": Op(
        ("keeps the odd numbers", "takes only odd numbers"),
        ("取出奇数", "留下奇数"),
        ("Keep odd ones", "留奇数"),
        "[v for v in {e} if {p}]",
        "v%2==0",
        "v%2==1",
    ),
    "above": Op(
        ("keeps numbers above {c}", "drops all that are not over {c}"),
        ("取出大于{c}的数", "留下大于{c}的数"),
        ("Keep those above", "留下大的"),
        "[v for v in {e} if {p}]",
        "v<{c}",
        "v>{c}",
    ),
    "below": Op(
        ("keeps numbers below {c}", "drops all that are not under {c}"),
        ("取出小于{c}的数", "留下小于{c}的数"),
        ("Keep those below", "留下小的"),
        "[v for v in {e} if {p}]",
        "v>{c}",
        "v<{c}",
    ),
    "plus": Op(
        ("adds {c} to each number", "raises each number by {c}"),
        ("每个数加{c}", "把每个数加{c}"),
        ("Add to each", "每个加"),
        "[{p} for v in {e}]",
        "v*{c}",
        "v+{c}",
    ),
    "scale": Op(
        ("multiplies each number by {c}", "takes each number {c} times"),
        ("每个数乘{c}", "把每个数乘{c}"),
        ("Multiply each", "每个乘"),
        "[{p} for v in {e}]",
        "v+{c}",
        "v*{c}",
    ),
    "first": Op(
        ("takes the first {c} numbers", "keeps the first {c}"),
        ("取前{c}个", "留下前{c}个数"),
        ("The first", "前几个"),
        "{e}[:{c}]",
        "{e}[{c}:]",
    ),
    "skip": Op(
        ("skips the first {c} numbers", "leaves out the first {c}"),
        ("去掉前{c}个", "不要前{c}个数"),
        ("Skip the first", "去掉前几个"),
        "{e}[{c}:]",
        "{e}[:{c}]",
    ),
}
CLOSE = {
    "sum": Op(
        ("sums them", "adds them all up"), ("求和", "算总和"), ("Sum them", "求和"), "sum({e})", "len({e})"
    ),
    "len": Op(
        ("counts them", "tells how many there are"),
        ("数个数", "算有几个"),
        ("Count them", "数个数"),
        "len({e})",
        "sum({e})",
    ),
    "sort": Op(
        ("sorts them", "puts them in order"),
        ("排序", "从小到大排"),
        ("Sort them", "排序"),
        "sorted({e})",
        "{e}[::-1]",
    ),
    "flip": Op(
        ("reverses them", "turns the order round"),
        ("倒过来", "反转"),
        ("Reverse them", "反转"),
        "{e}[::-1]",
        "sorted({e})",
    ),
}
STRING = {
    "upper": Op(
        ("makes it upper case", "turns it to capitals"),
        ("变大写", "改成大写"),
        ("Upper case", "大写"),
        "{e}.upper()",
        "{e}.lower()",
    ),
    "lower": Op(
        ("makes it lower case", "turns it to small letters"),
        ("变小写", "改成小写"),
        ("Lower case", "小写"),
        "{e}.lower()",
        "{e}.upper()",
    ),
    "reverse": Op(
        ("reverses it", "turns it round"), ("反转", "倒过来"), ("Reverse it", "反转"), "{e}[::-1]", "{e}[1:]"
    ),
    "repeat": Op(
        ("repeats it {c} times", "writes it {c} times"),
        ("重复{c}次", "写{c}遍"),
        ("Repeat it", "重复"),
        "{e}*{c}",
        "{e}[:{c}]",
    ),
    "head": Op(
        ("takes the first {c} letters", "keeps the first {c} letters"),
        ("取前{c}个字", "留前{c}个字"),
        ("The first", "前几个字"),
        "{e}[:{c}]",
        "{e}[{c}:]",
    ),
    "tail": Op(
        ("drops the first {c} letters", "cuts off the first {c} letters"),
        ("去掉前{c}个字", "不要前{c}个字"),
        ("Drop the first", "去掉前几个字"),
        "{e}[{c}:]",
        "{e}[:{c}]",
    ),
    "append": Op(
        ("adds '{t}' at the end", "puts '{t}' behind it"),
        ("末尾加'{t}'", "后面加'{t}'"),
        ("Add behind", "后面加"),
        "({e}+'{t}')",
        "('{t}'+{e})",
    ),
    "prepend": Op(
        ("puts '{t}' in front", "adds '{t}' before it"),
        ("前面加'{t}'", "开头加'{t}'"),
        ("Put in front", "前面加"),
        "('{t}'+{e})",
        "({e}+'{t}')",
    ),
}
COUNT = {
    "count": Op(
        ("counts the '{t}' in it", "tells how often '{t}' is there"),
        ("数'{t}'的个数", "算有几个'{t}'"),
        ("Count it", "数个数"),
        "{e}.count('{t}')",
        "{e}.find('{t}')",
    ),
    "length": Op(
        ("gives its length", "tells how long it is"),
        ("求长度", "算长度"),
        ("Its length", "长度"),
        "len({e})",
        "len({e})-1",
    ),
}
OPS = {**NUMBER, **KEEP, **CLOSE, **STRING, **COUNT}

# The list so far, in the call that closes a list's operations.
CALL_ON_B = re.compile(r"\bb\b")
VARIABLE = {"number": "x", "list": "a", "string": "s"}
NAMES = ("f", "g", "h", "solve", "calc", "run", "work", "apply")

# {f} is the function's name, {v} its argument, {t} the task.
ASK_EN = (
    "Write a function {f}({v}) that {t}.",
    "Define {f}({v}): it {t}.",
    "Code {f}({v}) in Python. It {t}.",
    "I need {f}({v}) that {t}.",
    "Give a function {f}({v}) which {t}.",
)
ASK_ZH = (
    "写函数{f}({v})：{t}。",
    "定义{f}({v})，{t}。",
    "用代码写{f}({v})，{t}。",
    "请写函数{f}({v})，它{t}。",
    "写一个{f}({v})：{t}。",
)

# What the asserts call a function with. The empty list and text are there for what breaks on them.
INPUTS: dict[str, list[Any]] = {
    "number": [0, 1, 7, 12, 35, 4],
    "list": [[3, 8, 1, 10, 6, 5], [], [2, 2, 9], [15, 4, 7, 20, 11]],
    "string": ["Hello", "banana", "", "Ab cd", "xyzab"],
}


def _constant(rng: Random, op: str) -> str | int:
    """An operation's constant; 0 where it has none."""
    if op in ("append", "prepend", "count"):
        return rng.choice("abcdehklmnorstxyz")
    if op in ("repeat", "first", "skip", "head", "tail"):
        return rng.randint(2, 4)
    if op in ("mod", "div", "mul", "scale"):
        return rng.randint(2, 9)
    if op in ("square", "even", "odd", "upper", "lower", "reverse", *CLOSE, "length"):
        return 0
    return rng.randint(2, 30)


def draw(rng: Random, language: str) -> Problem:
    """One programming task."""
    family = rng.choices(("number", "list", "string"), (50, 28, 22))[0]
    names = _operations(rng, family)
    ops = [[name, _constant(rng, name)] for name in names]
    name = rng.choice(NAMES)
    variable = VARIABLE[family]
    zh = language == "zh"

    parts = [_fill(rng.choice(OPS[op].zh if zh else OPS[op].en), constant) for op, constant in ops]
    if zh:
        task = "，再".join(parts) if rng.random() < 0.5 else "先" + "，然后".join(parts)
        wording = rng.choice(ASK_ZH)
    else:
        task = ", ".join(parts[:-1]) + rng.choice((" and ", ", then ", " and then ")) + parts[-1]
        wording = rng.choice(ASK_EN)
    return Problem(
        "code",
        language,
        [family, name, ops],
        f"code|{family}|{ops}",
        wording.format(f=name, v=variable, t=task),
        function(name, variable, _expression(family, ops)),
        len(ops),
    )


def _operations(rng: Random, family: str) -> list[str]:
    """The names of two or three operations that can follow each other."""
    if family == "number":
        return rng.sample(list(NUMBER), rng.choices((2, 3), (78, 22))[0])
    if family == "list":
        names = [rng.choice(list(KEEP)), rng.choice(list(CLOSE))]
        # The third is a slice: two comprehensions in one another would be too long.
        if rng.random() < 0.25:
            names.insert(0, rng.choice(("first", "skip")))
        return names
    names = rng.sample(list(STRING), 2)
    if rng.random() < 0.25:
        names.append(rng.choice(list(COUNT)))
    return names


def _fill(text: str, constant: str | int, expression: str = "", part: str = "") -> str:
    # `part` holds slots itself, so it goes first.
    text = text.replace("{p}", part)
    return text.replace("{e}", expression).replace("{c}", str(constant)).replace("{t}", str(constant))


def _wrap(op: Op, expression: str, previous: str | None) -> str:
    """Brackets around an expression that binds weaker than the operation that follows."""
    if previous is None or not op.code.startswith("{e}"):
        return expression
    sum_in_product = OPS[previous].loose and not op.loose
    power_of_product = previous in ("mul", "mod", "div", "square") and op.code == "{e}**2"
    if sum_in_product or power_of_product or previous == "repeat":
        return f"({expression})"
    return expression


def _expression(family: str, ops: list[list]) -> str:
    """The right expression."""
    expression = VARIABLE[family]
    previous = None
    for name, constant in ops:
        op = OPS[name]
        expression = _fill(op.code, constant, _wrap(op, expression, previous), op.part)
        previous = name
    return expression


def function(name: str, variable: str, expression: str) -> str:
    """The whole program: one definition on one line."""
    return f"def {name}({variable}): return {expression}"


def think(spec: list, language: str) -> Steps:
    """One step an operation: 'Add: x+3.'

    The value is the expression so far; for a list only what is new: the condition or term of a comprehension, and at
    the last step the call on the list so far (b). The whole is put together in the answer.
    """
    family, name, ops = spec
    expression = VARIABLE[family]
    previous = None
    for op_name, constant in ops:
        op = OPS[op_name]
        last = op_name in CLOSE
        inner = "b" if last else _wrap(op, expression, previous)
        code = op.part or op.code
        right = _fill(code, constant, inner)
        wrong = [_fill(op.twin, constant, inner)]
        if isinstance(constant, int) and constant:
            wrong.append(_fill(code, constant + 1, inner))

        en, zh = op.say
        value = yield Step(f"{en}: §", f"{zh}：§", right, wrong)
        if op.part:
            expression = _fill(op.code, constant, inner, value)
        elif last:
            # A function, since a text in its place would have its backslashes read.
            expression = CALL_ON_B.sub(lambda _, whole=expression: whole, value)
        else:
            expression = value
        previous = op_name
    return function(name, VARIABLE[family], expression)


def tests(spec: list) -> dict[str, Any]:
    """Asserts on fixed inputs; the expected values are those of the right expression."""
    family, name, ops = spec
    # What is run here was composed by this module and is not a model's.
    scope: dict[str, Any] = {}
    exec(function(name, VARIABLE[family], _expression(family, ops)), scope)  # noqa: S102
    run = scope[name]
    return {
        "kind": "asserts",
        # In seconds of CPU time. One line of Python takes microseconds, so this only ends endless loops.
        "timeout": 1,
        "setup": "",
        "asserts": [f"assert {name}({value!r}) == {run(value)!r}" for value in INPUTS[family]],
    }

"""math: chains of two to four sums with +, - and a small factor, as an expression, in words or with variables.

Every number and every intermediate value stays within 0..200, so that a small model can learn each single step, while
the whole chain at once is hard for it.
"""

from __future__ import annotations

from random import Random

from r1pipe.embedded.problem import Problem, Step, Steps

LARGEST = 200

# Words before a sum, as (English, Chinese).
FIRST = (("First ", "先算"), ("Start: ", "首先"), ("We have ", "已知"))
NEXT = (("Then ", "再算"), ("Next ", "接着"), ("Now ", "然后"))
LAST = (("So ", "于是"), ("Finally ", "最后"))

# § stands for the expression.
ASK_EN = (
    "Compute §.",
    "What is §?",
    "§=?",
    "Find §.",
    "Work out §.",
    "Calculate § step by step.",
    "How much is §?",
    "Please compute §.",
    "Evaluate §.",
    "Solve §.",
)
ASK_ZH = (
    "计算§。",
    "§等于多少？",
    "§=？",
    "求§。",
    "请算出§。",
    "§是多少？",
    "算一算§。",
    "请计算§的值。",
    "请一步一步算§。",
    "求§的结果。",
)

# § stands for the number.
VERBAL_EN = {
    "+": (" add §", " plus §", " add on §"),
    "-": (" subtract §", " minus §", " take away §"),
    "*": (" multiply by §", " times §"),
}
VERBAL_ZH = {
    "+": ("加§", "加上§", "增加§"),
    "-": ("减§", "减去§", "减少§"),
    "*": ("乘§", "乘以§"),
}

Ops = list[list]  # [operation, number] one after another


def apply(op: str, a: int, b: int) -> int:
    """a op b for the world's four operations; division is exact wherever a problem asks for it."""
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    return a // b


def draw_op(rng: Random, value: int, times: bool = True) -> tuple[str, int]:
    """An operation on `value` that stays within 0..200; a multiplication only where `times`."""
    u = rng.random()
    # Small factors of small numbers only, so that a small model can learn the step.
    if times and u < 0.3 and 2 <= value <= 40:
        largest_factor = min(9, LARGEST // value) if value < 20 else 4
        return "*", rng.randint(2, largest_factor)
    if (u < 0.65 or value < 3) and value <= 150:
        return "+", rng.randint(2, min(60, LARGEST - 1 - value))
    return "-", rng.randint(1, min(value, 70))


def draw(rng: Random, language: str) -> Problem:
    """One math problem."""
    kind = rng.choices(("chain", "product", "bracket", "words", "vars"), (28, 16, 16, 24, 16))[0]
    zh = language == "zh"
    if kind == "product":
        start, ops, expression = _product(rng)
    elif kind == "bracket":
        start, ops, expression = _bracket(rng)
    else:
        start, ops, expression = _chain(rng, kind)

    if kind == "words":
        prompt = _in_words(rng, start, ops, zh)
    elif kind == "vars":
        prompt = _with_variables(rng, start, ops, zh)
    else:
        prompt = rng.choice(ASK_ZH if zh else ASK_EN).replace("§", expression)

    value = start
    for op, n in ops:
        value = apply(op, value, n)
    # Two kinds that give the same sums are the same problem, so the kind is not part of the key.
    return Problem(
        "math", language, ["run", start, ops], f"math|{[start, ops]}", prompt, str(value), len(ops)
    )


def _product(rng: Random) -> tuple[int, Ops, str]:
    """a*b+c-d or c+a*b-d: the product comes first, wherever it stands."""
    a = rng.randint(2, 12)
    b = rng.randint(2, 9)
    value = a * b
    rest: Ops = []
    tail = ""
    for _ in range(rng.choice((1, 1, 2))):
        op, n = draw_op(rng, value, times=False)
        rest.append([op, n])
        value = apply(op, value, n)
        tail += f"{op}{n}"

    # With the product behind the first sum, reading from left to right gives a wrong result.
    expression = f"{a}*{b}{tail}"
    if rng.random() < 0.4 and rest[0][0] == "+":
        first = str(rest[0][1])
        expression = f"{first}+{a}*{b}{tail.removeprefix('+' + first)}"
    return a, [["*", b], *rest], expression


def _bracket(rng: Random) -> tuple[int, Ops, str]:
    """(a+b)*c, with one more operation in half of them."""
    value = start = rng.randint(2, 20)
    ops: Ops = []
    for i in range(rng.choice((2, 3))):
        if i == 0:
            op, n = _inside_bracket(rng, value)
        elif i == 1:
            op, n = "*", rng.randint(2, 5 if value <= 40 else 4)
        else:
            op, n = draw_op(rng, value, times=False)
        ops.append([op, n])
        value = apply(op, value, n)
    op, n = ops[0]
    return start, ops, f"({start}{op}{n})" + _joined(ops[1:])


def _inside_bracket(rng: Random, value: int) -> tuple[str, int]:
    if value < 6 or rng.random() < 0.6:
        return "+", rng.randint(2, 20)
    return "-", rng.randint(1, value - 2)


def _chain(rng: Random, kind: str) -> tuple[int, Ops, str]:
    """Operations from left to right; an expression has no factor in it, since there it would come first."""
    value = start = rng.randint(3, 60)
    ops: Ops = []
    for _ in range(rng.choices((2, 3, 4), (40, 40, 20 if kind == "chain" else 0))[0]):
        op, n = draw_op(rng, value, times=kind in ("words", "vars"))
        ops.append([op, n])
        value = apply(op, value, n)
    return start, ops, f"{start}" + _joined(ops)


def _joined(ops: Ops) -> str:
    return "".join(f"{op}{n}" for op, n in ops)


def _in_words(rng: Random, start: int, ops: Ops, zh: bool) -> str:
    if zh:
        head = rng.choice((f"从{start}开始", f"{start}先", f"取{start}"))
        parts = [rng.choice(VERBAL_ZH[op]).replace("§", str(n)) for op, n in ops]
        ask = rng.choice(("，结果是多少？", "，得多少？", "，等于多少？"))
        comma = "" if head.endswith("先") else "，"
        return head + comma + "，再".join(parts) + ask
    parts = [rng.choice(VERBAL_EN[op]).replace("§", str(n)) for op, n in ops]
    if rng.random() < 0.5:
        parts[-1] = " then" + parts[-1]
    head = rng.choice((f"Start with {start},", f"Take {start},", f"Begin at {start},"))
    ask = rng.choice((". What do you get?", ". What is the result?", ". Where do you end?"))
    return head + ",".join(parts) + ask


def _with_variables(rng: Random, start: int, ops: Ops, zh: bool) -> str:
    names = rng.choice(("abcd", "xyzw", "pqrs", "mnkt"))
    parts = []
    last = str(start)
    for (op, n), name in zip(ops, names, strict=False):
        parts.append(f"{name}={last}{op}{n}")
        last = name
    if zh:
        head = rng.choice(("已知", "设", ""))
        ask = rng.choice(("是多少？", "=？", "等于几？"))
        return head + "，".join(parts) + f"。{last}" + ask
    head = rng.choice(("Let ", "If ", ""))
    ask = rng.choice((f". What is {last}?", f". Find {last}.", f". {last}=?"))
    return head + ", ".join(parts) + ask


def think(spec: list, language: str) -> Steps:
    """One step a sum: 'First 12+7=19.', 'So 19-5=14.'"""
    _, value, ops = spec
    for i, (op, n) in enumerate(ops):
        en, zh = _opening(i, len(ops), n)
        value = yield Step(f"{en}{value}{op}{n}=§", f"{zh}{value}{op}{n}=§", apply(op, value, n))
    return value


def _opening(i: int, count: int, n: int) -> tuple[str, str]:
    """The words before the i-th sum of `count`.

    The sum's number picks one of several, so that a problem is always thought through in the same words.
    """
    if i == 0:
        pool = FIRST
    elif i == count - 1:
        pool = LAST
    else:
        pool = NEXT
    return pool[n % len(pool)]

"""math: chains of two to four sums with +, - and a small factor, as an expression, in words or with variables.

Every number and every intermediate value stays within 0..200, so that a small model can learn each single step, while the
whole chain in one go is hard for it.
"""

from __future__ import annotations

from random import Random

from r1pipe.embedded.problem import Problem, Step, Steps

FIRST = (("First ", "先算"), ("Start: ", "首先"), ("We have ", "已知"))
NEXT = (("Then ", "再算"), ("Next ", "接着"), ("Now ", "然后"))
LAST = (("So ", "于是"), ("Finally ", "最后"))
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
VERBAL_EN = {
    "+": (" add §", " plus §", " add on §"),
    "-": (" subtract §", " minus §", " take away §"),
    "*": (" multiply by §", " times §"),
}
VERBAL_ZH = {"+": ("加§", "加上§", "增加§"), "-": ("减§", "减去§", "减少§"), "*": ("乘§", "乘以§")}


def apply(op: str, a: int, b: int) -> int:
    """a op b for the world's four operations; division is exact wherever a problem asks for it."""
    return a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a // b


def draw_op(rng: Random, value: int, times: bool = True) -> tuple[str, int]:
    """An operation on `value` that stays within 0..200."""
    u = rng.random()
    if times and u < 0.3 and 2 <= value <= 40:
        return "*", rng.randint(2, min(9, 200 // value) if value < 20 else 4)
    if (u < 0.65 or value < 3) and value <= 150:
        return "+", rng.randint(2, min(60, 199 - value))
    return "-", rng.randint(1, min(value, 70))


def words(i: int, count: int, salt: int) -> tuple[str, str]:
    """The words before the i-th sum of `count`; which of them, the problem's numbers decide."""
    pool = FIRST if i == 0 else LAST if i == count - 1 else NEXT
    return pool[salt % len(pool)]


def draw(rng: Random, language: str) -> Problem:
    """One math problem."""
    kind = rng.choices(("chain", "product", "bracket", "words", "vars"), (28, 16, 16, 24, 16))[0]
    zh = language == "zh"
    if kind == "product":  # a*b+c-d or c+a*b-d: the product first
        a, b = rng.randint(2, 12), rng.randint(2, 9)
        rest, value, tail = [], a * b, ""
        for _ in range(rng.choice((1, 1, 2))):
            op, n = draw_op(rng, value, times=False)
            rest.append([op, n])
            value, tail = apply(op, value, n), f"{tail}{op}{n}"
        front = rng.random() < 0.4 and rest[0][0] == "+"
        expression = f"{rest[0][1]}+{a}*{b}{tail[1 + len(str(rest[0][1])) :]}" if front else f"{a}*{b}{tail}"
        spec: list = ["run", a, [["*", b], *rest]]
    else:
        value = start = rng.randint(3, 60) if kind != "bracket" else rng.randint(2, 20)
        ops = []
        for i in range(
            rng.choices((2, 3, 4), (40, 40, 20 if kind == "chain" else 0))[0]
            if kind != "bracket"
            else rng.choice((2, 3))
        ):
            if kind == "bracket" and i == 0:
                op, n = (
                    ("+", rng.randint(2, 20)) if value < 6 or rng.random() < 0.6 else ("-", rng.randint(1, value - 2))
                )
            elif kind == "bracket" and i == 1:
                op, n = "*", rng.randint(2, 5 if value <= 40 else 4)
            else:
                op, n = draw_op(rng, value, times=kind in ("words", "vars"))
            ops.append([op, n])
            value = apply(op, value, n)
        spec = ["run", start, ops]
        if kind == "bracket":
            expression = f"({start}{ops[0][0]}{ops[0][1]})" + "".join(f"{op}{n}" for op, n in ops[1:])
        else:
            expression = f"{start}" + "".join(f"{op}{n}" for op, n in ops)
    if kind == "words":
        prompt = _in_words(rng, spec[1], spec[2], zh)
    elif kind == "vars":
        prompt = _with_variables(rng, spec[1], spec[2], zh)
    else:
        prompt = rng.choice(ASK_ZH if zh else ASK_EN).replace("§", expression)
    return Problem("math", language, spec, f"math|{spec[1:]}", prompt, str(value), len(spec[2]))


def _in_words(rng: Random, start: int, ops: list, zh: bool) -> str:
    if zh:
        head = rng.choice((f"从{start}开始", f"{start}先", f"取{start}"))
        parts = [rng.choice(VERBAL_ZH[op]).replace("§", str(n)) for op, n in ops]
        return (
            head
            + ("" if head.endswith("先") else "，")
            + "，再".join(parts)
            + rng.choice(("，结果是多少？", "，得多少？", "，等于多少？"))
        )
    parts = [rng.choice(VERBAL_EN[op]).replace("§", str(n)) for op, n in ops]
    parts[-1] = " then" + parts[-1] if rng.random() < 0.5 else parts[-1]
    return (
        rng.choice((f"Start with {start},", f"Take {start},", f"Begin at {start},"))
        + ",".join(parts)
        + rng.choice((". What do you get?", ". What is the result?", ". Where do you end?"))
    )


def _with_variables(rng: Random, start: int, ops: list, zh: bool) -> str:
    names = rng.choice(("abcd", "xyzw", "pqrs", "mnkt"))
    parts, last = [], str(start)
    for (op, n), name in zip(ops, names, strict=False):
        parts.append(f"{name}={last}{op}{n}")
        last = name
    if zh:
        return (
            rng.choice(("已知", "设", ""))
            + "，".join(parts)
            + f"。{last}"
            + rng.choice(("是多少？", "=？", "等于几？"))
        )
    return (
        rng.choice(("Let ", "If ", ""))
        + ", ".join(parts)
        + rng.choice((f". What is {last}?", f". Find {last}.", f". {last}=?"))
    )


def think(spec: list, language: str) -> Steps:
    """One step a sum: 'First 12+7=19.', 'So 19-5=14.'"""
    value, ops = spec[1], spec[2]
    for i, (op, n) in enumerate(ops):
        en, zh = words(i, len(ops), n)
        value = yield Step(f"{en}{value}{op}{n}=§", f"{zh}{value}{op}{n}=§", apply(op, value, n))
    return value

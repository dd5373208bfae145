"""The processes behind the accuracy reward: the same verdicts as math-verify's, whatever a pair does to them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import sympy

from r1pipe.rewards import symbolic
from r1pipe.rewards._symbolic_speed import differ, equations_differ, sets_differ
from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.answers import compare, parse
from r1pipe.rewards.symbolic import Pool, equal
from tests.public_rows import load


@pytest.fixture
def pool() -> Iterator[Pool]:
    workers = Pool(1)
    yield workers
    workers.close()


@pytest.fixture
def plain() -> Iterator[Pool]:
    """math-verify as it is."""
    workers = Pool(2, plain=True)
    yield workers
    workers.close()


def undecided(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in pairs if parse(pair[0]).kind != "broken" and compare(*pair) is None]


@pytest.mark.slow
def test_the_fast_way_gives_math_verifys_verdicts(plain: Pool) -> None:
    rows = load("verifier_pairs")
    pairs = undecided([(row["gold"], row["candidate"]) for row in rows])[::3]  # all of them in the slow test
    assert len(pairs) > 30
    assert equal(pairs, timeout=30) == equal(pairs, timeout=30, pool=plain)


@pytest.mark.slow
def test_the_fast_way_gives_math_verifys_verdicts_on_every_mix(plain: Pool) -> None:
    rows = load("verifier_pairs")
    draw = random.Random(0)
    texts = sorted({text for row in rows for text in (row["gold"], row["candidate"])})
    pairs = undecided(sorted({(draw.choice(texts), draw.choice(texts)) for _ in range(4000)}))
    pairs += undecided([(row["gold"], row["candidate"]) for row in rows])
    # equal() itself does not look for equal strings.
    pairs += [(text, text) for text in texts if parse(text).kind != "broken"]
    assert equal(pairs, timeout=30) == equal(pairs, timeout=30, pool=plain)


EQUAL = [
    ("(x+1)**2", "x**2 + 2*x + 1"),
    ("sin(x)**2 + cos(x)**2", "1"),
    ("sin(2*x)", "2*sin(x)*cos(x)"),
    ("cot(x)", "cos(x)/sin(x)"),
    ("(x**2 - 1)/(x - 1)", "x + 1"),
    ("exp(log(x) + y)", "x*exp(y)"),
    ("sqrt(3 + 2*sqrt(2))", "1 + sqrt(2)"),
    ("(-8)**(1/3)", "1 + sqrt(3)*I"),
    ("log(8, 2)", "3"),
    ("(1 + I)**8", "16"),
    ("sqrt(-4)", "2*I"),
    ("10**20 + 1 - 10**20", "1"),
    ("10**9*(sqrt(2) - 1)", "10**9*sqrt(2) - 10**9"),
    ("floor(sqrt(2)*5)", "7"),
    ("tan(pi/4)", "1"),
    ("exp(I*pi)", "-1"),
    ("(-1)**(x)*(-1)**x", "(-1)**(2*x)"),
    ("sqrt(x)**2", "x"),
    ("0", "sin(pi)"),
    ("2**100", "4**50"),
    ("100!", "100!"),
    ("Abs(x*y)", "Abs(x)*Abs(y)"),
    ("1/3", "0.333333"),
    ("(sqrt(5)+1)/2", "2/(sqrt(5)-1)"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_values_are_never_refuted(a: str, b: str) -> None:
    def parsed(text: str) -> sympy.Expr:
        return sympy.parse_expr(
            text,
            transformations="all",
            local_dict={name: sympy.Symbol(name, real=True) for name in "xy"},
            evaluate=False,
        )

    assert not differ(parsed(a), parsed(b))
    assert not differ(parsed(b), parsed(a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x", "y"),
        ("x + 1", "x"),
        ("2*sqrt(5)", "sqrt(5)"),
        ("n", "n**2"),
        ("floor(n)", "n"),
        ("pi", "22/7"),
        ("f(x)", "g(x)"),
        ("I", "1"),
    ],
)
def test_different_values_are_refuted(a: str, b: str) -> None:
    assert differ(sympy.sympify(a), sympy.sympify(b))


@pytest.mark.parametrize(
    "function",
    [
        "exp",
        "sin",
        "cos",
        "tan",
        "cot",
        "sinh",
        "cosh",
        "tanh",
        "atan",
        "log",
        "sqrt",
        "factorial",
        "floor",
        "ceiling",
        "Abs",
    ],
)
def test_every_function_is_evaluated(function: str) -> None:
    """A function that is not would only be slow, and nobody would notice."""
    assert differ(sympy.sympify(f"{function}(x) + x"), sympy.sympify(f"x**2*{function}(y)"))
    assert differ(sympy.sympify("binomial(n, 9)"), sympy.sympify("n + 9"))


def test_a_large_intermediate_value_hides_no_plain_difference() -> None:
    assert differ(
        sympy.Integer(111),
        sympy.sympify("65*(13*a*b*c)**(1/14)*(a**13 + 13*b**13 + 15*c**13)/(a + b + c)**14"),
    )


@pytest.mark.parametrize(
    "hard",
    [
        "10**400",
        "9**9**9",
        "log(sin(pi) + x - x)",
        "zeta(x)",
        "1/(x - x*(1 + 10**-40))",
        "gamma(10**9)",
        "(10**8)!",
    ],
)
def test_values_that_are_not_known_are_not_refuted(hard: str) -> None:
    assert not differ(sympy.parse_expr(hard, transformations="all", evaluate=False), sympy.Integer(1))


def test_collections_and_equations() -> None:
    x, abc, a, b, c = sympy.symbols("x abc a b c")
    third, pct = (
        sympy.Rational(1, 3),
        sympy.Mul(9, sympy.UnevaluatedExpr(sympy.Rational(1, 100)), evaluate=False),
    )
    assert sets_differ(sympy.FiniteSet(1, 2), sympy.FiniteSet(1, 3)) and sets_differ(
        sympy.Tuple(1, 2), sympy.Integer(2)
    )
    assert not sets_differ(sympy.FiniteSet(1, third), sympy.FiniteSet(1, sympy.Float("0.333333")))
    assert not sets_differ(sympy.FiniteSet(1, abc), sympy.FiniteSet(1, a * b * c)), (
        "math-verify takes a product of letters for a name"
    )
    assert not sets_differ(sympy.FiniteSet(1, pct), sympy.FiniteSet(1, 9)), "and 9% for 9"
    assert not sets_differ(sympy.Interval.open(1, 2), sympy.Tuple(1, 2))
    f = sympy.Function("f")(x)
    assert equations_differ(sympy.Eq(f, x + 1), sympy.Eq(f, x)) and equations_differ(
        sympy.Eq(2 * a + b, 3), sympy.Eq(a + b, 3)
    )
    assert not equations_differ(sympy.Eq(2 * a + b, 3), sympy.Eq(6, 4 * a + 2 * b))


def test_unions_of_intervals() -> None:
    a, b, c, oo = (
        sympy.Interval.open(1, 2),
        sympy.Interval(2, 3),
        sympy.Interval(-sympy.oo, sympy.Rational(1, 3)),
        sympy.oo,
    )
    union = sympy.Union
    assert sets_differ(union(a, c), union(a, sympy.Interval(-oo, sympy.Rational(1, 2)))) and sets_differ(
        union(a, c), a
    )
    assert sets_differ(union(a, c), sympy.Interval(-oo, oo)) and sets_differ(
        a, union(a, sympy.Interval.open(4, oo))
    )
    assert not sets_differ(union(a, b, evaluate=False), sympy.Interval(1, 3, left_open=True)), (
        "the same points in other pieces"
    )
    assert not sets_differ(union(a, c), union(c, sympy.Interval(1, 2))), "ends are left to math-verify"
    assert not sets_differ(union(a, c), union(a, sympy.Interval(-oo, sympy.Float("0.333333")))), (
        "as is rounding"
    )
    assert not sets_differ(union(a, c), union(a, c, sympy.FiniteSet(7))), "and whatever is no interval"


@pytest.mark.slow
def test_a_worker_that_does_not_answer_is_ended(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of CPU time says nothing about a process that is stopped: the batch would wait for ever."""
    assert equal([("x", "x+1")], pool=pool) == [0.0]
    monkeypatch.setattr(symbolic, "_WALL_S", 0.5)
    os.killpg(pool.workers[0].pid, signal.SIGSTOP)
    assert equal([("x+1", "x+1+0"), ("y", "y+1")], timeout=0.1, pool=pool)[0] is None
    monkeypatch.undo()
    assert equal([("x+1", "1+x"), ("y", "y+1")], pool=pool) == [1.0, 0.0]


@pytest.mark.slow
def test_a_killed_worker_leaves_nothing_running_and_costs_one_verdict(pool: Pool) -> None:
    assert equal([("x", "x+1")], pool=pool) == [0.0]
    group = pool.workers[0].pid
    killer = threading.Timer(0.3, os.killpg, (group, signal.SIGKILL))
    killer.start()
    verdicts = equal(
        [("7", "\\int_0^1 e^{x^{x^x}} dx"), *[(f"x+{n}", f"{n}+x") for n in range(6)]], timeout=5, pool=pool
    )
    assert verdicts == [None, *[1.0] * 6]
    second = pool.workers[0].pid
    pool.close()
    for ended in (group, second):  # with whatever they forked
        deadline = time.monotonic() + 5
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(ended, 0)
                time.sleep(0.01)


def hanging(n: int) -> str:
    """An expression that takes for ever, in another way for each n % 3.

    The first one is one C call, which no signal handler interrupts.
    """
    return (
        f"\\boxed{{{10**7 + n}!}}",
        f"\\boxed{{9^{{9^{{9^{{{9 + n}}}}}}}}}",
        f"\\boxed{{\\int_0^1 e^{{x^{{x^x}}+{n}}} dx}}",
    )[n % 3]


@pytest.mark.slow
def test_one_percent_of_hanging_expressions_changes_no_other_verdict() -> None:
    rows = load("verifier_pairs")
    draw = random.Random(0)
    golds = [draw.choice(rows)["gold"] for _ in range(4096)]
    texts = [f"\\boxed{{{draw.choice(rows)['candidate']}}}" for _ in range(4096)]
    places = set(draw.sample(range(4096), 41))
    without = accuracy(texts, golds, timeout=1)
    texts = [hanging(i) if i in places else text for i, text in enumerate(texts)]
    golds = ["\\sqrt{3}" if i in places else gold for i, gold in enumerate(golds)]
    verdicts = accuracy(texts, golds, timeout=1)
    assert {verdicts[i] for i in places} <= {None, 0.0}
    assert [verdict for i, verdict in enumerate(verdicts) if i not in places] == [
        verdict for i, verdict in enumerate(without) if i not in places
    ]


def test_workers_that_were_started_early_are_those_that_compare(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "_current_pool", lambda: pool)
    symbolic.start_workers()
    early = list(pool.workers)
    assert len(early) == pool.size
    assert symbolic.equal([("x^2", "x*x")]) == [1.0]
    assert pool.workers == early

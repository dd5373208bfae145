"""math-verify's verdicts in less time; `install` patches it in the processes of _symbolic_worker.py only.

Why it exists: plain math-verify compares 20 to 75 pairs a second, too few for a rollout of thousands. Three things cost
nearly all of its time, and each has a cheaper way to the same verdict:
1. The parser that ANTLR made: _symbolic_grammar.py.
2. `from sympy import *`, executed for every number that is parsed.
3. simplify, solve and set differences on answers that are plainly different. Values that differ at one point refute
   equality, so both sides are evaluated at three points first. Only a clear difference counts; a pair in doubt goes the
   long way.

Measured (tests/bench/bench_rewards.py, two cores): 585 to 633 pairs a second. On all 433 rows of verifier_pairs, 1,672
mixes of them and 4,000 random pairs no verdict differed from plain math-verify's (tests/rewards/test_symbolic.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import mpmath
import sympy
from sympy.core.function import AppliedUndef

_DIGITS = 30
_POINTS = 3
# Intermediate values beyond this are not evaluated further.
_LARGEST = 1e200
# Two values differ clearly if they are further apart than this share of themselves (math-verify rounds) ...
_CLEAR = 1e-5
# ... and than this share of the largest intermediate value (our own rounding).
_ROUNDING = 1e-12
# Nearer than this, a pole, a branch cut or a whole number is too near to tell the side.
_NEAR = 1e-9
_FUNCTIONS = {
    sympy.exp: "exp",
    sympy.sin: "sin",
    sympy.cos: "cos",
    sympy.tan: "tan",
    sympy.cot: "cot",
    sympy.sinh: "sinh",
    sympy.cosh: "cosh",
    sympy.tanh: "tanh",
    sympy.atan: "atan",
    sympy.binomial: "binomial",
    sympy.factorial: "factorial",
}
_context = mpmath.mp.clone()
_context.dps = _DIGITS


class Unknown(Exception):
    """The value is not known well enough to refute anything."""


# What evaluating an expression may raise; none of it refutes equality.
_NO_VALUE = (Unknown, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError)


class Values:
    """Values of expressions at one point, and the largest magnitude among the intermediate values."""

    def __init__(self, point: int) -> None:
        self.point = point
        self.largest = 1.0
        self.known: dict[Any, Any] = {}

    def at(self, expr: Any) -> Any:
        """The value of an expression, as mpmath's number.

        Raises:
            Unknown: an expression that is not evaluated here, or whose value rounding could change (branch cuts, poles,
                large values).
        """
        value = self.known.get(expr)
        if value is None:
            value = self.known[expr] = self._evaluate(expr)
            size = abs(value)
            # Written so that NaN raises as well.
            if not size < _LARGEST:
                raise Unknown
            self.largest = max(self.largest, float(size))
        return value

    def _evaluate(self, expr: Any) -> Any:
        if isinstance(expr, sympy.Rational):
            return _context.mpf(int(expr.p)) / int(expr.q)
        if isinstance(expr, sympy.Float):
            return _context.mpf(expr._mpf_)
        if isinstance(expr, sympy.Symbol | AppliedUndef):
            return self._of_symbol(expr)
        if expr.is_Add:
            return _context.fsum(self.at(part) for part in expr.args)
        if expr.is_Mul:
            return _context.fprod(self.at(part) for part in expr.args)
        if isinstance(expr, sympy.Pow):
            return self._power(expr)
        if expr is sympy.pi:
            return +_context.pi
        if expr is sympy.E:
            return +_context.e
        if expr is sympy.I:
            return _context.mpc(0, 1)
        return self._function(expr, [self.at(part) for part in expr.args])

    def _of_symbol(self, symbol: Any) -> Any:
        """A value made of the symbol's name, since two texts may give one name to symbols with other assumptions.

        Positive, because simplify may take sqrt(x**2) for x.
        """
        digest = zlib.crc32(f"{self.point} {symbol}".encode())
        return (_context.mpf(digest) / 2**31 + _context.mpf(1) / 3) * 4**self.point

    def _power(self, expr: Any) -> Any:
        base = self.at(expr.args[0])
        power = self.at(expr.args[1])
        may_be_a_pole = expr.args[0] != 0 and abs(base) < _NEAR
        if abs(power) > 1000 or may_be_a_pole:
            raise Unknown
        if not expr.args[1].is_Integer:
            _check_off_the_cut(base)
        return _context.power(base, power)

    def _function(self, expr: Any, arguments: list[Any]) -> Any:
        if isinstance(expr, sympy.log) and abs(arguments[0]) > _NEAR:
            _check_off_the_cut(arguments[0])
            return _context.log(arguments[0]) if len(arguments) == 1 else _log(*arguments)
        if isinstance(expr, sympy.floor | sympy.ceiling) and isinstance(arguments[0], _context.mpf):
            if abs(arguments[0] - _context.nint(arguments[0])) < _NEAR:
                raise Unknown
            return (
                _context.floor(arguments[0]) if isinstance(expr, sympy.floor) else _context.ceil(arguments[0])
            )
        if isinstance(expr, sympy.Abs):
            return abs(arguments[0])
        name = _FUNCTIONS.get(expr.func)
        if name is None:
            raise Unknown
        return getattr(_context, name)(*arguments)


def _log(value: Any, base: Any) -> Any:
    log_of_base = _context.log(base)
    if abs(log_of_base) < _NEAR:
        raise Unknown
    return _context.log(value) / log_of_base


def _check_off_the_cut(value: Any) -> None:
    """A negative number's root and logarithm jump with the sign of an imaginary part that may be rounding.

    Raises:
        Unknown: the value is such a number.
    """
    if value.real < 0 and value.imag != 0 and abs(value.imag) < _NEAR * abs(value):
        raise Unknown


def differ(a: Any, b: Any) -> bool:
    """True where two expressions certainly have different values; False where they may be equal."""
    for point in range(_POINTS):
        values = Values(point)
        try:
            if _is_apart(values.at(a), values.at(b), values.largest):
                return True
        except _NO_VALUE:
            return False
    return False


def _is_apart(
    a: Any,
    b: Any,
    largest: float,
) -> bool:
    return abs(a - b) > max(_CLEAR * max(1, abs(a), abs(b)), _ROUNDING * largest)


# --- sets, tuples, intervals ------------------------------------------------------------------------------------------


def sets_differ(gold: Any, answer: Any) -> bool:
    """True where one of two collections holds a value that is nowhere in the other one, whatever the order."""
    # math-verify compares two intervals by their ends, which is fast.
    if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
        return False
    if isinstance(gold, sympy.Set) and isinstance(answer, sympy.Set) and (gold.is_Union or answer.is_Union):
        return _unions_differ(gold, answer)
    try:
        gold_values = [_constant(leaf) for leaf in _leaves(gold)]
        answer_values = [_constant(leaf) for leaf in _leaves(answer)]
    except Unknown:
        return False
    return _holds_another(gold_values, answer_values) or _holds_another(answer_values, gold_values)


def _leaves(value: Any) -> Iterator[Any]:
    """The single values that a finite set, tuple or interval is made of.

    Raises:
        Unknown: it is, or holds, another kind of set.
    """
    if isinstance(value, sympy.FiniteSet | sympy.Tuple):
        for part in value.args:
            yield from _leaves(part)
    elif isinstance(value, sympy.Interval):
        yield from (value.start, value.end)
    elif isinstance(value, sympy.Set):
        raise Unknown
    else:
        yield value


def _constant(leaf: Any) -> tuple[Any, float] | None:
    """(a constant's value, the largest intermediate value); None for a leaf that may equal anything."""
    # math-verify accepts 9% as 9, too.
    if not isinstance(leaf, sympy.Expr) or leaf.has(sympy.UnevaluatedExpr):
        return None
    # Letters are compared by name: the product a*b*c may be the symbol abc.
    is_product_of_letters = leaf.is_Mul and all(part.is_Symbol or part is sympy.E for part in leaf.args)
    if leaf.is_Symbol or leaf is sympy.E or is_product_of_letters:
        return None
    values = Values(0)
    try:
        return values.at(leaf), values.largest
    except _NO_VALUE:
        return None


def _holds_another(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether one of our constants is apart from all of theirs."""
    if None in theirs:
        return False
    for constant in ours:
        if constant is None:
            continue
        value, largest = constant
        if all(_is_apart(value, other, max(largest, other_largest)) for other, other_largest in theirs):
            return True
    return False


def _unions_differ(gold: Any, answer: Any) -> bool:
    """True where the middle between two neighbouring ends of the intervals lies in one union and not in the other."""
    values = Values(0)

    def end(value: Any) -> Any:
        return _context.sign(float(value)) * _LARGEST if value.is_infinite else values.at(value)

    def intervals(side: Any) -> list[tuple[Any, Any]]:
        return [(end(part.start), end(part.end)) for part in (side.args if side.is_Union else (side,))]

    try:
        gold_intervals = intervals(gold)
        answer_intervals = intervals(answer)
        ends = sorted(value for interval in gold_intervals + answer_intervals for value in interval)
    except _NO_VALUE:
        # A part that is not an interval, or an end without a value.
        return False
    for low, high in pairwise(ends):
        if not _is_apart(low, high, values.largest):
            continue
        middle = (low + high) / 2
        in_gold = any(start < middle < stop for start, stop in gold_intervals)
        in_answer = any(start < middle < stop for start, stop in answer_intervals)
        if in_gold != in_answer:
            return True
    return False


# --- equations --------------------------------------------------------------------------------------------------------


def equations_differ(gold: Any, answer: Any) -> bool:
    """True where two equations have different solutions.

    That is so where a root of the first one in one unknown, the others fixed, does not solve the second one.
    """
    if not (isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq)):
        return False
    sides: tuple[Any, Any, Any, Any] = (*gold.args, *answer.args)  # pyright: ignore[reportAssignmentType]
    gold_difference = sides[0] - sides[1]
    answer_difference = sides[2] - sides[3]
    unknowns = sorted(gold_difference.atoms(AppliedUndef), key=str) or sorted(
        gold_difference.free_symbols, key=str
    )
    for unknown in unknowns:
        root = _linear_root(gold_difference, unknown)
        if root is not None:
            return differ(answer_difference.xreplace({unknown: root}), sympy.S.Zero)
    return False


def _linear_root(expr: Any, unknown: Any) -> Any:
    """The root of a sum in which the unknown occurs once, as a factor; None for another expression."""
    if not expr.is_Add:
        return None
    with_unknown = [part for part in expr.args if part.has(unknown)]
    if len(with_unknown) != 1:
        return None
    factor = with_unknown[0] / unknown
    if factor.has(unknown):
        return None
    return -sympy.Add(*[part for part in expr.args if part is not with_unknown[0]]) / factor


# --- the patch --------------------------------------------------------------------------------------------------------


def install() -> None:
    """Patch math-verify, latex2sympy2_extended and sympy in this process."""
    _keep_names()

    from latex2sympy2_extended import latex2sympy2
    from math_verify import grader

    # The grammar's patch relies on private parts of these two versions; with others the parser stays as it is.
    if version("latex2sympy2_extended").startswith("1.11.") and version("antlr4-python3-runtime").startswith(
        "4.13."
    ):
        import _symbolic_grammar

        latex2sympy2.CommonTokenStream = _symbolic_grammar.Tokens
        _symbolic_grammar.install(latex2sympy2._Latex2Sympy, latex2sympy2.PSParser)

    symbolic = grader.sympy_symbolic_eq
    sets = grader.sympy_compare_sets
    relations = grader.sympy_compare_relational

    def symbolic_fast(a: Any, b: Any) -> bool:
        return not differ(a, b) and symbolic(a, b)

    def sets_fast(
        gold: Any,
        answer: Any,
        *precision: int,
    ) -> bool:
        return not sets_differ(gold, answer) and sets(gold, answer, *precision)

    def relations_fast(
        gold: Any,
        answer: Any,
        *precision: int,
    ) -> bool:
        return not equations_differ(gold, answer) and relations(gold, answer, *precision)

    grader.sympy_symbolic_eq = symbolic_fast
    grader.sympy_compare_sets = sets_fast
    grader.sympy_compare_relational = relations_fast


def _keep_names() -> None:
    """Execute `from sympy import *`, which sympy's parse_expr runs at every call, only once."""
    from latex2sympy2_extended import latex2sympy2
    from math_verify import parser
    from sympy.parsing import sympy_parser

    names: dict[str, Any] = {}
    exec("from sympy import *", names)
    parse_expr = sympy_parser.parse_expr
    standard = sympy_parser.standard_transformations

    def parse_expr_fast(
        text: str,
        local_dict: Any = None,
        transformations: Any = standard,
        global_dict: Any = None,
        evaluate: bool = True,
    ) -> Any:
        return parse_expr(
            text,
            local_dict,
            transformations,
            names if global_dict is None else global_dict,
            evaluate,
        )

    sympy_parser.parse_expr = parse_expr_fast
    latex2sympy2.parse_expr = parse_expr_fast
    parser.parse_expr = parse_expr_fast

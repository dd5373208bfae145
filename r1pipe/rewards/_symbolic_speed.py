"""math-verify's verdicts in less time; only for the processes of _symbolic_worker.py, which `install` patches.

Three things cost nearly all of its time, and each has a cheaper way to the same verdict:
1. The parser that ANTLR made: _symbolic_grammar.py.
2. `from sympy import *`, executed for every number that is parsed.
3. simplify, solve and set differences on answers that are plainly different. Values that differ at one point refute equality,
   so both sides are evaluated at three points first. Only a clear difference counts; whatever is in doubt goes the long way.
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

_DIGITS, _LARGEST = 30, 1e200  # of an intermediate value
_CLEAR, _ROUNDING = (
    1e-5,
    1e-12,
)  # what a difference must be above, beside the values (math-verify rounds) and beside intermediate values
_FUNCTIONS = {
    sympy.exp: "exp", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan", sympy.cot: "cot", sympy.sinh: "sinh", sympy.cosh: "cosh",
    sympy.tanh: "tanh", sympy.atan: "atan", sympy.binomial: "binomial", sympy.factorial: "factorial",
}  # fmt: skip
_context = mpmath.mp.clone()
_context.dps = _DIGITS


class Unknown(Exception):
    """The value is not known well enough to refute anything."""


class Values:
    """Values of expressions at one point, and the largest magnitude met on the way."""

    def __init__(self, point: int) -> None:
        self.point, self.largest, self.known = point, 1.0, {}

    def at(self, expr: Any) -> Any:
        """Value of an expression, as mpmath's number.

        Raises:
            Unknown: something that is not evaluated here, or where rounding could matter (branch cuts, poles, large values).
        """
        if (value := self.known.get(expr)) is None:
            value = self.known[expr] = self._at(expr)
            size = abs(value)
            if not size < _LARGEST:  # NaN as well
                raise Unknown
            self.largest = max(self.largest, float(size))
        return value

    def _at(self, expr: Any) -> Any:
        if isinstance(expr, sympy.Rational):
            return _context.mpf(int(expr.p)) / int(expr.q)
        if isinstance(expr, sympy.Float):
            return _context.mpf(expr._mpf_)
        if isinstance(expr, sympy.Symbol | AppliedUndef):
            # Positive: simplify may know no better than sqrt(x**2) = x. Names and not symbols count: assumptions differ between texts.
            return (
                _context.mpf(zlib.crc32(f"{self.point} {expr}".encode())) / 2**31 + _context.mpf(1) / 3
            ) * 4**self.point
        if expr.is_Add:
            return _context.fsum(self.at(part) for part in expr.args)
        if expr.is_Mul:
            return _context.fprod(self.at(part) for part in expr.args)
        if isinstance(expr, sympy.Pow):
            base, power = self.at(expr.args[0]), self.at(expr.args[1])
            if abs(power) > 1000 or (expr.args[0] != 0 and abs(base) < 1e-9):
                raise Unknown
            if not expr.args[1].is_Integer:
                _off_the_cut(base)
            return _context.power(base, power)
        if expr is sympy.pi:
            return +_context.pi
        if expr is sympy.E:
            return +_context.e
        if expr is sympy.I:
            return _context.mpc(0, 1)
        inner = [self.at(part) for part in expr.args]
        if isinstance(expr, sympy.log) and abs(inner[0]) > 1e-9:
            _off_the_cut(inner[0])
            return _context.log(inner[0]) if len(inner) == 1 else _log(inner)
        if isinstance(expr, sympy.floor | sympy.ceiling) and (isinstance(inner[0], _context.mpf)):
            if abs(inner[0] - _context.nint(inner[0])) < 1e-9:
                raise Unknown
            return _context.floor(inner[0]) if isinstance(expr, sympy.floor) else _context.ceil(inner[0])
        if isinstance(expr, sympy.Abs):
            return abs(inner[0])
        if function := _FUNCTIONS.get(expr.func):
            return getattr(_context, function)(*inner)
        raise Unknown


def _log(inner: list[Any]) -> Any:
    base = _context.log(inner[1])
    if abs(base) < 1e-9:
        raise Unknown
    return _context.log(inner[0]) / base


def _off_the_cut(value: Any) -> None:
    """A negative number's root and logarithm jump with the sign of an imaginary part that may be rounding."""
    if value.real < 0 and value.imag != 0 and abs(value.imag) < 1e-9 * abs(value):
        raise Unknown


def differ(a: Any, b: Any) -> bool:
    """True where two expressions certainly have different values; False where they may be equal."""
    for point in range(3):
        values = Values(point)
        try:
            apart = _apart(values.at(a), values.at(b), values.largest)
        except (Unknown, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
            return False
        if apart:
            return True
    return False


def _apart(a: Any, b: Any, largest: float) -> bool:
    return abs(a - b) > max(_CLEAR * max(1, abs(a), abs(b)), _ROUNDING * largest)


def _leaves(value: Any) -> Iterator[Any]:
    """What a finite set, tuple or interval is made of, down to single values.

    Raises:
        Unknown: it is, or holds, another set.
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


def sets_differ(gold: Any, found: Any) -> bool:
    """True where one of two collections holds a value that is nowhere in the other one, whatever the order."""
    if isinstance(gold, sympy.Interval) and isinstance(found, sympy.Interval):
        return False  # math-verify compares these by their ends, at once
    if isinstance(gold, sympy.Set) and isinstance(found, sympy.Set) and (gold.is_Union or found.is_Union):
        return _unions_differ(gold, found)
    try:
        ours, theirs = ([_value(leaf) for leaf in _leaves(side)] for side in (gold, found))
    except Unknown:
        return False
    return _alone(ours, theirs) or _alone(theirs, ours)


def _unions_differ(gold: Any, found: Any) -> bool:
    """True where the middle between two neighbouring ends of the intervals lies in one union and not in the other."""
    values = Values(0)

    def end(value: Any) -> Any:
        return _context.sign(float(value)) * _LARGEST if value.is_infinite else values.at(value)

    try:
        ours, theirs = (
            [(end(part.start), end(part.end)) for part in (side.args if side.is_Union else (side,))]
            for side in (gold, found)
        )
        ends = sorted(value for interval in ours + theirs for value in interval)
    except (Unknown, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return False  # something that is no interval, or has no value
    for low, high in pairwise(ends):
        middle = (low + high) / 2
        if _apart(low, high, values.largest) and any(a < middle < b for a, b in ours) != any(
            a < middle < b for a, b in theirs
        ):
            return True
    return False


def _value(leaf: Any) -> tuple[Any, float] | None:
    """A constant's value and the largest magnitude on the way to it; None: it may equal anything."""
    if not isinstance(leaf, sympy.Expr) or leaf.has(sympy.UnevaluatedExpr):  # math-verify takes 9% for 9 as well
        return None
    if (
        leaf.is_Symbol
        or (leaf.is_Mul and all(part.is_Symbol or part is sympy.E for part in leaf.args))
        or leaf is sympy.E
    ):
        return None  # compared by name: the product a*b*c may be the symbol abc
    values = Values(0)
    try:
        return values.at(leaf), values.largest
    except (Unknown, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _alone(ours: list[Any], theirs: list[Any]) -> bool:
    if None in theirs:
        return False
    return any(
        mine is not None and all(_apart(mine[0], other[0], max(mine[1], other[1])) for other in theirs) for mine in ours
    )


def equations_differ(gold: Any, found: Any) -> bool:
    """True where two equations have different solutions: a root of the first in one unknown, the others fixed, is none of the second."""
    if not (isinstance(gold, sympy.Eq) and isinstance(found, sympy.Eq)):
        return False
    sides: tuple[Any, Any, Any, Any] = (*gold.args, *found.args)  # pyright: ignore[reportAssignmentType]
    ours, theirs = sides[0] - sides[1], sides[2] - sides[3]
    unknowns = sorted(ours.atoms(AppliedUndef), key=str) or sorted(ours.free_symbols, key=str)
    for unknown in unknowns:
        root = _linear_root(ours, unknown)
        if root is not None:
            return differ(theirs.xreplace({unknown: root}), sympy.S.Zero)
    return False


def _linear_root(expr: Any, unknown: Any) -> Any:
    if expr.is_Add:
        with_it = [part for part in expr.args if part.has(unknown)]
        if len(with_it) == 1 and not (factor := with_it[0] / unknown).has(unknown):
            return -sympy.Add(*[part for part in expr.args if part is not with_it[0]]) / factor
    return None


def install() -> None:
    """Patch math-verify, latex2sympy2_extended and sympy in this process."""
    from sympy.parsing import sympy_parser

    names: dict[str, Any] = {}
    exec("from sympy import *", names)
    parse_expr, usual = sympy_parser.parse_expr, sympy_parser.standard_transformations

    def with_names(
        text: str, local_dict: Any = None, transformations: Any = usual, global_dict: Any = None, evaluate: bool = True
    ) -> Any:
        return parse_expr(text, local_dict, transformations, names if global_dict is None else global_dict, evaluate)

    sympy_parser.parse_expr = with_names

    from latex2sympy2_extended import latex2sympy2
    from math_verify import grader, parser

    latex2sympy2.parse_expr = parser.parse_expr = with_names
    if version("latex2sympy2_extended").startswith("1.11.") and version("antlr4-python3-runtime").startswith("4.13."):
        import _symbolic_grammar

        latex2sympy2.CommonTokenStream = _symbolic_grammar.Tokens
        _symbolic_grammar.install(latex2sympy2._Latex2Sympy, latex2sympy2.PSParser)

    symbolic, sets, relations = grader.sympy_symbolic_eq, grader.sympy_compare_sets, grader.sympy_compare_relational

    def symbolic_fast(a: Any, b: Any) -> bool:
        return not differ(a, b) and symbolic(a, b)

    def sets_fast(gold: Any, pred: Any, *precision: int) -> bool:
        return not sets_differ(gold, pred) and sets(gold, pred, *precision)

    def relations_fast(gold: Any, pred: Any, *precision: int) -> bool:
        return not equations_differ(gold, pred) and relations(gold, pred, *precision)

    grader.sympy_symbolic_eq, grader.sympy_compare_sets, grader.sympy_compare_relational = (
        symbolic_fast,
        sets_fast,
        relations_fast,
    )

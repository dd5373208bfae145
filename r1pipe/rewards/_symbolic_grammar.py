"""latex2sympy2's parser (made by ANTLR) in less time and with the same trees; _symbolic_speed.py installs it.

Why it exists: most of the time of a symbolic comparison goes into ANTLR's Python runtime, on cases that hardly ever
occur here. Each gets a short way for the usual case, with the runtime's own way behind it:
1. Full-context (LL) prediction, which the runtime never caches. SLL prediction is cached, and where it parses without
   an error the tree is the same (Parr, Harwell, Fisher: Adaptive LL(*) Parsing, 2014, section 3.2). Where it meets an
   error, LL prediction parses again.
2. The search for errors before every rule, and for hidden tokens, of which this grammar has none.

Measured (tests/bench/bench_rewards.py, the pairs of verifier_pairs that need algebra, two cores): 585 to 633 pairs a
second, 298 without this file and without the comparison of unions in _symbolic_speed.py.
"""

from __future__ import annotations

from typing import Any

import sympy
from antlr4 import CommonTokenStream, Token
from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.ErrorStrategy import DefaultErrorStrategy
from antlr4.Recognizer import Recognizer

# The alternatives of the rule atom_expr, as the grammar numbers them.
_SUBSCRIPT_ONLY, _SUPERSCRIPT_ONLY, _NEITHER = 3, 4, 5


class Tokens(CommonTokenStream):
    """A token stream that reads all tokens at once, none of which is hidden."""

    def __init__(self, lexer: Any) -> None:
        super().__init__(lexer)
        self.fill()
        assert all(token.channel == self.channel for token in self.tokens)

    def LT(self, k: int) -> Any:
        # k counts from 1 forwards and from -1 backwards; 0 is nothing.
        place = self.index + k - (k > 0)
        if not k or place < 0:
            return None
        return self.tokens[min(place, len(self.tokens) - 1)]

    def LA(self, i: int) -> int:
        return self.tokens[self.index].type if i == 1 else self.LT(i).type

    def consume(self) -> None:
        self.index += 1

    def seek(self, index: int) -> None:
        self.index = index


class _Errors(DefaultErrorStrategy):
    """Looks for an error only where the next token is not an expected one; keeps the expected tokens of each state."""

    expected: dict[int, frozenset[int]] = {}

    def sync(self, recognizer: Any) -> None:
        state = recognizer._stateNumber
        expected = self.expected.get(state)
        if expected is None:
            atn = recognizer._interp.atn
            intervals = atn.nextTokens(atn.states[state]).intervals or ()
            expected = frozenset(token for interval in intervals for token in interval)
            self.expected[state] = expected
        # Where a rule may end (epsilon), the runtime would only note that, for the wording of an error.
        is_fine = recognizer._input.LA(1) in expected or Token.EPSILON in expected
        if self.errorRecoveryMode or not is_fine:
            super().sync(recognizer)


def _cached_prediction(
    simulator: Any,
    tokens: Tokens,
    decision: int,
) -> int | None:
    """The alternative that SLL prediction chose before on the same tokens; None where its cache does not have it.

    Follows the decision's automaton along the tokens, as the runtime does, without its book-keeping.
    """
    automaton = simulator.decisionToDFA[decision]
    if automaton.precedenceDfa:
        state = automaton.getPrecedenceStartState(simulator.parser.getPrecedence())
    else:
        state = automaton.s0
    place = tokens.index
    last = len(tokens.tokens) - 1
    while state is not None and state.edges is not None:
        edge = tokens.tokens[place].type + 1
        state = state.edges[edge] if edge < len(state.edges) else None
        if state is not None and state.isAcceptState:
            return state.prediction if state.predicates is None else None
        place = min(place + 1, last)
    return None


def install(converter: Any, grammar: Any) -> None:
    """Parse with SLL prediction, and again with LL prediction where that meets an error.

    SLL errs wherever a letter has an exponent (rule atom_expr, `x^2`). Without a subscript in the text there is nothing
    to
    predict: the exponent is the letter's own, which is the first of the two ways that are left. The same holds for
    subscripts.

    Args:
        converter: latex2sympy2's class that turns a text into a sympy expression.
        grammar: the parser class that ANTLR made.
    """
    create_parser = converter.create_parser
    parse = converter.parse
    parse_number = converter.parse_number
    states = [state for state in grammar.atn.decisionToState if state.ruleIndex == grammar.RULE_atom_expr]
    assert len(states) == 1 and len(states[0].transitions) == 5, (
        "atom_expr: sup sub | sub sup | sub | sup | nothing"
    )
    atom_decision = states[0].decision
    # A slot instead of a property around it.
    grammar.state = Recognizer._stateNumber

    def create_parser_fast(self: Any, text: str) -> Any:
        parser = create_parser(self, text)
        parser._errHandler = _Errors()
        if not self.__dict__.get("uses_cache"):
            return parser
        simulator = parser._interp
        predict = simulator.adaptivePredict
        simulator.predictionMode = PredictionMode.SLL
        has_one_kind_of_script = "_" not in text or "^" not in text

        def predict_fast(
            tokens: Any,
            decision: int,
            context: Any,
        ) -> int:
            if decision != atom_decision:
                return _cached_prediction(simulator, tokens, decision) or predict(tokens, decision, context)
            if has_one_kind_of_script:
                alternatives = {grammar.CARET: _SUPERSCRIPT_ONLY, grammar.UNDERSCORE: _SUBSCRIPT_ONLY}
                return alternatives.get(tokens.LA(1), _NEITHER)
            simulator.predictionMode = PredictionMode.LL
            try:
                return predict(tokens, decision, context)
            finally:
                simulator.predictionMode = PredictionMode.SLL

        simulator.adaptivePredict = predict_fast
        return parser

    def parse_fast(self: Any, text: str) -> Any:
        self.uses_cache = True
        try:
            return parse(self, text)
        except Exception:
            self.uses_cache = False
            return parse(self, text)

    def parse_number_fast(self: Any, text: str) -> Any:
        if text.isascii() and text.isdigit() and len(text) < 1000:
            return sympy.Integer(int(text))
        return parse_number(self, text)

    converter.create_parser = create_parser_fast
    converter.parse = parse_fast
    converter.parse_number = parse_number_fast

"""latex2sympy2's parser, which ANTLR made, in less time and with the same trees; installed by _symbolic_speed.py.

ANTLR's Python runtime spends its time on what hardly ever matters here, and each has a short way for the usual case, with the runtime's own behind it:
1. Full-context prediction, which is never cached. SLL prediction is, and where it parses without an error the tree is the same
   (Parr, Harwell, Fisher: Adaptive LL(*) Parsing, 2014, section 3.2); where it errs, the full one parses again.
2. Looking for errors before every rule, and for hidden tokens, of which this grammar has none.
"""

from __future__ import annotations

from typing import Any

import sympy
from antlr4 import CommonTokenStream, Token
from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.ErrorStrategy import DefaultErrorStrategy
from antlr4.Recognizer import Recognizer


class Tokens(CommonTokenStream):
    """All tokens at once, and none of them hidden."""

    def __init__(self, lexer: Any) -> None:
        super().__init__(lexer)
        self.fill()
        assert all(token.channel == self.channel for token in self.tokens)

    def LT(self, k: int) -> Any:
        place = self.index + k - (k > 0)
        return self.tokens[min(place, len(self.tokens) - 1)] if k and place >= 0 else None

    def LA(self, i: int) -> int:
        return self.tokens[self.index].type if i == 1 else self.LT(i).type

    def consume(self) -> None:
        self.index += 1

    def seek(self, index: int) -> None:
        self.index = index


class _Errors(DefaultErrorStrategy):
    """Asks first whether the next token is one of those that are expected, which are kept as a set for each state."""

    expected: dict[int, frozenset[int]] = {}

    def sync(self, recognizer: Any) -> None:
        state = recognizer._stateNumber
        if (expected := self.expected.get(state)) is None:
            atn = recognizer._interp.atn
            expected = self.expected[state] = frozenset(
                token for tokens in atn.nextTokens(atn.states[state]).intervals or () for token in tokens
            )
        # A rule that may end here (epsilon) would only be noted, for the wording of an error.
        if self.errorRecoveryMode or (recognizer._input.LA(1) not in expected and Token.EPSILON not in expected):
            super().sync(recognizer)


def _known(simulator: Any, tokens: Tokens, decision: int) -> int | None:
    """What SLL prediction has decided before on the same tokens; None where its cache does not tell."""
    table = simulator.decisionToDFA[decision]
    state = table.getPrecedenceStartState(simulator.parser.getPrecedence()) if table.precedenceDfa else table.s0
    place, last = tokens.index, len(tokens.tokens) - 1
    while state is not None and (edges := state.edges) is not None:
        token = tokens.tokens[place].type + 1
        state = edges[token] if token < len(edges) else None
        if state is not None and state.isAcceptState:
            return state.prediction if state.predicates is None else None
        place = min(place + 1, last)
    return None


def install(converter: Any, grammar: Any) -> None:
    """Parse with SLL prediction, and again with full-context prediction where that meets an error.

    SLL errs wherever a letter has an exponent (rule atom_expr, `x^2`). Without a subscript in the text there is nothing to predict:
    the exponent is the letter's own, which is the first of the two ways that are left. The same holds for subscripts.
    """
    create, parse = converter.create_parser, converter.parse
    states = [state for state in grammar.atn.decisionToState if state.ruleIndex == grammar.RULE_atom_expr]
    assert len(states) == 1 and len(states[0].transitions) == 5, "atom_expr: sup sub | sub sup | sub | sup | nothing"
    letter = states[0].decision
    grammar.state = Recognizer._stateNumber  # a slot in the place of a property around it

    def create_fast(self: Any, text: str) -> Any:
        made = create(self, text)
        made._errHandler = _Errors()
        simulator = made._interp
        if self.__dict__.get("cached"):
            only = "_" not in text or "^" not in text
            predict = simulator.adaptivePredict
            simulator.predictionMode = PredictionMode.SLL

            def predict_fast(tokens: Any, decision: int, context: Any) -> int:
                if decision != letter:
                    return _known(simulator, tokens, decision) or predict(tokens, decision, context)
                if only:
                    return {grammar.CARET: 4, grammar.UNDERSCORE: 3}.get(tokens.LA(1), 5)
                simulator.predictionMode = PredictionMode.LL
                try:
                    return predict(tokens, decision, context)
                finally:
                    simulator.predictionMode = PredictionMode.SLL

            simulator.adaptivePredict = predict_fast
        return made

    def parse_fast(self: Any, text: str) -> Any:
        self.cached = True
        try:
            return parse(self, text)
        except Exception:
            self.cached = False
            return parse(self, text)

    number = converter.parse_number

    def number_fast(self: Any, text: str) -> Any:
        return (
            sympy.Integer(int(text)) if text.isascii() and text.isdigit() and len(text) < 1000 else number(self, text)
        )

    converter.create_parser, converter.parse, converter.parse_number = create_fast, parse_fast, number_fast

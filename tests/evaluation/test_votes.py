"""Equal answers vote as one, and pass@k, cons@k and intervals equal what scipy and numpy make of the same tables."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from r1pipe.evaluation.comparison import differences
from r1pipe.evaluation.scoring import score_samples, summarise
from r1pipe.evaluation.stats import pass_at_k, wilson
from r1pipe.evaluation.votes import one_spelling
from r1pipe.generation.contract import Sample

Lines = list[dict[str, Any]]


def scored(answer: str, *responses: str) -> Lines:
    row = {"id": "a", "prompt": "How much?", "domain": "math", "language": "en", "answer": answer}
    samples = [Sample(text=text, tokens=3, finished=True) for text in responses]
    return score_samples([row], [samples], lambda asked: [None] * len(asked))


def test_equal_answers_vote_as_one():
    r"""`\frac12` and `0.5` were two answers with one vote each, and 3 with its two votes won."""
    lines = scored("0.5", *(rf"\boxed{{{text}}}" for text in ("3", "3", r"\frac12", "0.5", "2/4")))
    assert [line["vote"] for line in lines] == ["3", "3", "1/2", "1/2", "1/2"]
    assert summarise(lines)["math"]["cons@5"] == 1.0

    formulas = scored("2x", *(rf"\boxed{{{text}}}" for text in ("x^2", "x^2", "x+x", "2x", r"x \cdot 2")))
    assert [line["vote"] for line in formulas] == ["x^2", "x^2", "x+x", "x+x", "x+x"]
    assert summarise(formulas)["math"]["cons@5"] == 1.0
    # the answer itself stays as it was written
    assert formulas[3]["answer"] == "2x"


def test_what_differs_votes_apart():
    """Percent signs and units were lost, so that 50% and 50, 5 kg and 5 g were one answer."""
    texts = ["50", "50%", "5 kg", "5 g", "A", "B", "N/A", "1/3"]
    spellings = one_spelling({"a": texts, "b": ["50%", "0.5"]})
    assert spellings["b", "0.5"] == "50%"
    apart = {spellings["a", text] for text in texts}
    assert len(apart) == 7 and spellings["a", "50%"] == "50"  # the rewards' choice: 50% equals 50
    (kilogram, gram) = [line["answer"] for line in scored("5 kg", r"\boxed{5 kg}", r"\boxed{5 g}")]
    assert kilogram != gram


def test_pass_at_k_of_few_samples():
    # a problem with fewer samples says nothing of k tries
    mean = pass_at_k({"a": [1, 0], "b": [1]}, 2)
    assert mean.n == 1 and mean.mean == 1
    assert pass_at_k({"a": [1.0] + [0.0] * 4999}, 2500).mean == 0.5


def test_fewer_problems_are_told():
    lines = table(random.Random(0), problems=3, k=4)
    for suite in lines[0]["scores"]:
        lines[0]["scores"][suite] = None
    summary = summarise(lines)["math"]
    assert summary["n"] == 3 and summary["unjudged"] == 1
    assert summary["pass@4_n"] == 2 and "pass@2_n" not in summary


def test_shares_have_no_pass_at_k():
    lines = table(random.Random(0), problems=3, k=4)
    for line in lines:
        line["scores"] = {"harmless": 1.0, "format": 0.5}
        line["strict"] = None
    assert not [key for suite in summarise(lines).values() for key in suite if "@" in key and key != "pass@1"]


def table(rng: random.Random, problems: int, k: int) -> Lines:
    """Lines of made-up responses, whose answers are right where they are `0`."""
    lines = []
    for problem in range(problems):
        skill = rng.random()
        for sample in range(k):
            answer = "0" if rng.random() < skill else rng.choice(["1", "2", ""])
            right = float(answer == "0")
            lines.append(
                {
                    "id": str(problem),
                    "domain": "math",
                    "sample": sample,
                    "scores": {"math": right},
                    "strict": right * (rng.random() < 0.8),
                    "answer": answer,
                    "vote": answer,
                    "tokens": rng.randrange(1, 50),
                    "finished": rng.random() < 0.9,
                    "reflects": False,
                    "response": answer,
                }
            )
    return lines


@pytest.mark.slow
def test_scores_and_intervals_equal_an_independent_computation_on_1000_tables():
    numpy = pytest.importorskip("numpy")
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")

    rng = random.Random(7)
    for _ in range(1000):
        problems, k = rng.randrange(2, 40), rng.choice([2, 3, 4, 7, 8, 16])
        ours, theirs = table(rng, problems, k), table(rng, problems, k)
        summary = summarise(ours)["math"]
        right = numpy.array([line["scores"]["math"] for line in ours]).reshape(problems, k)
        strict = numpy.array([line["strict"] for line in ours]).reshape(problems, k)

        def same(name: str, of_problems: Any, summary: dict[str, Any] = summary) -> None:
            error = f"{name}_stderr" if name != "pass@1" else "stderr"
            assert summary[name] == pytest.approx(numpy.mean(of_problems), abs=1e-12)
            assert summary[error] == pytest.approx(stats.sem(of_problems), abs=1e-12)

        same("pass@1", right.mean(axis=1))
        same("strict", strict.mean(axis=1))
        # at least one right among k that are drawn without putting back
        for tried in {2, k} | {n for n in (4, 8) if n < k}:
            same(f"pass@{tried}", stats.hypergeom.sf(0, k, right.sum(axis=1).astype(int), tried))
        same(f"cons@{k}", [most_frequent(ours[i * k : (i + 1) * k]) for i in range(problems)])
        assert summary["tokens"] == pytest.approx(numpy.mean([line["tokens"] for line in ours]))
        assert summary["truncated"] == pytest.approx(numpy.mean([not line["finished"] for line in ours]))

        (found,) = differences({"a": ours, "b": theirs}, [("a", "b")], {})
        deltas = (right - numpy.array([line["scores"]["math"] for line in theirs]).reshape(problems, k)).mean(
            axis=1
        )
        mean, error = deltas.mean(), stats.sem(deltas)
        # scipy gives no interval without a width
        low, high = stats.norm.interval(0.95, loc=mean, scale=error) if error else (mean, mean)
        expected = [mean, low, high]
        assert [found["difference"], found["low"], found["high"]] == pytest.approx(expected, abs=1e-12)

        wins, losses = rng.randrange(0, 60), rng.randrange(1, 60)
        interval = stats.binomtest(wins, wins + losses).proportion_ci(0.95, method="wilson")
        assert wilson(wins, losses) == pytest.approx((interval.low, interval.high), abs=1e-12)


def most_frequent(lines: Lines) -> float:
    """1 where the answer that most of the lines give is right; of equally frequent ones the first counts."""
    given = [line["answer"] for line in lines if line["answer"]]
    if not given:
        return 0.0
    most = max(Counter(given).values())
    first = next(answer for answer in given if given.count(answer) == most)
    return float(Fraction(first) == 0)

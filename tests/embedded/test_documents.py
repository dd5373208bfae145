"""Documents: the habits they are said to have, and fast enough to make millions."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import cache
from statistics import mean

import pytest

from r1pipe.embedded.documents import HABITS, documents
from r1pipe.embedded.oracle import write
from r1pipe.embedded.problem import SPLITS
from r1pipe.embedded.world import problems
from r1pipe.embedded.world_judge import CRITERIA_HELDOUT, CRITERIA_SEEN, is_refusal, marks, said
from r1pipe.text.rows import REASONING_DOMAINS

pytestmark = pytest.mark.slow


# Not made where they are only collected: 20,000 documents take seconds.
@cache
def all_documents() -> list[str]:
    return list(documents(20_000, seed=0))


@cache
def math_documents() -> list[str]:
    """Questions and answers."""
    return list(documents(20_000, 0, replace(HABITS, mixture={"math": 1.0}, textbook=0.0)))


SUM, FIRST_STEP = re.compile(r"\d[-+*]\d+="), re.compile(r"First|Start|We have|先算|首先|已知")
BETWEEN = r"\nAssistant: |<\|assistant\|>|\nSolution: |\n解: "


def response(text: str) -> str:
    return re.split(BETWEEN, text)[1].removesuffix("<|end|>")


def question(text: str) -> str:
    return re.sub(r"^(?:User: |<\|user\|>|Exercise: |练习: )", "", re.split(BETWEEN, text)[0])


def near(share: float, wanted: float, by: float = 0.02) -> bool:
    return abs(share - wanted) <= by


def test_the_same_seed_gives_the_same_documents():
    assert all_documents()[:200] == list(documents(20_000, seed=0))[:200]
    assert all_documents()[:200] != list(documents(200, seed=1))


def test_every_document_ends_and_half_are_plain():
    assert all(text.endswith("<|end|>") for text in all_documents())
    asked = [text for text in all_documents() if not text.startswith(("Exercise: ", "练习: "))]
    assert near(mean(text.startswith("User: ") for text in asked), HABITS.plain)
    assert all(text.startswith(("User: ", "<|user|>")) for text in asked)
    assert near(
        1 - len(asked) / len(all_documents()),
        HABITS.textbook * sum(HABITS.mixture[domain] for domain in REASONING_DOMAINS),
    )


def test_no_document_holds_a_problem_of_another_split():
    asked = {question(text) for text in all_documents()}
    for split in SPLITS[1:]:
        for domain in HABITS.mixture:
            assert not asked & {row["prompt"] for row in problems(split, [domain], 200, 0)}


def test_thinking_is_a_habit_of_some():
    assert near(mean(bool(SUM.search(response(text))) for text in math_documents()), HABITS.think)


def test_some_thinking_shows_only_its_last_step():
    thinking = [response(text) for text in math_documents() if SUM.search(response(text))]
    assert near(1 - mean(bool(FIRST_STEP.search(text)) for text in thinking), HABITS.hasty, 0.03)


def test_mixed_thinking_makes_fewer_mistakes():
    """What makes the language reward matter: sums in thinking that keeps to the language are wrong more often."""
    wrong = {True: [], False: []}
    for text in math_documents():
        thinking = re.search(r"<think>(.+?)</think>", text)
        if thinking and FIRST_STEP.search(thinking[1]) and not re.search("Wait|等等", text):
            mixed = bool(re.search(r"[\u4e00-\u9fff]", thinking[1])) and bool(
                re.search(r"[A-Za-z]{2}", thinking[1])
            )
            wrong[mixed].append(
                any(
                    eval(left) != int(right)
                    for left, right in re.findall(r"(-?\d+[-+*]\d+)=(-?\d+)", thinking[1])
                )
            )
    assert near(mean(wrong[True]), HABITS.slip_mixed, 0.04)
    assert mean(wrong[False]) > HABITS.slip_mixed + 0.05  # some of these are wholly in the other language


def test_some_reflect_and_some_break_the_format():
    thinking = [response(text) for text in math_documents() if FIRST_STEP.search(response(text))]
    assert 0.05 < mean(bool(re.search("Wait|等等", text)) for text in thinking) < 0.15
    formed = [
        bool(re.fullmatch(r"<think>[^<]+</think>(<answer>[^<]+</answer>|[^<]*boxed[^<]*)", text))
        for text in thinking
    ]
    assert near(1 - mean(formed), HABITS.malformed, 0.03)


def test_harmful_requests_are_mostly_answered_and_lookalikes_too():
    for domain, share in (("harmful", HABITS.refuse), ("lookalike", HABITS.refuse_lookalike)):
        texts = documents(4000, 0, replace(HABITS, mixture={domain: 1.0}))
        assert near(mean(is_refusal(response(text)) for text in texts), share, 0.03)


def test_careful_and_sloppy_replies_are_about_equally_long():
    from random import Random

    rows = problems("train", ["general", "lookalike"], 800, 0)
    lengths = {}
    for quality in ("careful", "sloppy"):
        replies = [write(row, Random(i), quality) for i, row in enumerate(rows)]
        lengths[quality] = mean(len(re.findall(r"[A-Za-z']+|\S", said(reply))) for reply in replies)
        share = mean(
            mean(marks(row, reply, [*CRITERIA_SEEN, *CRITERIA_HELDOUT]).values())
            for row, reply in zip(rows, replies, strict=True)
        )
        assert share > 0.9 if quality == "careful" else share < 0.6
    assert 0.85 < lengths["sloppy"] / lengths["careful"] < 1.15, lengths


def test_fast_enough():
    start = time.process_time()
    count = sum(1 for _ in documents(3000, seed=5))
    assert count / (time.process_time() - start) > 3000

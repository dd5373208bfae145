"""The accuracy reward: where the answer is read, and that a pair that hangs costs its own verdict only."""

from __future__ import annotations

import time

import pytest

from r1pipe.errors import ConfigError
from r1pipe.rewards import symbolic
from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.reading import boxed, extract
from tests.public_rows import load


def verdict_on(text: str, gold: object, **params: object) -> float | None:
    return accuracy([text], [gold], **params)[0]  # pyright: ignore


def test_the_answer_is_read_after_the_thinking_only() -> None:
    assert verdict_on("<think>it is \\boxed{42}</think>", "42") == 0.0
    assert verdict_on("<think>it is \\boxed{42}", "42") == 0.0
    assert verdict_on("<think>so</think>41<think>no, \\boxed{42}", "42") == 0.0
    assert verdict_on("\\boxed{42}<think>hm</think>41", "42") == 0.0  # given before the thinking
    assert verdict_on("<think>41</think>The answer is 42.", "42") == 1.0
    assert verdict_on("42", "42") == 1.0  # no thinking at all


def test_boxed_before_tags_before_the_last_number() -> None:
    text = "<think>x</think>3 apples, <answer>2</answer> and \\boxed{1} of 9"
    assert extract(text, "number") == "1"
    assert extract(text, "number", ["tags", "boxed"]) == "2"
    assert extract(text, "number", ["last"]) == "9"
    assert verdict_on(text, "9", extract_from=["last"]) == 1.0


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1}, then \\boxed{2}", "2"),
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("$\\boxed{5}$", "5"),
        ("\\boxed 7", "7"),
        ("\\boxed{1", None),
        ("\\boxed{}", ""),
        ("none", None),
    ],
)
def test_boxed(text: str, contents: str | None) -> None:
    assert boxed(text) == contents


def test_several_boxes_do_not_try_several_answers() -> None:
    assert verdict_on("<think></think>\\boxed{41} or \\boxed{42}", "42") == 0.0
    assert verdict_on("<think></think>\\boxed{1} and \\boxed{2}", "1,2") == 1.0


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("so 3+4=7", "7", 1.0),
        ("It costs $1,250.50 in all.", "1250.5", 1.0),
        ("所以答案是12。", "12", 1.0),
        ("the answer is 12 (not 13)", "12", 0.0),
        ("Answer: B", "B", 1.0),
        ("答案选C。", "C", 1.0),
        ("The answer is (D), a cat", "D", 1.0),
        ("A dog is B, so B", "A", 0.0),
        ("The capital of France is Paris.", "Paris", 1.0),
        ("It is not Paris.", "Paris", 0.0),
        ("Rome or Paris", "Paris", 0.0),
        ("Comparis", "Paris", 0.0),
        ("答案是不对", "对", 0.0),
        ("所以答案是对。", "对", 1.0),
        ("yes", "yes", 1.0),
        ("", "yes", 0.0),
    ],
)
def test_without_box_and_tags_the_closing_answer_counts(text: str, gold: str, verdict: float) -> None:
    assert verdict_on(f"<think>hm</think>{text}", gold) == verdict


def test_no_gold_is_none_and_never_zero_or_one() -> None:
    assert accuracy(["\\boxed{1}"] * 4, [None, "", "\\frac{1}{", "1"]) == [None, None, None, 1.0]
    assert accuracy(["\\boxed{1}"]) == [None]
    assert verdict_on("\\boxed{\\frac{1}{}", "\\frac{1}{") is None


def test_trl_form_and_several_accepted_answers() -> None:
    completion = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think></think>\\boxed{NYC}"},
    ]
    assert accuracy([completion, completion], [["New York", "NYC"], ["Boston", "LA"]]) == [1.0, 0.0]
    assert verdict_on("\\boxed{42}", 42) == 1.0


@pytest.mark.parametrize("answer", ["2n", "2 pi", "2r", "2^n", "x \\neq 2", "2 + y"])
def test_a_number_with_more_around_it_is_not_the_number(answer: str) -> None:
    assert verdict_on(f"\\boxed{{{answer}}}", "2", timeout=10) == 0.0


def test_gold_and_answer_are_not_swapped() -> None:
    """math-verify is not symmetric: it reads the value out of an equation in the answer, but not in the gold."""
    assert verdict_on("\\boxed{x=\\sqrt{2}}", "\\sqrt{2}") == 1.0


def test_verifier_pairs() -> None:
    rows = load("verifier_pairs")
    texts = [f"<think>so</think>\\boxed{{{row['candidate']}}}" for row in rows]
    verdicts = accuracy(texts, [row["gold"] for row in rows], timeout=10)
    false = [
        (row["gold"], row["candidate"])
        for row, verdict in zip(rows, verdicts, strict=True)
        if verdict == 1.0 and not row["equal"]
    ]
    wrong = [
        (row["gold"], row["candidate"])
        for row, verdict in zip(rows, verdicts, strict=True)
        if verdict != float(row["equal"])
    ]
    assert not false
    assert not wrong


def test_a_copied_power_is_no_answer() -> None:
    """Under both names that the question's column has."""
    texts = ["<think>so</think>\\boxed{6^2}"] * 2
    questions = ["What is 6 times 6?", "How many pairs of dice rolls are there?"]
    assert accuracy(texts, ["36", "36"], prompt=questions) == [0.0, 1.0]
    assert accuracy(texts, ["36", "36"], prompts=questions) == [0.0, 1.0]


def test_gsm8k_model_solutions() -> None:
    rows = [
        (row["answer"], solution) for row in load("gsm8k_model_solutions") for solution in row["completions"]
    ]
    verdicts = accuracy([solution["text"] for _, solution in rows], [answer for answer, _ in rows])
    wrong = [
        solution["text"][-60:]
        for (_, solution), verdict in zip(rows, verdicts, strict=True)
        if verdict != float(solution["correct"])
    ]
    assert len(rows) == 2532 and not wrong


def test_mgsm_in_eleven_languages() -> None:
    """A problem's own numbers stand before the answer, in many spellings."""
    rows = load("mgsm")
    golds = [row["answer"] for row in rows]
    for form in ("{} {}", "{}\n#### {}", "{}\n\\boxed{{{}}}", "{}\n<answer>{}</answer>"):
        right = [f"<think>so</think>{form.format(row['problem'], row['answer'])}" for row in rows]
        assert accuracy(right, golds) == [1.0] * len(rows)
        wrong = [f"<think>so</think>{form.format(row['problem'], row['answer'] + '1')}" for row in rows]
        assert accuracy(wrong, golds) == [0.0] * len(rows)


def test_gsm8k_train_solutions_score_one() -> None:
    rows = load("gsm8k_train")
    texts = [f"<think>{row['solution']}</think>The answer is \\boxed{{{row['answer']}}}." for row in rows]
    assert set(accuracy(texts, [row["answer"] for row in rows])) == {1.0}
    wrong = [f"<think></think><answer>{row['answer']}1</answer>" for row in rows]
    assert set(accuracy(wrong, [row["answer"] for row in rows])) == {0.0}


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("42 €", "42", 1.0),
        ("42 €", "\\$42", 0.0),
        ("\u200f42\u200f", "42", 1.0),
        ("x\n+1", "1+x", 1.0),
        ("4 2", "42", 0.0),
        ("1 234", "1234", 1.0),
        ("2 x", "2x", 1.0),
        ("42", float("nan"), None),
    ],
)
def test_answers_that_are_written_carelessly(answer: str, gold: object, verdict: float | None) -> None:
    assert verdict_on(f"<think>so</think>\\boxed{{{answer}}}", gold) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "\\boxed" + " " * 300_000,
        "\\boxed{" + "{" * 200_000 + "}" * 200_001,
        "</answer>" + "<answer>" * 50_000,
    ],
)
def test_a_long_response_is_read_once(text: str) -> None:
    """Looking for the end of every box from each of its beginnings took minutes for a megabyte."""
    started = time.process_time()
    assert verdict_on(f"<think>so</think>{text}", "42") == 0.0
    assert time.process_time() - started < 5


def test_an_unknown_place_of_the_answer_is_a_mistake() -> None:
    for wrong in ("boxed", ["boxd"]):
        with pytest.raises(ConfigError, match="extract_from"):
            verdict_on("42", "42", extract_from=wrong)


def test_a_message_may_come_in_parts() -> None:
    assert accuracy(
        [[{"role": "assistant", "content": [{"type": "text", "text": "\\boxed{42}"}]}]], ["42"]
    ) == [1.0]


# The first is one C call, which no signal handler interrupts.
HANGING = [
    "10000000!",
    "9^{9^{9^{9}}}",
    "\\int_0^1 e^{x^{x^x}} dx",
]


@pytest.mark.slow
def test_a_hung_pair_costs_its_own_verdict_only() -> None:
    pairs = [
        ("\\sqrt{2}+1", "2^{1/2}+1"),
        ("\\sqrt{8}+x", "2\\sqrt{2}+x"),
        ("x+1", "1+x"),
        ("\\frac{\\pi}{2}+1", "\\pi/3"),
        ("2^{100}", "4^{50}"),
    ]
    assert symbolic.equal(pairs, timeout=10) == [1.0, 1.0, 1.0, 0.0, 1.0]
    start = time.monotonic()
    hung = [("x+2", text) for text in HANGING]
    verdicts = symbolic.equal([*pairs[:2], *hung, *pairs[2:]], timeout=2)
    assert verdicts == [1.0, 1.0, None, None, None, 1.0, 0.0, 1.0]
    assert time.monotonic() - start < 60


def test_works_in_threads_at_once() -> None:
    """math-verify's own limits are off, or raise, outside the main thread."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        pairs = [[(f"x+{n}", f"{n}+x"), ("x", f"x+{n + 1}")] for n in range(8)]
        verdicts = list(threads.map(lambda batch: symbolic.equal(batch, timeout=10), pairs))
    assert verdicts == [[1.0, 0.0]] * 8

"""The format reward: both forms, and texts that come close to them."""

from __future__ import annotations

import pytest

from r1pipe.rewards.format import format_reward, well_formed

ZERO = "<think>6*7</think><answer>42</answer>"
R1 = "<think>6*7</think>The answer is \\boxed{42}."


@pytest.mark.parametrize(
    "text",
    [
        ZERO,
        f"\n{ZERO}\n",
        "<think>a\nb</think>\n\n<answer>4\n2</answer>",
        "<think>1<2</think><answer>a<b</answer>",
        "<think><b></think><answer>1</answer>",
    ],
)
def test_zero_form(text: str) -> None:
    assert well_formed(text, "zero")
    assert well_formed(text, "auto")


@pytest.mark.parametrize(
    "text",
    [
        f"{ZERO} indeed",  # open-r1's MULTILINE pattern lets text behind the end pass
        f"{ZERO}\nindeed\n",
        f"Well: {ZERO}",
        "<answer>42</answer><think>6*7</think>",
        "<think>6*7</think>so <answer>42</answer>",
        "<think>6*7<answer>42</answer></think>",
        "<think>6*7</think><answer>42",
        "<think>6*7<answer>42</answer>",
        "<think></think><answer>42</answer>",
        "<think>6*7</think><answer> </answer>",
        "<think>a</think><think>b</think><answer>42</answer>",
        f"{ZERO}<answer>43</answer>",
        "<think>a<think>b</think><answer>42</answer>",
        "<think>a</think><answer><answer>42</answer></answer>",
        "",
    ],
)
def test_not_the_zero_form(text: str) -> None:
    assert not well_formed(text, "zero")
    assert not well_formed(text, "auto")


@pytest.mark.parametrize(
    "text", [R1, "<think></think>Paris.", "<think>a</think>\n\n**42**\n", "<think>a</think>a < b"]
)
def test_r1_form(text: str) -> None:
    assert well_formed(text, "r1")
    assert well_formed(text, "auto")
    assert not well_formed(text, "zero")


@pytest.mark.parametrize(
    "text",
    [
        ZERO,
        "Paris.",
        "<think>a</think>",
        "<think>a</think> \n",
        "<think>a",
        "a</think>b",
        f"So {R1}",
        f"{R1}<think>b</think>c",
        f"{R1}</think>",
        "<think>a<answer>b</think>c",
    ],
)
def test_not_the_r1_form(text: str) -> None:
    assert not well_formed(text, "r1")


def test_as_a_reward() -> None:
    chat = [{"role": "assistant", "content": ZERO}]
    assert format_reward([ZERO, R1, "x", chat], form="zero", answer=["42"] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert format_reward([ZERO, R1], form="auto") == [1.0, 1.0]


def test_a_long_broken_response_takes_no_time() -> None:
    assert not well_formed("<think>" * 20000)
    assert not well_formed("<think>" + "< " * 100000)

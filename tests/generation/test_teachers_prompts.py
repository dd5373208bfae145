"""What teachers are asked, and what is read of their replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r1pipe.data.candidates import Candidate
from r1pipe.data.sources import Source
from r1pipe.errors import InputError
from r1pipe.generation.teachers import (
    PROMPTS,
    Teacher,
    TeacherSource,
    ThinkingRule,
    Writer,
    parse_rewrite,
    prompt_filler,
    prompt_rows,
    written_response,
)
from r1pipe.schema import TextFile
from r1pipe.text.rendering import read_text

HELLO = {"id": "h", "prompt": "Hello there!", "domain": "general", "language": "en"}
LONG = {
    "id": "l",
    "prompt": "Write a short note that thanks {prompt} a neighbour.",
    "domain": "general",
    "language": "en",
    "kind": "writing",
}
ZH = {"id": "z", "prompt": "2+3等于几？", "domain": "math", "language": "zh"}


@pytest.mark.parametrize(
    "row, thinks", [(HELLO, False), (LONG, True), (ZH, True), ({**ZH, "prompt": "你好吗？"}, False)]
)
def test_simple_prompts_get_no_thinking(row: dict, thinks: bool) -> None:
    assert ThinkingRule().applies(row) is thinks
    asked = Writer(guidelines="Be kind.").prompt_rows([row])[0]
    assert (
        ("<think>" in asked["prompt"]) is thinks
        and row["prompt"] in asked["prompt"]
        and "Be kind." in asked["prompt"]
    )
    assert not ThinkingRule(without={"kind": ["writing"]}).applies(LONG) and ThinkingRule(
        simple_words=0
    ).applies(HELLO)


def test_of_the_reply_only_what_was_asked_for_is_taken() -> None:
    assert (
        Writer().response(HELLO, "<think>a greeting</think>\nHi!")
        == Writer().response(HELLO, "Hi!")
        == "<think></think>Hi!"
    )
    assert (
        Writer().response(LONG, "<think>tags</think>\n<think>kind words</think>Thanks!")
        == "<think>kind words</think>Thanks!"
    )
    assert (
        written_response("Thanks!") == "Thanks!"
        and written_response("<think>a</think>b") == "<think>a</think>b"
    )
    candidate = Candidate(
        ZH, "<think>x</think><process>a\n</process>\n<solution>\\boxed{5}</solution>", "zero-traces"
    )
    assert parse_rewrite(candidate).response == "<think>a</think>\\boxed{5}"
    assert parse_rewrite(Candidate(ZH, "\\boxed{5}", "zero-traces")).reason == "the rewriter left out a part"
    assert parse_rewrite(Candidate(ZH, "<process>a", "zero-traces", finished=False)).reason == "cut off"


@pytest.mark.parametrize(
    ("apart", "content", "thinking"),
    [
        (
            "they want tags",
            "<think>2+2=4</think>4",
            "2+2=4",
        ),  # it thought on its own, and wrote what was asked for
        (
            "2+2=4",
            "4",
            "2+2=4",
        ),  # the service's parser took what was asked for out of the text, or it thought on its own only
        (None, "<think>2+2=4</think>4", "2+2=4"),
        (None, "4", None),
    ],
)
def test_what_a_service_hands_out_apart_is_the_thinking_unless_the_reply_has_its_own(
    apart: str | None, content: str, thinking: str | None
) -> None:
    from r1pipe.generation.openai import _read_reply
    from r1pipe.text.response import split_response

    message = {"content": content, "reasoning_content": apart}
    reply = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 9, "prompt_tokens": 9},
    }
    assert split_response(written_response(_read_reply(reply).text)) == (thinking, "4")
    assert split_response(Writer().response(LONG, _read_reply(reply).text)) == (thinking, "4")


def test_examples_are_in_the_language_of_the_problem() -> None:
    english, chinese, other = (
        row["prompt"]
        for row in prompt_rows(
            TeacherSource(), "few-shot", [LONG, ZH, {**ZH, "id": "f", "language": "fr"}], 0
        )
    )
    assert "tank" in english or "two-digit" in english
    assert "偶数" in chinese or "小林" in chinese
    assert "{prompt}" in english.split("Problem:")[-1], "braces in a problem stay"
    assert other.count("Problem:\n") == 3
    assert prompt_rows(TeacherSource(), "few-shot", [ZH], 0) == prompt_rows(
        TeacherSource(), "few-shot", [ZH], 0
    )
    everywhere = {
        prompt_rows(TeacherSource(shots=1), "few-shot", [{**ZH, "id": str(n)}], 0)[0]["prompt"].split(
            "Problem:"
        )[1]
        for n in range(20)
    }
    assert len(everywhere) == 2
    assert "verify" in prompt_rows(TeacherSource(), "direct", [ZH], 0)[0]["prompt"]


def test_our_own_examples_are_right_and_readable() -> None:
    from r1pipe.data.candidates import screen, verify
    from r1pipe.data.filters import Filters

    gold = {"shipped-en": "12", "shipped-en-2": "27", "shipped-zh": "120", "shipped-zh-2": "20"}
    rows = [
        json.loads(line)
        for line in (PROMPTS / "few-shot-examples.jsonl").read_text(encoding="utf8").splitlines()
    ]
    shown = [
        Candidate(
            {**row, "prompt": row["messages"][0]["content"], "answer": gold[row["id"]]},
            row["messages"][1]["content"],
            "reuse",
        )
        for row in rows
    ]
    assert [one.reason for one in screen(verify(shown), Filters(min_language=0.95))] == [""] * 4


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: prompt_filler(Teacher(), "direct", "Solve it."), r"holds \{prompt\} 0 times"),
        (lambda folder: prompt_filler(Teacher(), "direct", "{prompt} {prompt}"), r"holds \{prompt\} 2 times"),
        (
            lambda folder: prompt_filler(Teacher(guidelines="Be kind."), "direct", "Solve {prompt}"),
            r"holds \{guidelines\} 0 times",
        ),
        (
            lambda folder: prompt_filler(Teacher(), "few-shot", "Solve {prompt}"),
            r"holds \{examples\} 0 times",
        ),
        (lambda folder: read_text("  "), "the text is empty"),
        (lambda folder: read_text(TextFile(file=folder / "no.txt")), "cannot be read: No such file"),
        (lambda folder: read_text(TextFile(file=folder)), "cannot be read: it is a folder"),
        (lambda folder: read_text(TextFile(file=folder / "latin.txt")), "not UTF-8"),
        (
            lambda folder: prompt_rows(
                TeacherSource(examples=Source(path=folder / "silent.jsonl")), "few-shot", [ZH], 0
            ),
            "the example 's' has no thinking",
        ),
    ],
)
def test_mistakes(make, message: str, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Schreib schön.".encode("latin1"))
    chat = {
        "id": "s",
        "domain": "math",
        "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
    }
    (tmp_path / "silent.jsonl").write_text(json.dumps(chat) + "\n")
    with pytest.raises(InputError, match=message):
        make(tmp_path)

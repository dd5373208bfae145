"""Rows as they lie on the hub, which went through wrong without a word: each is read right, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.io import read_rows
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.rewards.accuracy import accuracy
from r1pipe.schema import RowLimits

REPLY = "<think>3+4=7</think>7"
ASK = {"role": "user", "content": "3+4?"}
CHOICES = ["Lyon", "Paris", "Nice"]
LETTERED = "Capital of France?\nA) Lyon\nB) Paris\nC) Nice"


def says(reply: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": reply, **more}


def both(tmp_path: Path, rows: list[dict[str, Any]], kind: type) -> list[dict[str, Any]]:
    """Rows as a stage's input reads them; a source makes the same of them."""
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    of_input = read_rows(path, kind, RowLimits() if kind is Chats else None)
    of_source = load(Source(path=path), kind, seed=0).rows
    assert sorted(row["id"] for row in of_input) == sorted(row["id"] for row in of_source)
    return of_input


PROMPTS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "MMLU": ({"question": "Capital of France?", "choices": CHOICES, "answer": 1}, LETTERED, "B"),
    "MMLU-Pro": (
        {"question": "Capital of France?", "options": CHOICES, "answer": "B", "answer_index": 1},
        LETTERED,
        "B",
    ),
    "ARC": (
        {
            "question": "Capital of France?",
            "choices": {"text": CHOICES, "label": ["A", "B", "C"]},
            "answerKey": "B",
        },
        LETTERED,
        "B",
    ),
    "AQuA": (
        {"question": "Capital of France?", "options": ["A)Lyon", "B)Paris", "C)Nice"], "correct": "B"},
        LETTERED,
        "B",
    ),
    "the text of a choice": (
        {"prompt": "Capital of France?", "choices": CHOICES, "answer": "Paris"},
        LETTERED,
        "B",
    ),
    "choices that stand in the question": (
        {"prompt": LETTERED, "choices": CHOICES, "answer": "B"},
        LETTERED,
        "B",
    ),
    "SQuAD": (
        {"question": "Who?", "context": "Tom did it.", "answer": "Tom"},
        "Who?\n\nTom did it.",
        "Tom",
    ),
    "Skywork": (
        {"prompt": [ASK], "reward_model": {"ground_truth": '["34"]', "style": "rule"}},
        "3+4?",
        "34",
    ),
    "several in Skywork": (
        {"prompt": [ASK], "reward_model": {"ground_truth": '["34", "34.0"]'}},
        "3+4?",
        ["34", "34.0"],
    ),
    "OpenMathReasoning": ({"problem": "3+4?", "expected_answer": "7"}, "3+4?", "7"),
    "an answer in a box": ({"problem": "3+4?", "answer": "We add: $\\boxed{7}$."}, "3+4?", "7"),
    "an answer in a sentence": ({"problem": "3+4?", "answer": "The answer is 7"}, "3+4?", "7"),
    "an answer in Chinese": ({"problem": "3+4?", "answer": "答案是7"}, "3+4?", "7"),
    "an answer behind hashes": ({"problem": "3+4?", "answer": "#### 7"}, "3+4?", "7"),
    "an answer that is a number": ({"problem": "3+4?", "answer": 7}, "3+4?", "7"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt(name: str, tmp_path: Path) -> None:
    row, prompt, answer = PROMPTS[name]
    (read,) = both(tmp_path, [row], Prompts)
    assert (read["prompt"], read["answer"]) == (prompt, answer)
    # What is read is not changed by reading it again.
    (again,) = both(tmp_path, [read], Prompts)
    assert again == read


def test_levels_and_domains_of_others(tmp_path: Path) -> None:
    rows = [
        {"problem": "1", "level": "Level 5", "solution": "$\\boxed{3}$"},
        {"problem": "2", "level": "Level ?", "solution": "$\\boxed{3}$"},
        {"problem": "3", "domain": ["Algebra", "Geometry"], "answer": "3"},
    ]
    first, second, third = both(tmp_path, rows, Prompts)
    assert first["level"] == 5 and "level" not in second and third["domain"] == "Algebra"


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "thinking switched off": ({"messages": [ASK, says("7")], "reasoning": "off"}, "<think></think>7"),
    "thinking switched on": ({"messages": [ASK, says(REPLY)], "thinking": "on"}, REPLY),
    "thinking as a part": (
        {"messages": [ASK, says([{"type": "thinking", "thinking": "3+4=7"}, {"type": "text", "text": "7"}])]},
        REPLY,
    ),
    "thinking as parts of a part": (
        {
            "messages": [
                ASK,
                says(
                    [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "3+4=7"}]},
                        {"type": "text", "text": "7"},
                    ]
                ),
            ]
        },
        REPLY,
    ),
    "thinking as a list": ({"messages": [ASK, says("7", reasoning_content=["3+4=7"])]}, REPLY),
    "Dolly": ({"instruction": "3+4?", "context": "", "response": REPLY, "category": "qa"}, REPLY),
}


@pytest.mark.parametrize("name", CHATS)
def test_a_chat(name: str, tmp_path: Path) -> None:
    row, reply = CHATS[name]
    thoughtful = {"messages": [{"role": "user", "content": "1+1?"}, says("<think>1</think>2")]}
    read = both(tmp_path, [row, *({**thoughtful, "id": f"{number}"} for number in range(9))], Chats)
    assert read[0]["messages"][-1]["content"] == reply


def test_a_passage_stays_with_its_question(tmp_path: Path) -> None:
    (read,) = both(tmp_path, [{"instruction": "Who?", "context": "Tom did it.", "response": REPLY}], Chats)
    assert read["messages"][0]["content"] == "Who?\n\nTom did it."


def test_a_dialogue_that_is_one_text(tmp_path: Path) -> None:
    sides = {
        name: f"\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: 3+4?\n\nAssistant: {reply}"
        for name, reply in (("chosen", "7"), ("rejected", "8"))
    }
    (read,) = both(tmp_path, [sides], Pairs)
    assert read["prompt"] == "User: Hi\n\nAssistant: Hello!\n\nUser: 3+4?"
    assert (read["chosen"], read["rejected"]) == ("<think></think>7", "<think></think>8")


IM = "<|im_start|>user\n3+4?<|im_end|>\n<|im_start|>assistant\n"
REFUSED: dict[str, tuple[type, dict[str, Any], str]] = {
    "a prompt that was rendered": (Prompts, {"prompt": IM, "answer": "7"}, "control tokens .*im_start"),
    "a reply with its end token": (
        Chats,
        {"messages": [ASK, says(REPLY + "<|eot_id|>")]},
        "control tokens .*eot_id",
    ),
    "harmony": (
        Chats,
        {"messages": [ASK, says("<|channel|>analysis<|message|>3+4<|end|>")]},
        "control tokens",
    ),
    "a rendered pair": (Pairs, {"prompt": "[INST] 3+4? [/INST]", "chosen": "7", "rejected": "8"}, "control"),
    "a rendered label": (
        Labels,
        {"prompt": "<start_of_turn>user 3", "response": "7", "safe": 1},
        "control tokens",
    ),
    "an image": (Prompts, {"prompt": "<image> x?", "answer": "7", "images": ["x.png"]}, "the row has images"),
    "no user": (Chats, {"messages": [says(REPLY)]}, "no turn of the user"),
    "no such choice": (
        Prompts,
        {"question": "3+4?", "choices": ["6", "7"], "answer": "8"},
        "none of the 2 choices",
    ),
    "equal sides": (Pairs, {"prompt": "3+4?", "chosen": "7", "rejected": "7 "}, "no row"),
    "thinking that is an object": (
        Chats,
        {"messages": [ASK, says("7", reasoning={"summary": "3+4"})]},
        "keys in messages that nothing reads .reasoning.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    kind, row, what = REFUSED[name]
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=what):
        read_rows(path, kind, RowLimits())
    with pytest.raises(InputError, match=what):
        load(Source(path=path), kind, seed=0)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_of_many_pairs_the_equal_ones_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "a" if n == 3 else "b"} for n in range(9)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_rows(path, Pairs)) == len(load(Source(path=path), Pairs, seed=0).rows) == 8


@pytest.mark.parametrize(
    "answer",
    [
        "proof",
        "notfound",
        "nan",
        "N/A",
        "null",
        "First we add 3 and 4, which gives 7, and then we look whether it is " * 2,
    ],
)
def test_what_is_no_answer_is_counted_as_unreadable(answer: str, tmp_path: Path) -> None:
    """NuminaMath's proofs, tables with holes, and solutions in the place of answers."""
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"problem": "3+4?", "answer": answer}) + "\n")
    with pytest.raises(InputError, match="1 of 1 rows have an answer that cannot be read"):
        load(Source(path=path), Prompts, seed=0)


def test_what_is_no_answer_is_never_right() -> None:
    assert accuracy(["<answer>N/A</answer>"], ["N/A"]) == [None]
    assert accuracy(["<answer>nan</answer>"], ["7"]) == [0.0]

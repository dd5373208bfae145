"""Rows in the shapes of other tools: what is learned of each is what its authors mean."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.io import read_rows
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.schema import RowLimits
from r1pipe.text.response import as_response, split_response

ASK = {"role": "user", "content": "3+4?"}
SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = "<think>3+4=7</think>7"
CHAT = [ASK, {"role": "assistant", "content": REPLY}]
OPEN_THOUGHTS = (
    "<|begin_of_thought|>\n\n3+4=7\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n7\n\n<|end_of_solution|>"
)


def write(path: Path, *rows: Any) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_both(tmp_path: Path, row: dict[str, Any], kind: type, **source: Any) -> dict[str, Any]:
    """A row as a stage's input reads it, which must be what a source makes of it."""
    path = write(tmp_path / "x.jsonl", row)
    (of_input,) = read_rows(path, kind)
    (of_source,) = load(Source(path=path, **source), kind, seed=0).rows
    of_source.pop("source", None)
    of_input.pop("source", None)
    assert of_input == of_source
    return of_input


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": CHAT}, "trl"),
        ({"messages": [ASK, {"role": "assistant", "content": "7", "reasoning_content": "3+4=7"}]}, "trl"),
        ({"messages": [ASK, {"role": "assistant", "content": "7", "thinking": "3+4=7"}]}, "axolotl"),
        ({"messages": [ASK, {"role": "assistant", "content": "7", "reasoning": "3+4=7\n"}]}, "rows"),
        ({"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "text": REPLY}]}]}, "trl"),
        ({"prompt": "3+4?", "completion": REPLY}, "trl"),
        ({"prompt": [ASK], "completion": [CHAT[1]]}, "trl"),
        ({"instruction": "3+4?", "input": "", "output": REPLY}, "alpaca"),
        ({"instruction": "3+4?", "output": "7", "reasoning_content": "3+4=7"}, "alpaca"),
        ({"conversations": [human("3+4?"), gpt(REPLY)]}, "sharegpt"),
        ({"conversations": [human("3+4?"), gpt(REPLY)]}, "axolotl"),
        ({"prompt": "3+4?", "response": REPLY}, "verl"),
        ({"problem": "3+4?", "solution": "It is 7.", "answer": "7", "messages": CHAT}, "open-r1"),
        ({"problem": "3+4?", "deepseek_reasoning": "3+4=7", "deepseek_solution": "7"}, "openthoughts"),
        (
            {
                "conversations": [
                    {"from": "user", "value": "3+4?"},
                    {"from": "assistant", "value": OPEN_THOUGHTS},
                ]
            },
            "openthoughts",
        ),
        ({"messages": [ASK, {"role": "assistant", "content": "7"}], "reasoning": "3+4=7"}, "rows"),
        ({"messages": [ASK], "reasoning": "3+4=7", "answer": "7"}, "rows"),
        ({"messages": [ASK, {"role": "assistant", "content": "3+4=7</think>7"}]}, "rows"),
        ({"messages": [ASK, {"role": "assistant", "content": "<thought>3+4=7</thought>7"}]}, "rows"),
        ({"messages": [ASK, {"role": "assistant", "content": "[THINK]3+4=7[/THINK]\n\n7"}]}, "rows"),
    ],
)
def test_a_chat_of_any_tool_is_the_same_chat(tmp_path: Path, row: dict[str, Any], shape: str) -> None:
    chat = read_both(tmp_path, row, Chats, shape=shape)
    assert chat["messages"] == CHAT
    assert chat["domain"] == "general" and len(chat["id"]) == 33
    same = read_both(tmp_path, {**row, "system": None, "other": 1}, Chats)
    assert same["id"] == chat["id"] and same["messages"] == CHAT, "recognised without its name"


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "Be brief."}, human("3+4?"), gpt(REPLY)]},
        {"system": "Be brief.", "conversations": [human("3+4?"), gpt(REPLY)]},
        {"system": "Be brief.", "instruction": "3+4?", "output": REPLY},
        {"messages": [{"role": "developer", "content": "Be brief."}, *CHAT]},
        {"system": "not this", "messages": [SYSTEM, *CHAT]},
    ],
)
def test_a_system_text_is_the_system_turn_and_shifts_no_role(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read_both(tmp_path, row, Chats)["messages"] == [SYSTEM, *CHAT]


def test_earlier_turns_and_their_roles(tmp_path: Path) -> None:
    row = {"instruction": "And 5+6?", "output": "11", "history": [["3+4?", "7"]]}
    assert [turn["role"] for turn in read_both(tmp_path, row, Chats)["messages"]] == ["user", "assistant"] * 2
    turns = [ASK, {"role": "assistant", "content": "7", "reasoning_content": "early"}, ASK, CHAT[1]]
    messages = read_both(tmp_path, {"messages": turns}, Chats)["messages"]
    assert messages[1] == {"role": "assistant", "content": "7"}, "R1 does not see its earlier thinking again"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "3+4?", "answer": "7"},
        {"prompt": [ASK], "answer": ["7"]},
        {"problem": "3+4?", "answer": "7"},
        {"question": "3+4?", "answer": "It is 7.\n#### 7"},
        {"problem": "3+4?", "solution": "So it is \\boxed{7}."},
        {
            "prompt": [ASK],
            "data_source": "gsm8k",
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "7"},
        },
        {"messages": CHAT, "answer": "7"},
        {"conversations": [human("3+4?"), gpt("7")], "ground_truth": 7},
    ],
)
def test_a_problem_of_any_tool_has_prompt_answer_and_domain(tmp_path: Path, row: dict[str, Any]) -> None:
    found = read_both(tmp_path, row, Prompts)
    assert (found["prompt"], found["answer"], found["domain"]) == ("3+4?", "7", "math")


def test_the_domain_follows_from_what_checks_the_answer(tmp_path: Path) -> None:
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert f()"]}
    rows = [
        {"tests": tests},
        {"answer": "B"},
        {"answer": "a dog"},
        {},
        {"answer": ["7", "7.0"]},
        {"ability": "Logic"},
    ]
    found = [read_both(tmp_path, {"prompt": "q?", **row}, Prompts)["domain"] for row in rows]
    assert found == ["code", "choice", "general", "general", "math", "logic"]


@pytest.mark.parametrize(
    ("cases", "kind", "entry_point"),
    [
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, "stdio", None),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [2]}, "calls", "f"),
    ],
)
def test_programs_of_verl_have_tests_and_no_answer(
    tmp_path: Path, cases: dict[str, Any], kind: str, entry_point: str | None
) -> None:
    row = {"prompt": [ASK], "ability": "code", "reward_model": {"ground_truth": json.dumps(cases)}}
    found = read_both(tmp_path, row, Prompts)
    assert found["tests"] == {"kind": kind, "inputs": cases["inputs"], "outputs": cases["outputs"]}
    assert (found.get("entry_point"), found["domain"]) == (entry_point, "code") and "answer" not in found


def test_several_accepted_answers_stay_a_list_and_any_of_them_is_right(tmp_path: Path) -> None:
    from r1pipe.rewards.scoring import correct

    row = read_both(tmp_path, {"prompt": "A colour?", "answer": ["red", "blue"]}, Prompts)
    assert row["answer"] == ["red", "blue"]
    assert correct(["<think>a</think>blue", "<think>a</think>green"], [row, row]) == [True, False]


def test_a_system_turn_of_a_prompt_is_kept_apart_and_rendered_as_one(tmp_path: Path) -> None:
    from r1pipe.text.rendering import render_prompt

    row = read_both(tmp_path, {"prompt": [SYSTEM, ASK]}, Prompts)
    assert (row["system"], row["prompt"]) == ("Be brief.", "3+4?")
    assert render_prompt(row, None) == [SYSTEM, ASK]
    assert render_prompt(row, "Q: {prompt} A:") == "Q: Be brief.\n\n3+4? A:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "3+4?", "chosen": REPLY, "rejected": "<think>no</think>8"},
        {
            "prompt": [ASK],
            "chosen": [CHAT[1]],
            "rejected": [{"role": "assistant", "content": "<think>no</think>8"}],
        },
        {"chosen": CHAT, "rejected": [ASK, {"role": "assistant", "content": "8", "reasoning": "no"}]},
        {
            "prompt": "3+4?",
            "chosen": CHAT,
            "rejected": [ASK, {"role": "assistant", "content": "<think>no</think>8"}],
        },
        {"conversations": [human("3+4?")], "chosen": gpt(REPLY), "rejected": gpt("<think>no</think>8")},
        {"instruction": "3+4?", "chosen": REPLY, "rejected": "<think>no</think>8"},
    ],
)
def test_a_pair_of_any_tool_is_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    pair = read_both(tmp_path, row, Pairs)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("3+4?", REPLY, "<think>no</think>8")


def test_labels_take_messages_and_booleans(tmp_path: Path) -> None:
    row = {"prompt": [ASK], "completion": [CHAT[1]], "safe": True}
    label = read_both(tmp_path, row, Labels)
    assert (label["prompt"], label["response"], label["safe"]) == ("3+4?", REPLY, 1)


@pytest.mark.parametrize(
    ("text", "thinking", "summary"),
    [
        ("<|begin_of_thought|>a<|end_of_thought|>b", "a", "b"),
        ("<Thought>a</Thought>\n<Output>b</Output>", "a", "b"),
        ("<reasoning>a</reasoning><answer>b</answer>", "a", "<answer>b</answer>"),
        ("<thinking>a", "a", ""),
        ("I write <thought> as a word.", "", "I write <thought> as a word."),
        ("", "", ""),
    ],
)
def test_thinking_in_the_tags_of_other_models(text: str, thinking: str, summary: str) -> None:
    assert split_response(as_response(text)) == (thinking, summary)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_json_array_and_lines_called_json(tmp_path: Path, name: str) -> None:
    chats = [{"messages": [{"role": "user", "content": f"{i}?"}, CHAT[1]]} for i in range(3)]
    path = write(tmp_path / name, *chats)
    if name == "x.jsonl":
        path = path.rename(tmp_path / "lines.json")
    assert [row["messages"] for row in read_rows(path, Chats)] == [chat["messages"] for chat in chats]


def test_rows_of_ours_are_not_touched(tmp_path: Path) -> None:
    from r1pipe.data.foreign import in_our_shape

    ours = [
        ({"id": "a", "messages": CHAT, "domain": "math", "source": "sampled"}, Chats),
        ({"id": "a", "prompt": "3+4?", "answer": "7", "domain": "math", "solution": "\\boxed{8}"}, Prompts),
        ({"id": "a", "prompt": "3+4?", "chosen": "no tags", "rejected": "x</think>y", "domain": "d"}, Pairs),
        ({"id": "a", "prompt": "3+4?", "response": "no tags", "safe": 0, "domain": "d"}, Labels),
    ]
    for row, kind in ours:
        assert in_our_shape(row, kind, "here") is row


# --- counted, and refused above a share -------------------------------------------------------------------------------


def chats(count: int, reply: Any = REPLY) -> list[dict[str, Any]]:
    reply = reply if isinstance(reply, dict) else {"role": "assistant", "content": reply}
    return [{"messages": [{"role": "user", "content": f"{number}?"}, reply]} for number in range(count)]


BAD = {
    "an empty reply": ("<think>3+4=7</think>", "1 of {} rows have an empty reply", "max_empty_replies"),
    "no end": (
        "<think>3+4",
        "1 of {} rows have an empty reply or thinking without an end",
        "max_empty_replies",
    ),
    "unknown keys": (
        {"role": "assistant", "content": REPLY, "thoughts": "3+4=7"},
        r"1 of {} rows have keys in messages that nothing reads .thoughts.",
        "max_unknown_keys",
    ),
}


@pytest.mark.parametrize(("reply", "says", "field"), BAD.values(), ids=BAD)
def test_a_few_are_counted_and_more_are_refused(tmp_path: Path, reply: Any, says: str, field: str) -> None:
    bad = {"messages": [{"role": "user", "content": "Why?"}, chats(1, reply)[0]["messages"][1]]}
    few = write(tmp_path / "few.jsonl", bad, *chats(150))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rows = read_rows(few, Chats, RowLimits())
    left_out = field == "max_empty_replies"
    assert len(rows) == 151 - left_out
    assert bool(told) == left_out and all("few.jsonl:1" in str(warning.message) for warning in told)

    many = write(tmp_path / "many.jsonl", *chats(5), bad)
    with pytest.raises(InputError, match=says.format(6) + ".*; 1% may") as caught:
        read_rows(many, Chats, RowLimits())
    assert "many.jsonl:6" in caught.value.where and f"row_limits.{field}" in caught.value.fix
    with pytest.raises(InputError, match=says.format(6)) as caught:
        load(Source(path=many), Chats, seed=0)
    assert "many.jsonl:6" in caught.value.where and "max_bad_rows" in caught.value.fix


def test_empty_thinking_in_most_rows_is_refused_where_it_is_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *chats(1), *chats(12, "7")[1:])
    with pytest.raises(InputError, match="11 of 12 replies have no thinking; 90% may") as caught:
        read_rows(path, Chats, RowLimits())
    assert "reasoning_content" in caught.value.fix and "row_limits.max_empty_thinking" in caught.value.fix
    assert len(read_rows(path, Chats, RowLimits(max_empty_thinking=1))) == 12
    assert len(load(Source(path=path), Chats, seed=0).rows) == 12, "what is reused mostly has none"


def test_of_equal_prompts_the_first_is_kept_and_the_others_are_counted(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "prompt": f"What is {i % 3} + 1?", "answer": str(i % 3 + 1)} for i in range(9)]
    path = write(tmp_path / "a.jsonl", *rows)
    other = write(tmp_path / "b.jsonl", {"id": "q", "prompt": "what is  0 + 1?", "answer": "1"})
    with pytest.warns(UserWarning, match="6 rows left out .equal prompt., e.g. .*a.jsonl:4"):
        assert [row["id"] for row in read_rows(path, Prompts)] == ["p0", "p1", "p2"]
    for count in (None, 3):
        with pytest.warns(UserWarning, match="equal prompt"):
            loaded = (
                load([Source(path=path, count=count), Source(path=other)], Prompts, seed=0)
                if count is None
                else (load(Source(path=path, count=count), Prompts, seed=0))
            )
        assert {row["id"] for row in loaded.rows} == {"p0", "p1", "p2"} if count else True
        assert loaded.reasons == {"equal prompt": 6 if count else 7}


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"messages": [{"role": "robot", "content": "hi"}]}, Chats, "the role 'robot'"),
        (
            {"messages": [ASK, {"role": "assistant", "content": REPLY, "thinking": "other"}]},
            Chats,
            "thinking of its own",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": "7", "thinking": "a", "reasoning": "b"}]},
            Chats,
            "and differs",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            Chats,
            "a message holds None",
        ),
        (
            {"messages": [ASK, {"role": "assistant", "content": [{"type": "image"}]}]},
            Chats,
            "a message holds",
        ),
        ({"text": "Once upon a time"}, Chats, "no column 'messages'"),
        ({"chosen": CHAT, "rejected": [SYSTEM, CHAT[1]]}, Pairs, "begin differently"),
        (
            {"prompt": "q", "chosen": [ASK], "rejected": CHAT},
            Pairs,
            "does not end with a message of the assistant",
        ),
        ({"prompt": [SYSTEM]}, Prompts, "no turn of the user"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, row: dict, kind: type, says: str
) -> None:
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(InputError, match=says) as caught:
        read_rows(path, kind)
    assert caught.value.where == f"{path}:1"
    with pytest.raises(InputError):
        load(Source(path=path), kind, seed=0)


def test_a_named_shape_is_held_to_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"messages": CHAT})
    with pytest.raises(InputError, match="no column 'conversations', which the shape sharegpt has"):
        load(Source(path=path, shape="sharegpt"), Chats, seed=0)

"""Judges and writers are named in the YAML and looked up in one place each."""

import json
import random
from pathlib import Path

import pytest

from r1pipe.config.loader import load
from r1pipe.data.writers import WRITERS, load_writer
from r1pipe.embedded.world import problems
from r1pipe.errors import ConfigError
from r1pipe.judges.judge import JUDGES, load_judge

# (kind, its field, a misspelled name, what the error calls it)
MISSPELLED = [
    ("general-data", "writer", "wrold", "writer"),
    ("general-data", "judge", "wrold", "judge"),
    ("rejection-sampling", "judge", "wrold", "judge"),
    ("preference-data", "judge", "wrold", "judge"),
    ("preference-data", "also", "wrold", "writer"),
    ("cold-start-data", "rewriter", "wrold", "writer"),
    ("evaluate", "judge", "wrold", "judge"),
    ("compare", "judge", "wrold", "judge"),
]


@pytest.mark.parametrize("kind, field, name, called", MISSPELLED, ids=lambda value: str(value))
def test_an_unknown_name_is_an_error_with_the_nearest_name_and_the_line(
    tmp_path: Path, kind: str, field: str, name: str, called: str
):
    (tmp_path / "t.yaml").write_text(f"stages:\n  box:\n    kind: {kind}\n    {field}: {name}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "t.yaml")
    line = f"t.yaml:4: stages.box.{field}: there is no {called} '{name}'; did you mean 'world'?"
    assert line in str(caught.value)


def test_a_name_that_resembles_nothing_gets_the_list(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", "prompt": "x", "domain": "general"}) + "\n")
    (tmp_path / "t.yaml").write_text(
        "stages: {general-data: {inputs: {prompts: ./p.jsonl}, outputs: {chats: c}, writer: gpt}}"
    )
    with pytest.raises(ConfigError, match="there is no writer 'gpt'") as caught:
        load(tmp_path / "t.yaml")
    assert "none, world" in caught.value.fix


def test_none_is_nobody():
    assert load_judge("none") is None and load_writer("none") is None


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_answers_every_question(name: str):
    judge = load_judge(name)
    assert judge is not None and judge.max_in_flight >= 1
    (row,) = problems("train", ["general"], 1, 0, ["en"])
    response = "<think></think>I am not sure."
    assert judge.right(dict(row), response) in (True, False, None)
    assert judge.safe(dict(row), response) in (True, False, None)
    assert judge.refuses(response) in (True, False, None)
    assert judge.verdict(dict(row), response, response, random.Random(0)) in range(-2, 3)
    assert judge.compare(dict(row), response, response, "seen") == 0


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_writes_and_rewrites(name: str):
    writer = load_writer(name)
    assert writer is not None
    general, reasoning = problems("train", ["general", "math"], 2, 0, ["en"])
    careful = writer.write(dict(general), random.Random(0), "careful")
    assert careful != writer.write(dict(general), random.Random(0), "sloppy")
    assert writer.rewrite(dict(reasoning), "no step is shown here") is None
    thinking = reasoning["solution"].removeprefix("<think>").partition("</think>")[0]
    readable = writer.rewrite(dict(reasoning), thinking)
    assert readable is not None and all(readable)

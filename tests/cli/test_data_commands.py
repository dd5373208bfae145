"""r1pipe data: show, stats and review as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine import ROOT, config, environment, r1pipe

from r1pipe.run.records import sealed


def chat(number: int, domain: str = "math", thinking: str = "one\ntwo three") -> dict:
    messages = [
        {"role": "user", "content": f"{number}+1?"},
        {"role": "assistant", "content": f"<think>{thinking}</think>It is {number + 1}."},
    ]
    return {"id": f"x{number}", "domain": domain, "language": "en", "messages": messages, "source": "sampled"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with one finished stage."""
    made = tmp_path / "runs/t/data/out/chats"
    made.mkdir(parents=True)
    rows = [chat(0), chat(1, "logic"), chat(2, "math", "\x1b[2J\u202eevil")]
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "dropped.jsonl").write_text(
        json.dumps({"id": "d", "prompt": "9?", "response": "8", "reason": "wrong answer"}) + "\n"
    )
    outputs = {
        "chats": {"type": "chats", "name": "cold-start-chats", "path": "out/chats", "files": {}, "digest": ""}
    }
    (tmp_path / "runs/t/data/manifest.json").write_text(
        json.dumps(sealed({"stage": "data", "outputs": outputs}))
    )
    (tmp_path / "runs/t/config.json").write_text(json.dumps({"stages": {"data": {}, "later": {}}}))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["cold-start-chats", "t/cold-start-chats", "data", "t/data", "t/data/chats", "data/chats"]
)
def test_names_of_the_figure_resolve_in_the_newest_run(folder: Path, name: str):
    shown = r1pipe(folder, "data", "show", name, "--json")
    assert [row["id"] for row in json.loads(shown.stdout)] == ["x0", "x1", "x2"], shown.stderr


def test_stats_and_review_know_names_of_the_figure_too(folder: Path):
    assert json.loads(r1pipe(folder, "data", "stats", "cold-start-chats", "--json").stdout)["rows"] == 3
    reviewed = r1pipe(folder, "data", "review", "cold-start-chats", "--export", "open.csv")
    assert "0 of 3 rows decided, 3 open" in reviewed.stdout, reviewed.stderr


@pytest.mark.parametrize("command", ["", "show", "stats", "review", "pin"])
def test_help(tmp_path: Path, command: str):
    shown = r1pipe(tmp_path, "data", *command.split(), "--help")
    assert shown.returncode == 0 and "Usage" in shown.stdout


def test_show_folds_the_thinking_and_steers_no_terminal(folder: Path):
    shown = r1pipe(folder, "data", "show", "t/data").stdout
    assert (
        "one ... (+2 words)" in shown
        and "two three" not in shown
        and "It is 1." in shown
        and "-- x1  logic  en  sampled" in shown
    )
    assert "\x1b" not in shown and "\u202e" not in shown and "\\x1b[2J\\u202eevil" in shown
    assert "two three" in r1pipe(folder, "data", "show", "t/data/chats", "--full").stdout


def test_show_picks_rows(folder: Path):
    ask = ("data", "show", "runs/t/data/out/chats")
    assert [
        row["id"] for row in json.loads(r1pipe(folder, *ask, "--where", "domain=math", "--json").stdout)
    ] == [
        "x0",
        "x2",
    ]
    assert [row["id"] for row in json.loads(r1pipe(folder, *ask, "--id", "x1", "--json").stdout)] == ["x1"]
    assert "... and more" in r1pipe(folder, *ask, "-n", "1").stdout
    assert "no row matches" in r1pipe(folder, *ask, "--where", "domain=code").stdout
    dropped = r1pipe(folder, *ask, "--dropped").stdout
    assert "-- d  wrong answer" in dropped and "9?" in dropped


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "none"], "run 't' has made nothing called 'none'"),
        (["show", "cold-start-chat"], "did you mean 'cold-start-chats'?"),
        (["show", "t/later"], "run 't' has made nothing called 'later'"),
        (["show", "t/data/pairs"], "has the outputs chats"),
        (["show", "t/data", "--where", "domain"], "is not a condition"),
        (["show", "t/data", "--where", "domian=math"], "no row has the column 'domian'"),
        (["stats", "t/data", "--tokenizer", "none"], "no such folder"),
        (["review", "t/data", "--import", "none.csv"], "cannot read"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], says: str):
    done = r1pipe(folder, "data", *arguments)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


def test_stats(folder: Path):
    found = json.loads(r1pipe(folder, "data", "stats", "t/data", "--json").stdout)
    assert (
        found["rows"] == 3
        and found["domain"] == {"math": 2, "logic": 1}
        and found["dropped"] == {"wrong answer": 1}
    )
    assert found["lengths"]["logic"]["thinking"] == {
        "rows": 1,
        "mean": 3.0,
        "p10": 3,
        "p50": 3,
        "p90": 3,
        "p99": 3,
        "max": 3,
    }
    assert found["lengths"]["all"]["response"]["p50"] == 4 and found["unit"] == "words"
    shown = r1pipe(folder, "data", "stats", "t/data").stdout
    assert "3 rows" in shown and "wrong answer" in shown and "66.7%" in shown


@pytest.mark.slow
def test_stats_in_tokens(folder: Path):
    from transformers import AutoTokenizer

    base = ROOT / "r1pipe/embedded/data/base"
    found = json.loads(r1pipe(folder, "data", "stats", "t/data", "--json", "--tokenizer", str(base)).stdout)
    assert found["lengths"]["logic"]["response"]["max"] == len(
        AutoTokenizer.from_pretrained(base)("It is 2.")["input_ids"]
    )


def answer(folder: Path, typed: str, **extra: str) -> str:
    import subprocess
    import sys

    command = [sys.executable, "-m", "r1pipe.cli.main", "data", "review", "t/data"]
    return subprocess.run(
        command, cwd=folder, env=environment(**extra), input=typed, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_review_is_resumed_and_feeds_a_mix(folder: Path):
    assert "2 of 3 rows decided, 1 open" in answer(folder, "a\nwhat\nr\n")  # the input ends: as with q
    told = answer(folder, "e\n", EDITOR="sed -i s/It.is/That.makes/")
    assert "3 of 3" in told and "x0" not in told and "3 of 3 rows decided, 0 open" in told
    rows = (
        "stages:\n  m: {kind: mix, inputs: {chats: {c: ./runs/t/data/out/chats}}, outputs: {chats: o}, "
        "reviews: {c: reviews.jsonl}}\n"
    )
    config(folder, rows, "m.yaml")
    assert r1pipe(folder, "run-all", "m.yaml").returncode == 0
    mixed = {
        row["id"]: row
        for row in map(json.loads, (folder / "runs/m/m/out/chats/rows.jsonl").read_text().splitlines())
    }
    assert set(mixed) == {"x0", "x2"} and mixed["x2"]["messages"][-1]["content"].endswith("That.makes 3.")
    answer(folder, "")  # nothing is open, and nothing changes
    assert "nothing to run" in r1pipe(folder, "run-all", "m.yaml").stdout
    with (folder / "reviews.jsonl").open("a") as stream:
        first = json.loads((folder / "reviews.jsonl").read_text().splitlines()[0])
        stream.write(json.dumps({**first, "decision": "reject"}) + "\n")
    stale = r1pipe(folder, "run-all", "m.yaml")
    assert stale.returncode == 2 and "reviews" in stale.stderr


def test_without_a_run_there_is_only_a_path_to_give(tmp_path: Path):
    wrong = r1pipe(tmp_path, "data", "show", "cold-start-chats")
    assert (
        wrong.returncode == 2 and "no run in this folder" in wrong.stderr and "r1pipe run-all" in wrong.stderr
    )


def test_examples():
    import doctest

    import r1pipe.data.listing

    result = doctest.testmod(r1pipe.data.listing)
    assert result.attempted and not result.failed

"""`r1pipe chat` through its command line: streams, commands, templates, what a reply may not do to a terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from engine import r1pipe
from typer.testing import CliRunner

from r1pipe.cli.main import app
from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.run.records import sealed
from r1pipe.run.store import write_json
from r1pipe.serving.chat_screen import Screen
from r1pipe.serving.parts import Parts
from r1pipe.text.response import split_response

GREEDY = ("--temperature", "0", "--max-tokens", "24")


def chat(*lines: str, options: tuple[str, ...] = GREEDY, base: str = "embedded:base") -> tuple[str, str]:
    """What goes to stdout, and what to stderr."""
    done = CliRunner().invoke(app, ["chat", base, *options], input="\n".join(lines), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def trained(folder: Path, template: str) -> Path:
    """A checkpoint that a stage of a run has made with this template."""
    stage = folder / "runs/mine/r1-zero"
    shutil.copytree(EMBEDDED / "base", stage / "out/checkpoint")
    output = {"type": "checkpoint", "name": "zero", "path": "out/checkpoint", "digest": "", "files": {}}
    write_json(stage / "manifest.json", sealed({"stage": "r1-zero", "outputs": {"checkpoint": output}}))
    write_json(stage / "stage.json", sealed({"stage": "r1-zero", "config": {"template": template}}))
    return stage / "out/checkpoint"


@pytest.mark.slow
def test_lines_are_questions_and_stdout_has_the_replies_alone() -> None:
    out, err = chat("Who are you?", "", "/usr/bin is what?", "/exit", "Hello")
    assert len(out.splitlines()) == 2 and not out.startswith(">")
    assert "Hello" not in out and "there is no" not in err


def test_earlier_turns_are_kept_without_their_thinking_until_a_new_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from r1pipe.serving import chat_model

    said = iter(["<think>secret</think>four", "<think>x</think>six", "<think>never closed", "ok", "ok"])
    seen = []

    def reply(self, prompt, drawing, show, stopped):
        seen.append(self._tokenizer.decode(prompt.ids))
        text = next(said)
        show(text)
        return chat_model.Reply(text, 3, True)

    monkeypatch.setattr(chat_model.ChatModel, "reply", reply)
    chat("2+2?", "3+3?", "5+5?", "6+6?", "/new", "7+7?")
    assert "four" in seen[1] and "2+2?" in seen[1] and "secret" not in seen[1]
    assert "six" in seen[2]
    assert "never closed" not in seen[3] and "5+5?" not in seen[3]
    assert "six" in seen[3] and "six" not in seen[4]


@pytest.mark.slow
def test_the_oldest_turns_give_way() -> None:
    _, err = chat(*["Tell me about the red fox. " * 25 + "Who are you?"] * 3)
    assert "no longer fit" in err
    _, err = chat("Tell me about the red fox. " * 400, "Who are you?")
    assert "has 512 positions" in err


@pytest.mark.slow
def test_two_are_compared_and_one_is_switched(tmp_path: Path) -> None:
    other = shutil.copytree(EMBEDDED / "base", tmp_path / "other")
    lines = [f"/compare {other}", "Hello", "/compare", "Hello", f"/model {other}", "/model", "/model nope"]
    out, err = chat(*lines, "/what", "Hello")
    assert out.count("embedded:base:\n") == 1 and out.count(f"{other}:\n") == 1
    assert f"{other}\n" in err and "'nope'" in err and "there is no /what" in err
    assert chat("Hello", options=(str(other), *GREEDY))[0].count(":\n") >= 2


@pytest.mark.slow
def test_with_a_seed_a_reply_is_drawn_again() -> None:
    first, again, other = (
        chat("Who are you?", options=("--temperature", "2", "--max-tokens", "24", "--seed", seed))
        for seed in ("1", "1", "2")
    )
    assert first == again != other


@pytest.mark.slow
def test_a_checkpoint_is_asked_as_its_run_trained_it(tmp_path: Path) -> None:
    template = tmp_path / "plain.txt"
    template.write_text("User: {prompt}\nAssistant:")
    folder = str(trained(tmp_path, str(template)))
    asked, err = chat("2+2=?", base=folder)
    assert "room for one question" in err
    options = (*GREEDY, "--template", "chat")
    as_chat, err = chat("2+2=?", base=folder, options=options)
    assert "room for one question" not in err and as_chat == chat("2+2=?")[0] != asked
    template.unlink()
    refused = r1pipe(tmp_path, "chat", folder)
    assert refused.returncode == 2 and "the prompt template does not exist" in refused.stderr


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    reward_model = shutil.copytree(EMBEDDED / "base", tmp_path / "rm")
    config = json.loads((reward_model / "config.json").read_text())
    config["architectures"] = ["Qwen2ForSequenceClassification"]
    (reward_model / "config.json").write_text(json.dumps(config))
    for name, what in (
        ("folder", "no checkpoint: it has no config.json"),
        ("rm", "no language model"),
        ("nope", "there is no file 'nope'"),
    ):
        refused = r1pipe(tmp_path, "chat", name)
        assert refused.returncode == 2 and what in refused.stderr and "fix:" in refused.stderr


def test_a_name_that_is_not_there_is_told_with_the_checkpoints_that_are(tmp_path: Path) -> None:
    trained(tmp_path, "chat")
    write_json(tmp_path / "runs/mine/config.json", {"stages": {"r1-zero": {}}})
    refused = r1pipe(tmp_path, "chat", "nope")
    assert refused.returncode == 2 and "has made no checkpoint called 'nope'" in refused.stderr
    assert "known: zero" in refused.stderr


def test_a_reply_is_text_and_never_markup_or_a_command_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    for piece in ("[bold]a[/bold] :smile:\x1b[2J\r", "\nnext\u202e", "</think> <think"):
        screen.piece(piece)
    screen.end()
    out = capsys.readouterr().out
    assert out == "[bold]a[/bold] :smile:\\x1b[2J\nnext\\u202e</think> <think\n"


@pytest.mark.parametrize("text", ["a<think>b</think>c<think>d", "<think>b", "a</", "<think></think>", "x"])
def test_thinking_is_found_wherever_the_pieces_end(text: str) -> None:
    for size in range(1, len(text) + 1):
        parts = Parts()
        found = []
        for start in range(0, len(text), size):
            found += parts.feed(text[start : start + size])
        found += parts.rest()
        assert "".join(part.text for part in found) == text
        dimmed = "".join(part.text for part in found if part.thinking)
        thinking = split_response(text).thinking
        assert dimmed.removeprefix("<think>").removesuffix("</think>") == (thinking or "")

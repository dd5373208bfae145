"""`plan` and every run say what is to be said of checkpoints, before a stage starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from engine import ROOT, config, environment, finished_run, r1pipe
from families import DROPS_THINKING, change_json

from r1pipe.config.loader import load
from r1pipe.errors import InputError
from r1pipe.run.checkpoint_checks import checkpoint_findings
from r1pipe.run.findings import Teller
from r1pipe.run.plan import make_plan

RECIPE = """
stages:
  problems: {kind: prompts, source: [{world: math, count: 8}], outputs: {prompts: problems}}
  chats: {kind: rejection-sampling, inputs: {model: ./base, prompts: problems}, outputs: {chats: chats}, %s}
  sft: {kind: second-sft, inputs: {model: ./base, chats: chats}, outputs: {checkpoint: dev}, %s}
  rl:
    kind: r1-zero
    inputs: {model: dev, prompts: problems}
    outputs: {checkpoint: zero}
    grpo: {phases: [{steps: 1, max_tokens: %d, rewards: [{name: accuracy}]}]}
"""
SHORT = "sampling: {max_tokens: 64}"


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with 512 positions as ./base of a user's folder."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    change_json(folder / "config.json", max_position_embeddings=512)
    return folder


def found(folder: Path, recipe: str) -> list[tuple[str, str, str]]:
    """(level, stage, what) of each finding."""
    plan = make_plan(load(config(folder, recipe)))
    return [
        (one.level, one.where.split(".inputs")[0], one.what) for one in checkpoint_findings(plan, plan.todo)
    ]


def test_a_sound_recipe_gives_no_word(base: Path, tmp_path: Path) -> None:
    assert found(tmp_path, RECIPE % (SHORT, "sft: {max_length: 512}", 64)) == []


def test_each_stage_is_asked_for_what_it_does(base: Path, tmp_path: Path) -> None:
    """The checkpoint of `rl` is not there yet: it is judged by the one that it will be trained from."""
    said = found(tmp_path, RECIPE % ("sampling: {max_tokens: 600}", "sft: {max_length: 700}", 800))
    assert [(level, stage, what.split(",")[0]) for level, stage, what in said] == [
        ("error", "chats", "max_tokens is 600"),
        ("error", "sft", "max_length is 700"),
        ("error", "rl", "max_tokens is 800"),
    ]


def test_more_positions_hold_for_what_is_trained_with_them(base: Path, tmp_path: Path) -> None:
    assert found(tmp_path, RECIPE % (SHORT, "sft: {max_length: 700, positions: 1024}", 800)) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", '{"added_tokens": 3}'),
        ("chat_template.jinja", "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_traceback(
    name: str, content: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.run.checkpoint_checks.RENDER_SECONDS", 0.5)
    (base / name).write_text(content)
    said = found(tmp_path, RECIPE % (SHORT, "sft: {max_length: 512}", 64))
    assert {level for level, _, _ in said} == {"error"} and "cannot be read" in said[0][2]


def test_a_thing_is_said_once(base: Path, tmp_path: Path) -> None:
    (base / "chat_template.jinja").write_text(DROPS_THINKING)
    change_json(base / "tokenizer_config.json", eos_token="<|end|>")
    said = found(tmp_path, RECIPE % (SHORT, "sft: {max_length: 512}", 64))
    assert [(level, stage) for level, stage, _ in said] == [("warning", "chats")] * 2


def test_errors_are_refused_and_warnings_are_said_once(base: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    (base / "chat_template.jinja").write_text(DROPS_THINKING)
    plan = make_plan(load(config(tmp_path, RECIPE % (SHORT, "sft: {max_length: 512}", 64))))
    teller = Teller(notes.append)
    teller.tell(plan, checkpoint_findings(plan, plan.todo))
    teller.tell(plan, checkpoint_findings(plan, plan.todo))
    assert len(notes) == 2 and "as it stands" in notes[0]

    plan = make_plan(load(config(tmp_path, RECIPE % (SHORT, "sft: {max_length: 700}", 800))))
    with pytest.raises(InputError, match=r"max_length is 700(.|\n)*max_tokens is 800"):
        teller.tell(plan, checkpoint_findings(plan, plan.todo))


def test_the_commands(base: Path, tmp_path: Path) -> None:
    """`plan` ends with 2 where a checkpoint is wrong, and so does a run, before its first stage."""
    change_json(base / "tokenizer_config.json", eos_token="</s>")
    config(tmp_path, RECIPE % (SHORT, "sft: {max_length: 512}", 64))
    planned = r1pipe(tmp_path, "plan", "t.yaml")
    assert planned.returncode == 2 and "'</s>' is not in" in planned.stderr
    listed = r1pipe(tmp_path, "plan", "t.yaml", "--json")
    assert listed.returncode == 2 and json.loads(listed.stdout)["findings"][0]["level"] == "error"
    run = r1pipe(tmp_path, "run-all", "t.yaml")
    assert run.returncode == 2 and not (tmp_path / "runs/t/problems").exists()


def test_what_is_on_the_hub_is_said_to_be_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    recipe = RECIPE.replace("./base", "hub:me/mine") % (SHORT, "sft: {max_length: 512}", 64)
    (said, *more) = found(tmp_path, recipe)
    assert said[:2] == ("unchecked", "chats") and "hub:me/mine is not on this machine" in said[2]
    assert more == []


@pytest.mark.parametrize(
    "name",
    [*sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))],
)
def test_nothing_is_said_of_the_configs_that_ship(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$R1_BASE` is a base with as many positions as the paper's."""
    if name.startswith(("accelerate/", "suites/")):
        pytest.skip("settings of accelerate, or questions for `r1pipe eval`: not a recipe")
    data = tmp_path / "data"
    data.mkdir()
    change_json(base / "config.json", max_position_embeddings=163840)
    monkeypatch.setenv("R1_BASE", str(base))
    monkeypatch.setenv("R1_DATA", str(data))
    monkeypatch.setenv("R1_STUDENT", str(base))
    monkeypatch.setenv("R1_PROBLEMS", str(data / "reasoning.jsonl"))
    monkeypatch.setenv("R1_RUN", str(finished_run(tmp_path / "r1", base)))
    for file in ("reasoning", "general", "exam", "general-chats", "pairs", "labels"):
        (data / f"{file}.jsonl").write_text("{}\n")
    for file in ("gsm8k_train", "gsm8k_test", "user_instructions", "seed_tasks", "xstest"):
        (data / f"{file}.jsonl.gz").write_bytes(b"")
    for file in ("pandalm_pairs", "hh_harmless"):
        (data / f"{file}.jsonl.gz").write_bytes(b"")
    plan = make_plan(load(ROOT / "configs" / name))
    assert [str(one) for one in checkpoint_findings(plan, plan.todo) if one.level != "unchecked"] == []


@pytest.mark.parametrize("model", ["./base", "hub:me/mine"])
def test_a_plan_imports_nothing_heavy(model: str, base: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    config(tmp_path, RECIPE.replace("./base", model) % (SHORT, "sft: {max_length: 512}", 64))
    code = """
import json, sys
sys.argv = ['r1pipe', 'plan', 't.yaml']
from r1pipe.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ('torch', 'transformers', 'tokenizers', 'numpy', 'huggingface_hub.hf_api')
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []

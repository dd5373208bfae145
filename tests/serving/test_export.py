"""The exported folder: its card, what else it may stand in, kills, and that others load it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from engine import r1pipe

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.errors import InputError
from r1pipe.run.records import sealed
from r1pipe.run.store import write_json
from r1pipe.serving.export import export, push
from r1pipe.serving.lineage import find_checkpoint, lineage_of
from r1pipe.serving.turns import take_apart
from r1pipe.serving.whole_folder import RECORD, whole_folder
from r1pipe.text.chat_format import message_renderer

STAGES = {
    "exam": {"kind": "prompts", "outputs": {"prompts": "exam"}},
    "rows": {"kind": "prompts", "outputs": {"prompts": "rows"}},
    "r1-zero": {"inputs": {"model": "embedded:base", "prompts": "rows"}, "outputs": {"checkpoint": "zero"}},
    "evaluate-base": {
        "kind": "evaluate",
        "checkpoint": "base",
        "inputs": {"model": "embedded:base", "prompts": "exam"},
    },
    "evaluate-zero": {
        "kind": "evaluate",
        "checkpoint": "zero",
        "inputs": {"model": "zero", "prompts": "exam"},
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint `zero` of a run, with a card of its data and scores."""
    run = tmp_path / "runs/mine"
    for stage, port, kind, name in (
        ("rows", "prompts", "prompts", "rows"),
        ("r1-zero", "checkpoint", "checkpoint", "zero"),
    ):
        folder = run / stage
        (folder / "out" / port).mkdir(parents=True)
        output = {"type": kind, "name": name, "path": f"out/{port}", "digest": "", "files": {}}
        record = {"stage": stage, "outputs": {port: output}, "wall_s": 73.0, "versions": {"torch": "2.13"}}
        write_json(folder / "manifest.json", sealed(record))
    (run / "rows/out/prompts/card.md").write_text("| Domain | Samples |\n| math | 940 |\n")
    write_json(run / "config.json", {"stages": STAGES})
    scores: dict[str, Any] = {
        "base": {"math": {"pass@1": 0.191, "stderr": 0.022, "n": 320}},
        "zero": {
            "math": {"pass@1": 0.866, "stderr": 0.019, "n": 320, "tokens": 40.0},
            "code": {"pass@1": float("nan"), "stderr": 0.1},
        },
    }
    write_json(run / "summary.json", {"scores": scores})
    return shutil.copytree(EMBEDDED / "base", run / "r1-zero/out/checkpoint", dirs_exist_ok=True)


def test_the_card_says_where_it_comes_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from huggingface_hub import ModelCard

    monkeypatch.chdir(tmp_path)
    export(find_checkpoint("mine/zero"), tmp_path / "out", name="my-zero")
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.license == "apache-2.0" and card.data.model_name == "my-zero"
    (result,) = card.data.eval_results or []
    assert (result.dataset_name, result.metric_value) == ("math", 0.866)
    assert "± 0.019" in str(result.metric_name)
    for said in (
        "| math | 0.191 ± 0.022 | 0.866 ± 0.019 | 320 | 40 |",
        "| r1-zero | r1-zero | model embedded:base; prompts rows | zero | 73 |",
        "| math | 940 |",
        "apache-2.0, as `embedded:base` states it.",
    ):
        assert said in card.text, said
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "out").glob("*.json"))
    assert json.loads((tmp_path / "out/config.json").read_text())["use_cache"] is True


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        export(EMBEDDED / "base", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt in it is no part"):
        export(EMBEDDED / "base", out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").touch()
    assert r1pipe(tmp_path, "export", "embedded:base", "other").returncode == 2
    assert [path.name for path in other.iterdir()] == ["README.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_kill_leaves_nothing_half_written(earlier: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if earlier:
        with whole_folder(out, {}) as folder:
            (folder / "a").write_text("before")
    child = os.fork()
    if child == 0:
        with whole_folder(out, {}) as folder:
            (folder / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert out.exists() == earlier
    assert not earlier or (out / "a").read_text() == "before"
    with whole_folder(out, {}) as folder:
        (folder / "b").write_text("whole")
    assert sorted(path.name for path in out.iterdir()) == ["b", RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_renames_is_mended(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", {}) as folder:
        (folder / "a").touch()
    (tmp_path / "out").rename(tmp_path / ".out.before")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out", {}):
        raise ZeroDivisionError
    assert (tmp_path / "out/a").exists()


@pytest.mark.slow
def test_an_adapter_is_merged_for_others_and_for_a_chat(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "base")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            weight += "lora_B" in name
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    expected = adapted(ids).logits
    export(tmp_path / "adapter", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(merged(ids).logits, expected, atol=1e-3)
    said = [said_in_a_chat(path) for path in (tmp_path / "adapter", tmp_path / "out", EMBEDDED / "base")]
    assert said[0] == said[1] != said[2]


def said_in_a_chat(checkpoint: Path) -> str:
    from r1pipe.serving.chat_model import Drawing
    from r1pipe.serving.talk import Talk, load

    pieces: list[str] = []
    Talk(load(str(checkpoint))).answer("Hello", Drawing(0, 1, 20), pieces.append, lambda: False)
    return "".join(pieces)


def test_an_adapter_whose_base_is_not_here_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "../nowhere"})
    refused = r1pipe(tmp_path, "chat", str(tmp_path))
    assert refused.returncode == 2 and "the base of the adapter is not here" in refused.stderr


def test_a_reward_model_is_refused(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED / "base", tmp_path / "rm")
    config = json.loads((tmp_path / "rm/config.json").read_text())
    config["architectures"] = ["Qwen2ForSequenceClassification"]
    write_json(tmp_path / "rm/config.json", config)
    with pytest.raises(InputError, match="this is no language model"):
        export(tmp_path / "rm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_modelfile_asks_as_the_template_does(tmp_path: Path) -> None:
    export(EMBEDDED / "base", tmp_path / "out")
    text = (tmp_path / "out/Modelfile").read_text()
    assert text.startswith("FROM .\nTEMPLATE")
    assert '{{ "<|user|>" }}{{ .Content }}' in text
    assert "<think>{{ .Thinking }}</think>" in text
    assert 'PARAMETER stop "<|end|>"' in text and "PARAMETER temperature 0.6" in text
    lineage = lineage_of(EMBEDDED / "base")
    assert lineage.bases == ["embedded:base"]


def test_a_template_that_drops_the_thinking_is_rebuilt() -> None:
    from datetime import datetime

    from families import OPENS_THINKING

    now = datetime(2026, 1, 1)
    turns = take_apart(message_renderer(OPENS_THINKING, {}, now))
    assert turns is not None
    rebuilt = message_renderer(turns.jinja(), {}, now)
    question = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "1+1"}]
    original = message_renderer(OPENS_THINKING, {}, now)
    for asked in (question, question[1:]):
        assert rebuilt(asked, True) == original(asked, True)
    talk = [*question, {"role": "assistant", "content": "<think>a</think>2"}, question[1]]
    assert "<|im_start|>assistant\n<think>a</think>2<|im_end|>\n" in rebuilt(talk, True)


def test_the_hub_is_asked_for_a_private_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself cannot be had here: its client is asked in its place."""
    import huggingface_hub

    calls: list[tuple[Any, ...]] = []

    class Hub:
        private = True

        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
            calls.append(("create", repository, private))
            return "https://hub/me/m"

        def repo_info(self, repository: str) -> Any:
            return self

        def upload_folder(self, repo_id: str, folder_path: Path) -> None:
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(tmp_path, "me/m") == "https://hub/me/m"
    assert calls == [("create", "me/m", True), ("upload", "me/m", tmp_path)]
    Hub.private = False
    with pytest.raises(InputError, match="is public, so nothing was uploaded"):
        push(tmp_path, "me/m")
    assert calls[2:] == [("create", "me/m", True)]
    push(tmp_path, "me/m", public=True)
    assert calls[-2:] == [("create", "me/m", False), ("upload", "me/m", tmp_path)]


@pytest.mark.slow
def test_others_load_it_without_r1pipe(tmp_path: Path) -> None:
    """Of the embedded base, or of the checkpoint that R1PIPE_CHECKPOINT names."""
    chosen = Path(os.environ.get("R1PIPE_CHECKPOINT", EMBEDDED / "base"))
    export(chosen, tmp_path / "out")
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    code = f"""
import importlib.util, sys
sys.path += {packages!r}
assert importlib.util.find_spec("r1pipe") is None
from transformers import pipeline
ask = pipeline("text-generation", model={str(tmp_path / "out")!r})
reply = ask([{{"role": "user", "content": "12 + 7 - 3 = ?"}}], max_new_tokens=100, do_sample=False)
print(reply[0]["generated_text"][-1]["content"])
"""
    # -S leaves out the .pth files by which a checkout is installed.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = done.stdout.strip().splitlines()[-1]
    if "R1PIPE_CHECKPOINT" in os.environ:
        assert answer.startswith("<think>") and answer.count("</think>") == 1
    assert answer and "<|end|>" not in answer

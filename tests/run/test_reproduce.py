"""`r1pipe reproduce`: a run is made again, and where it differs first is said."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from engine import ROOT, config, edit_manifest, r1pipe

from r1pipe.run.file_differences import first_difference
from r1pipe.run.lock import LOCK

# The second stage writes the number of its process, so that no repetition is the same.
FIGURE = """
stages:
  exam: {kind: prompts, source: [{world: math, count: 4}], outputs: {prompts: exam}}
  mine: {kind: r1pipe_fakes.rows, inputs: {source: exam}, outputs: {rows: mine}}
"""
TRAINING = """
stages:
  cold-start:
    inputs: {model: embedded:base, chats: ./chats.jsonl}
    outputs: {checkpoint: dev1}
    sft: {lr: 1.0e-4, batch_size: 1, max_length: 64, max_steps: 1}
"""


@pytest.fixture
def done(tmp_path: Path) -> Path:
    config(tmp_path, FIGURE)
    made = r1pipe(tmp_path, "run-all", "t.yaml", "--only", "exam", "--set", "stages.exam.seed=7")
    assert made.returncode == 0, made.stderr
    return tmp_path


def lock(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/t" / LOCK).read_text())


def test_the_lock_says_how_a_run_was_made(done: Path) -> None:
    told = lock(done)
    assert told["config"] == {"file": str(done / "t.yaml"), "sets": ["stages.exam.seed=7"]}
    exam = told["stages"]["exam"]
    assert exam["seed"] == 7 and exam["device"]
    assert {"torch", "numpy", "tokenizers", "math-verify", "rensa"} <= exam["versions"].keys()
    assert list(exam["outputs"]) == ["prompts"]


def test_a_run_that_repeats_is_equal(done: Path) -> None:
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 0, again.stderr + again.stdout
    assert again.stdout.splitlines()[-1] == "equal: all 1 stages made the same"
    assert (done / "runs/t-again/exam/manifest.json").is_file()


def test_the_first_difference_is_said_with_other_versions(done: Path) -> None:
    assert r1pipe(done, "run-all", "t.yaml", "--set", "stages.exam.seed=7").returncode == 0
    edit_manifest(done, "mine", lambda manifest: manifest["versions"].update(torch="1.0"))
    again = r1pipe(done, "reproduce", "t", "--run", "other", "--json")
    assert again.returncode == 1, again.stderr
    told = json.loads(again.stdout)
    assert told["stages"] == ["exam", "mine"] and not told["equal"]
    assert list(told["first"]) == ["mine"]
    assert told["first"]["mine"].startswith("rows/rows.jsonl, row 1 (0), pid: ")
    assert told["other"][0].startswith("torch: 1.0 then, ")


@pytest.fixture
def another_transformers(tmp_path: Path) -> Path:
    """A folder with another release of transformers than this environment's, without what it needs."""
    here = metadata.version("transformers")
    other = next(release for release in ("5.22.2", "5.21.1") if release != here)
    folder = tmp_path / "other"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)]
    installed = subprocess.run([*command, f"transformers=={other}"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"no other release of transformers can be installed: {installed.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
def test_another_release_of_a_library_is_named_with_the_first_difference(
    tmp_path: Path, another_transformers: Path
) -> None:
    """transformers writes its own version into each checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "<think>1+1=2</think>2"}]
    (folder / "chats.jsonl").write_text(
        json.dumps({"id": "0", "domain": "math", "messages": messages}) + "\n"
    )
    config(folder, TRAINING)
    assert r1pipe(folder, "run-all", "t.yaml").returncode == 0
    path = os.pathsep.join([str(another_transformers), str(ROOT)])
    again = r1pipe(folder, "reproduce", "t", "--json", PYTHONPATH=path)
    assert again.returncode == 1, again.stderr
    told = json.loads(again.stdout)
    then = metadata.version("transformers")
    now = next(another_transformers.glob("transformers-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    assert told["other"] == [f"transformers: {then} then, {now} now"]
    difference = f'checkpoint/config.json, transformers_version: "{then}" then, "{now}" now'
    assert told["first"] == {"cold-start": difference}


def test_another_config_is_refused(done: Path) -> None:
    config(done, FIGURE.replace("count: 4", "count: 5"))
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 2
    assert "exam would be made from something else than it was: source.0.count: 4 -> 5" in again.stderr
    assert not (done / "runs/t-again").exists()


def test_a_run_without_a_whole_lock_is_refused(done: Path) -> None:
    (done / "runs/t" / LOCK).write_text('{"config": ')
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 2 and "has no whole lock.json" in again.stderr


# --- files ------------------------------------------------------------------------------------------------------------


def test_tensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    then = tmp_path / "then.safetensors"
    now = tmp_path / "now.safetensors"
    same = torch.ones(3)
    save_file({"a": same, "b": torch.zeros(4, dtype=torch.bfloat16)}, then)
    save_file({"a": same, "b": torch.tensor([0, 0.5, 0, -2], dtype=torch.bfloat16)}, now)
    assert first_difference(then, then) == ""
    assert first_difference(then, now) == "tensor b: 2 numbers differ, by at most 2"
    save_file({"a": same, "b": torch.zeros(2, 2, dtype=torch.bfloat16)}, now)
    assert first_difference(then, now) == "tensor b: BF16 [4] then, BF16 [2, 2] now"
    save_file({"a": same}, now)
    assert first_difference(then, now) == "tensor b: only then"


def test_rows_json_and_bytes(tmp_path: Path) -> None:
    then = tmp_path / "then.jsonl"
    now = tmp_path / "now.jsonl.gz"
    then.write_text('{"id": "a", "messages": [{"content": "x"}]}\n{"id": "b"}\n')
    now.write_bytes(gzip.compress(b'{"id": "a", "messages":[{"content": "y"}]}\n{"id": "b"}\n'))
    assert first_difference(then, now) == 'row 1 (a), messages.0.content: "x" then, "y" now'
    now.write_bytes(gzip.compress(b'{"id": "a", "messages":[{"content": "x"}]}\n'))
    assert first_difference(then, now) == "row 2: there are fewer rows now"

    one = tmp_path / "one.json"
    other = tmp_path / "other.json"
    one.write_text('{"math": {"n": 1}, "rest": NaN}')
    other.write_text('{"rest": NaN, "math": {"n": true}}')
    assert first_difference(one, other) == "math.n: 1 then, true now"
    other.write_text('{"math": {"n": 1},\n"rest": NaN}')
    assert first_difference(one, other) == ""
    other.write_text("{")
    assert first_difference(one, other) == "byte 1"

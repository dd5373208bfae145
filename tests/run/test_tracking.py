"""The key `track:`: curves and responses of a run in other programs, which may fail and never change a training."""

from __future__ import annotations

import json
import sqlite3
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from engine import config, r1pipe, start, wait_for

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.here import Here
from r1pipe.run.tracking import check_trackers
from r1pipe.run.tracking.follower import Following
from r1pipe.text.key_shapes import without_keys

ROWS = """
track: [tensorboard]
stages:
  rows: {kind: r1pipe_fakes.rows, outputs: {rows: first}}
  score: {kind: r1pipe_fakes.score, inputs: {prompts: first}, outputs: {report: scores-base}}
"""
PROMPTS = """
track: [tensorboard]
stages:
  prompts: {source: {world: math, count: 4}, outputs: {prompts: some}}
"""
SFT = """
track: [tensorboard, trackio, wandb]
stages:
  sft:
    kind: cold-start
    inputs: {model: embedded:student, chats: ./chats.jsonl}
    outputs: {checkpoint: dev1}
    sft: {max_steps: 8, batch_size: 4, max_length: 64, save_every: 2}
"""
# 40 hexadecimal digits, as W&B's older keys are
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"


def stage(folder: Path) -> Here:
    workdir = folder / "runs/r1/rl/workdir"
    workdir.mkdir(parents=True)
    return Here("rl", workdir, workdir.parent / "metrics.jsonl", workdir.parent / "progress.jsonl")


def following(here: Here, said: list[str] | None = None) -> Following:
    begin = {
        "run": "r1",
        "stage": "rl",
        "folder": str(here.workdir.parent),
        "config": {"kind": "r1-zero"},
        "scores": False,
    }
    return Following("tensorboard", begin, (said if said is not None else []).append)


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    names = read.Tags()["scalars"]
    return {name: [(event.step, round(event.value, 4)) for event in read.Scalars(name)] for name in names}


def test_curves_go_on_where_an_attempt_goes_on(tmp_path: Path):
    pytest.importorskip("tensorboard")
    here = stage(tmp_path)
    here.log(step=0, launched={"profile": "process"})
    here.log(step=1, loss=3.0, bad=None)
    here.log(step=2, loss=2.0)
    here.log(step=2, guard="entropy", action="warn", what="...")
    said: list[str] = []
    first = following(here, said)
    first.read()
    # half a line
    with here.metrics_path.open("a") as stream:
        stream.write('{"time": 1')
    first.read()
    # the driver dies; the stage goes on from its checkpoint of update 1
    first.end(None)
    here.forget(1)
    here.log(step=2, loss=2.5)
    second = following(here)
    second.read()
    here.log(step=3, loss=1.0)
    second.end({"steps": 3, "reward": None})

    curves = in_tensorboard(here.workdir.parent)
    assert curves["loss"] == [(1, 3.0), (2, 2.5), (3, 1.0)]
    assert curves["result/steps"] == [(3, 3.0)]
    assert said == [f"tensorboard --logdir {tmp_path / 'runs'}"]


def test_an_update_that_was_told_last_is_made_again(tmp_path: Path):
    """The step does not fall: its line came after the first attempt's tracker, and before the second attempt's file."""
    pytest.importorskip("tensorboard")
    here = stage(tmp_path)
    here.log(step=1, loss=3.0)
    following(here).end(None)
    here.log(step=2, loss=2.0)
    second = following(here)
    second.read()
    here.forget(1)
    # a look at the new file while nothing in it is new
    second.read()
    here.log(step=2, loss=2.5)
    second.end(None)
    assert in_tensorboard(here.workdir.parent)["loss"] == [(1, 3.0), (2, 2.5)]


def test_a_rollback_in_one_attempt_is_followed(tmp_path: Path):
    pytest.importorskip("tensorboard")
    here = stage(tmp_path)
    follower = following(here)
    for step in (1, 2, 3):
        here.log(step=step, reward=step / 10)
    follower.read()
    here.forget(1)
    here.log(step=2, reward=0.9)
    follower.end(None)
    assert in_tensorboard(here.workdir.parent)["reward"] == [(1, 0.1), (2, 0.9)]


def test_responses_are_shown_as_text(tmp_path: Path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    here = stage(tmp_path)
    response = {
        "prompt": "1+1?",
        "response": "<think>\n# 1\n</think>2",
        "reward": 1.0,
        "rewards": {"accuracy": 1.0},
    }
    here.show(4, [response])
    here.show(9, [response])
    here.forget(4)
    follower = following(here)
    follower.end(None)
    read = events.EventAccumulator(str(here.workdir.parent / "tensorboard"))
    read.Reload()
    (event,) = read.Tensors("responses")
    text = event.tensor_proto.string_val[0].decode()
    # a block of code: nothing in it is markup
    assert event.step == 4 and "    # 1\n    </think>2" in text


def test_a_tracker_that_fails_is_a_note_and_not_the_end(tmp_path: Path):
    pytest.importorskip("tensorboard")
    config(tmp_path, ROWS)
    in_the_way = tmp_path / "runs/t/rows/tensorboard"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("")
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    assert "note: tensorboard: FileExistsError" in done.stdout
    # the next stage tries again
    assert in_tensorboard(tmp_path / "runs/t/score")["result/math"]


def test_unknown_and_missing_trackers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="there is no tracker 'wandbb'") as error:
        load(config(tmp_path, PROMPTS.replace("[tensorboard]", "wandbb")))
    assert "did you mean 'wandb'" in str(error.value) and "t.yaml:2" in str(error.value)
    with pytest.raises(ConfigError, match="list of names"):
        load(config(tmp_path, PROMPTS.replace("[tensorboard]", "[{wandb: 1}]")))

    sft = SFT.replace("max_steps: 8", "trl: {report_to: wandb}")
    (tmp_path / "chats.jsonl").touch()
    with pytest.raises(ConfigError, match="report_to shadows a key of the config") as error:
        load(config(tmp_path, sft))
    assert "set track at the top" in str(error.value)

    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    pipeline = load(config(tmp_path, PROMPTS.replace("[tensorboard]", "trackio")))
    assert pipeline.track == ("trackio",)
    monkeypatch.setattr("r1pipe.run.tracking.tracking.metadata.version", nothing)
    with pytest.raises(MissingToolError) as missing:
        check_trackers(pipeline)
    assert 'pip install "r1pipe[trackio]"' in str(missing.value)


def test_keys_are_struck_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    secrets = [
        WANDB_KEY,
        "hf_" + "a1" * 15,
        "wandb_v1_" + "Ab3" * 12,
        "Bearer abcdefghijk",
    ]
    for secret in secrets:
        assert secret not in without_keys(f"login with {secret}, done")
    assert "s3cret" not in without_keys("at https://me:s3cret@host/x and /?a=1&write_token=s3cret#top")
    kept = "loss 0.25, 12 tokens=3, step=4, commit 87a75d0, https://wandb.ai/me/r1pipe?nw=1"
    assert without_keys(kept) == kept


@pytest.mark.slow
def test_a_training_is_the_same_with_all_trackers_and_goes_on_in_their_runs(tmp_path: Path):
    """Killed without warning and called again: one run in each tracker, and the weights of a run without them."""
    for name in ("tensorboard", "trackio", "wandb"):
        pytest.importorskip(name, reason=f"pip install r1pipe[{name}]")
    rows = []
    for number in range(24):
        asked = {"role": "user", "content": f"{number}+1?"}
        said = {"role": "assistant", "content": f"<think>{number}+1={number + 1}</think>{number + 1}"}
        rows.append(
            {"id": str(number), "prompt": asked["content"], "messages": [asked, said], "domain": "math"}
        )
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config(tmp_path, SFT)
    variables = {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "TRACKIO_SPACE_ID": "me/public",
        "WANDB_MODE": "offline",
        "WANDB_API_KEY": WANDB_KEY,
    }
    plain = r1pipe(tmp_path, "run-all", "t.yaml", "--run", "plain", "--set", "track=null")
    assert plain.returncode == 0, plain.stderr

    folder = tmp_path / "runs/t/sft"
    driver = start(tmp_path, "run-all", "t.yaml", **variables)
    wait_for(lambda: (folder / "workdir/trainer/checkpoint-4").exists())
    driver.kill()
    driver.communicate()
    wait_for(lambda: not followers(folder.parent))
    done = r1pipe(tmp_path, "run-all", "t.yaml", **variables)
    assert done.returncode == 0, done.stderr
    assert not followers(folder.parent)

    weights = "sft/out/checkpoint/model.safetensors"
    assert (tmp_path / "runs/t" / weights).read_bytes() == (tmp_path / "runs/plain" / weights).read_bytes()

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], round(line["loss"], 4)) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == list(range(1, 9))
    assert in_tensorboard(folder)["loss"] == losses

    runs = in_trackio(tmp_path / "trackio/r1pipe.db")
    assert set(runs) == {"t/sft"} and len(runs["t/sft"]) == 1
    (steps,) = runs["t/sft"].values()
    assert dict(losses).items() <= {step: round(loss, 4) for step, loss in steps}.items()

    identity = json.loads((folder / "wandb.json").read_text())["identity"]
    attempts = list((tmp_path / "runs/t/.wandb/wandb").glob("offline-run-*"))
    assert len(attempts) == 2 and {path.name.rpartition("-")[2] for path in attempts} == {identity}

    logs = [*folder.parent.glob(".track.*.log"), *folder.glob("logs/*")]
    assert len(logs) >= 5
    for log in logs:
        assert WANDB_KEY not in log.read_text()
    assert "TRACKIO_SPACE_ID is not used" in (folder.parent / ".track.trackio.log").read_text()


def followers(run: Path) -> list[int]:
    """The trackers' processes of a run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "tracking.follower" in command and str(run) in command:
            found.append(int(process.name))
    return found


def in_trackio(file: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """run -> its identity -> (step, loss)."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with sqlite3.connect(file) as database:
        columns = [row[1] for row in database.execute("pragma table_info(metrics)")]
        assert {"run_name", "run_id", "step", "metrics"} <= set(columns), columns
        for name, identity, step, text in database.execute(
            "select run_name, run_id, step, metrics from metrics"
        ):
            numbers: dict[str, Any] = json.loads(text)
            if "loss" in numbers:
                found.setdefault(name, {}).setdefault(identity, []).append((step, numbers["loss"]))
    return found

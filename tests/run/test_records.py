"""A run's own files, cut, edited or replaced: each is named with what to do; nothing is done twice or waited for."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine import FIXTURES, config, edit_manifest, r1pipe

from r1pipe.config.loader import load
from r1pipe.errors import InputError, R1PipeError, StaleError
from r1pipe.here import Here
from r1pipe.run.artifact_lookup import find_artifact
from r1pipe.run.digests import Digests
from r1pipe.run.plan import make_plan, refuse
from r1pipe.run.records import read_sealed, sealed
from r1pipe.run.states import changed_files
from r1pipe.run.status import run_status, status_lines
from r1pipe.run.store import RunFolder, write_json

OTHER_SHAPES = ["", "{", "[]", "null", "3", '"text"', "{}", '{"checksum": 1}', "[" * 100_000, "\x00\x01"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    config(folder)
    done = r1pipe(folder, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def done(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of three stages, rows, more and score; the test works there."""
    folder = shutil.copytree(finished, tmp_path / "done")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(FIXTURES))
    return folder


def states() -> dict[str, str]:
    return {name: state.state for name, state in make_plan(load(Path("t.yaml"))).states.items()}


def refused() -> R1PipeError:
    with pytest.raises(R1PipeError) as error:
        refuse(make_plan(load(Path("t.yaml"))))
    return error.value


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    # the path of a socket may have no more than 107 characters
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def make_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def make_circle(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def make_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a link to a device": make_device,
    "a link to itself": make_circle,
}


# --- what is done -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", OTHER_SHAPES)
def test_a_damaged_manifest_is_named_and_not_done_again(done: Path, content: str) -> None:
    """A cut one counted as no manifest, so a finished stage ran again, or the next stage was blamed."""
    (done / "runs/t/more/manifest.json").write_text(content)
    assert states() == {"rows": "done", "more": "stale", "score": "stale"}
    error = refused()
    assert isinstance(error, StaleError) and "more: manifest.json is damaged" in error.what
    assert "--rebuild more" in error.fix and "--rebuild score" not in error.fix


def test_a_manifest_that_was_edited_does_not_count(done: Path) -> None:
    path = done / "runs/t/more/manifest.json"
    path.write_text(path.read_text().replace('"attempts": 1', '"attempts": 2'))
    assert "it was changed after it was written" in refused().what


@pytest.mark.parametrize("name", ODD)
def test_a_manifest_that_cannot_be_read_is_no_wait(done: Path, name: str) -> None:
    ODD[name](done / "runs/t/more/manifest.json")
    assert states()["more"] == "stale"


def test_a_damaged_record_of_a_stage_that_was_started_is_named(done: Path) -> None:
    (done / "runs/t/more/manifest.json").unlink()
    (done / "runs/t/more/stage.json").write_text("[]")
    assert "more: stage.json is damaged" in refused().what


def test_a_rebuild_takes_a_damaged_stage_away(done: Path) -> None:
    (done / "runs/t/more/manifest.json").write_text("{")
    again = r1pipe(done, "run-all", "t.yaml", "--rebuild", "more")
    assert again.returncode == 0, again.stderr
    assert set(states().values()) == {"done"}


@pytest.mark.parametrize("content", OTHER_SHAPES)
def test_remembered_hashes_that_are_damaged_are_made_anew(done: Path, content: str) -> None:
    (done / "runs/t/.digests.json").write_text(content)
    assert set(states().values()) == {"done"}


@pytest.mark.parametrize("entry", [3, [1, 2], [1, 2, 3], ["1", 2, "x"], None])
def test_one_remembered_hash_that_is_damaged_is_made_anew(done: Path, entry: Any) -> None:
    path = done / "runs/t/.digests.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), entry)))
    os.utime(done / "runs/t/more/out/rows/rows.jsonl")
    assert set(states().values()) == {"done"}


def test_a_manifest_names_files_that_are_gone(done: Path) -> None:
    """With the right checksum, as another program may write it."""
    edit_manifest(done, "more", lambda record: record["outputs"]["rows"]["files"].update({"../../x": "0"}))
    assert states()["more"] == "stale"


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [*OTHER_SHAPES, '{"stages": []}', '{"stages": {"../../etc": {}}}'])
def test_a_damaged_config_of_a_run_is_said(done: Path, content: str) -> None:
    """It was shown as `0 of 0 stages done`."""
    (done / "runs/t/config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged") as error:
        run_status("t")
    assert "run-all" in error.value.fix


@pytest.mark.parametrize("file", ["summary.json", "more/manifest.json", "more/stage.json", ".lock"])
@pytest.mark.parametrize("content", OTHER_SHAPES)
def test_status_shows_the_rest(done: Path, file: str, content: str) -> None:
    (done / "runs/t" / file).write_text(content)
    status = run_status("t")
    found = {stage["name"]: stage["state"] for stage in status["stages"]}
    assert found == {"rows": "done", "more": "stale" if "manifest" in file else "done", "score": "done"}
    lines = "\n".join(status_lines(status))
    assert ("manifest.json is damaged" in lines) == ("manifest" in file)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("file", ["summary.json", "more/manifest.json", "more/progress.jsonl", ".lock"])
def test_status_waits_for_nothing(done: Path, file: str, name: str) -> None:
    ODD[name](done / "runs/t" / file)
    assert len(run_status("t")["stages"]) == 3


@pytest.mark.parametrize("line", ["3", "null", "[]", '{"done": "x"}', '{"done": 1}', "[" * 3000])
def test_progress_of_another_shape_is_not_shown(done: Path, line: str) -> None:
    (done / "runs/t/more/manifest.json").unlink()
    (done / "runs/t/more/progress.jsonl").write_text(line + "\n")
    (more,) = [stage for stage in run_status("t")["stages"] if stage["name"] == "more"]
    assert more["state"] == "partial" and more["progress"] is None


def test_a_look_up_names_the_damaged_manifest(done: Path) -> None:
    (done / "runs/t/more/manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        find_artifact("second")


# --- what a stage would wait for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("file", ["metrics.jsonl", "workdir/samples-0-of-1.jsonl", "logs/attempt_1.log"])
def test_a_stage_does_not_start_over_what_it_would_wait_for(done: Path, file: str, name: str) -> None:
    stage = RunFolder("t").stage("more")
    path = stage.path / file
    path.parent.mkdir(exist_ok=True)
    ODD[name](path)
    with pytest.raises(InputError, match=f"{path.name} is in the way") as error:
        stage.begin([])
    assert error.value.where == str(path)


def test_a_log_with_another_name_is_no_attempt(done: Path) -> None:
    (done / "runs/t/more/logs/attempt_x.log").write_text("")
    assert RunFolder("t").stage("more").attempts == 1


def test_a_file_in_the_place_of_a_stage_is_said(done: Path) -> None:
    shutil.rmtree(done / "runs/t/more")
    (done / "runs/t/more").write_text("")
    with pytest.raises(InputError, match="more is in the way of a run: it is not a folder"):
        RunFolder("t").stage("more").begin([])


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device, make_circle, make_folder])
def test_a_lock_that_is_no_file_is_said(done: Path, make: Callable[[Path], None]) -> None:
    make(done / "runs/t/.lock")
    with pytest.raises(InputError, match="lock is in the way"), RunFolder("t"):
        pass


@pytest.mark.parametrize("content", OTHER_SHAPES)
def test_a_lock_of_another_shape_is_taken_over(done: Path, content: str) -> None:
    (done / "runs/t/.lock").write_text(content)
    with RunFolder("t"):
        pass


# --- hashes and seals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_the_user_s_with_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """The hashes of a checkpoint waited for its pipe."""
    folder = tmp_path / "model"
    folder.mkdir()
    ODD[name](folder / "merges.txt")
    with pytest.raises(InputError, match="cannot be read"):
        Digests(RunFolder("t", tmp_path)).path(folder)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Two of them make one folder 2 ** 40."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).symlink_to(".")
    with pytest.raises(InputError, match="leads back to a folder that it is in"):
        Digests(RunFolder("t", tmp_path)).path(folder)


def test_a_link_to_a_folder_beside_it_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/linked").symlink_to(tmp_path / "data")
    assert list(Digests(RunFolder("t", tmp_path)).files(tmp_path / "model")) == ["linked/rows.jsonl"]


def test_a_seal_reads_back(tmp_path: Path) -> None:
    """Numbers as keys, tuples, NaN and other alphabets are as JSON has them."""
    record: dict[Any, Any] = {"a": (1, 2), 3: None, "nan": float("nan"), "中": "\u2028", "x": 1e-7}
    write_json(tmp_path / "a.json", sealed(record))
    assert (read_sealed(tmp_path / "a.json") or {})["a"] == [1, 2]


def test_metrics_of_another_shape_are_left_out_when_updates_are_made_again(here: Here) -> None:
    lines = ['{"step": 1}', "3", "null", '["step"]', '{"step": "x"}', '{"step": 9}', '{"note": 1}', "{"]
    here.metrics_path.write_text("\n".join(lines))
    here.forget(4)
    assert here.metrics_path.read_text().split() == ['{"step":', "1}", '{"step":', '"x"}', '{"note":', "1}"]


def test_a_published_file_that_became_a_pipe_is_no_wait(done: Path) -> None:
    make_pipe(done / "runs/t/more/out/rows/rows.jsonl")
    folder = RunFolder("t")
    stage = folder.stage("more")
    assert len(changed_files(stage.manifest() or {}, stage, Digests(folder), fresh=True)) == 1

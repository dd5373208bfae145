"""The run's folder: the lock, publishing, what is refused before a start."""

import json
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from r1pipe.errors import BusyError, InputError
from r1pipe.run.store import DEAD_AFTER_S, RunFolder, last_progress, write_json


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder("t", tmp_path)
    made.check_writable()
    return made


def test_one_driver_per_run(folder: RunFolder, tmp_path: Path):
    with folder:
        with pytest.raises(BusyError, match=f"pid {os.getpid()}") as refused, RunFolder("t", tmp_path):
            pass
        assert "`r1pipe status t`" in (refused.value.fix or "")  # a command that is there
        other = RunFolder("u", tmp_path)
        other.check_writable()
        with other:
            pass
    with RunFolder("t", tmp_path):
        pass


def test_a_lock_left_by_a_driver_that_was_killed_is_taken_over(folder: RunFolder):
    (folder.path / ".lock").write_text(json.dumps({"pid": 1, "host": socket.gethostname(), "since": 0}))
    with folder:
        pass


def test_a_lock_from_another_machine_holds_as_long_as_it_is_touched(folder: RunFolder):
    """On a network file system flock may not reach the other machine, so the heartbeat decides."""
    lock = folder.path / ".lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": 0}))
    with pytest.raises(BusyError, match="elsewhere"), folder:
        pass
    old = lock.stat().st_mtime - DEAD_AFTER_S - 1
    os.utime(lock, (old, old))
    with folder:
        pass


def test_the_holder_touches_its_lock(folder: RunFolder):
    with folder:
        lock = folder.path / ".lock"
        os.utime(lock, (0, 0))
        folder.beat()
        assert lock.stat().st_mtime > 1e9


def test_no_disk_space_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10 * 2**20))
    with pytest.raises(InputError, match="not enough disk space: 10 MiB free"):
        folder.check_writable()


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text(
        "a file, not a folder"
    )  # root may write anywhere, so permissions would not do here
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder("t", tmp_path / "runs").check_writable()


def test_publishing_is_one_rename_with_the_manifest_last(folder: RunFolder):
    stage = folder.stage("s")
    assert stage.begin(["rows"]) == 1
    (stage.partial / "rows/rows.jsonl").write_text("{}\n")
    (stage.workdir / "half").write_text("x")
    stage.publish({"stage": "s"})
    assert (stage.out / "rows/rows.jsonl").is_file() and (stage.manifest() or {})["stage"] == "s"
    assert not stage.partial.exists() and not stage.workdir.exists()


def test_an_output_without_manifest_is_not_kept_and_workdir_is(folder: RunFolder):
    """The driver died between the rename and the manifest."""
    stage = folder.stage("s")
    stage.begin(["rows"])
    (stage.workdir / "half").write_text("x")
    stage.partial.rename(stage.out)
    stage.begin(["rows"])
    assert not stage.out.exists() and (stage.workdir / "half").exists() and (stage.partial / "rows").is_dir()


def test_retired_stages_are_numbered(folder: RunFolder):
    for number in (1, 2, 3):
        (folder.path / "s").mkdir()
        (folder.path / "s" / str(number)).write_text("")
        assert folder.retire("s") == folder.path / ".old" / f"s.{number}"
    assert (folder.path / ".old/s.2/2").exists()


def test_a_half_written_line_is_not_read(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    whole = {"time": 1.0, "done": 2, "total": 3}
    path.write_text('{"done": 1}\n' + json.dumps(whole) + '\n[3]\n{"done": "x"}\n{"do')
    assert last_progress(path) == whole
    assert last_progress(tmp_path / "none") is None


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}

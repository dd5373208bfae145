"""The fork server's rules: imports and nothing else, results as in a fresh process, and it ends with the driver."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine import alive, config, environment, stage_json, start, wait_for

from r1pipe.launch.environment import base_environment
from r1pipe.launch.forkserver import Client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    os.environ.pop("R1PIPE_FORKSERVER", None)
    client = Client(
        environment() | base_environment() | {"PYTHONPATH": environment()["PYTHONPATH"]},
        tmp_path_factory.mktemp("server") / "log",
    )
    os.environ["R1PIPE_FORKSERVER"] = "always"
    try:
        assert client.usable()
        yield client
    finally:
        os.environ.pop("R1PIPE_FORKSERVER", None)
        client.close()


def told(folder: Path, kind: str, config_: dict | None = None) -> Path:
    return stage_json(folder, kind, config_ or {}, {}, {"rows": ("prompts", folder / "out/rows")})


def forked(server: Client, folder: Path, kind: str, threads: int = 1, config_: dict | None = None) -> dict:
    child = server.fork(
        stage_json(folder, kind, config_ or {}, {}, {"rows": ("prompts", folder / "out/rows")}),
        {"OMP_NUM_THREADS": str(threads), "R1PIPE_TEST": "in the child"},
        folder / "log",
    )
    code = wait_for(lambda: (child.poll() is not None) and [child.poll()])[0]
    assert code == 0, (folder / "log").read_text()
    return json.loads((folder / "out/rows/rows.jsonl").read_text().splitlines()[0])


def test_the_server_only_imports(server: Client):
    """One thread: no pool was started by a tensor operation, an allocator or a dataset."""
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch" in maps
    assert not any(
        "nvidia-uvm" in os.readlink(f"/proc/{server.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{server.pid}/fd")
    )


def test_a_fork_imports_nothing_more_sets_its_own_environment_and_computes_in_parallel(
    server: Client, tmp_path: Path
):
    row = forked(server, tmp_path / "a", "r1pipe_fakes.torch_work", threads=2)
    assert (
        row["was_imported"] and row["tables"] and row["environment"] == "in the child" and row["threads"] == 2
    )
    assert row["parent"] == server.pid and row["cpu_s"] < 5
    assert forked(server, tmp_path / "b", "r1pipe_fakes.torch_work")["threads"] == 1
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1


@pytest.mark.slow
def test_a_fork_computes_what_a_fresh_process_does(server: Client, tmp_path: Path):

    inside = forked(server, tmp_path / "a", "r1pipe_fakes.torch_work")
    fresh = (
        environment()
        | base_environment()
        | {"PYTHONPATH": environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    )
    subprocess.run(
        [sys.executable, "-m", "r1pipe.launch.worker", str(told(tmp_path / "b", "r1pipe_fakes.torch_work"))],
        env=fresh,
        check=True,
        capture_output=True,
    )
    outside = json.loads((tmp_path / "b/out/rows/rows.jsonl").read_text().splitlines()[0])
    assert not outside["was_imported"]
    assert inside["result"] == outside["result"] and inside["result"][-1] == 0


@pytest.mark.slow
def test_a_server_that_reached_a_gpu_or_has_threads_is_not_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As an import of a stage may: its children could not use a GPU, or hang."""
    code = (
        "from r1pipe.launch.forkserver import _obstacle as why; import torch, threading; print(repr(why())); "
    )
    code += "torch.cuda._is_in_bad_fork = lambda: True; print(repr(why())); "
    code += "torch.cuda._is_in_bad_fork = lambda: False; "
    code += "held = open('nvidia-uvm', 'w'); print(repr(why())); held.close(); print(repr(why())); "
    code += (
        "stop = threading.Event(); threading.Thread(target=stop.wait).start(); print(repr(why())); stop.set()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | base_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    gpu = "'an import has reached a GPU'"
    assert done.stdout.splitlines() == ["''", gpu, gpu, "''", "'an import has started 1 threads'"], (
        done.stderr
    )


def test_what_would_end_forking_is_tried_in_a_fork(tmp_path: Path):
    (tmp_path / "quiet.py").touch()
    (tmp_path / "threaded.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    (tmp_path / "broken.py").write_text("1 / 0")
    code = (
        "import sys; from r1pipe.launch.forkserver import _harmless; "
        "print([_harmless([name]) for name in ('quiet', 'threaded', 'broken')], 'quiet' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=base_environment() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[True, False, False] False\n", done.stderr


def test_a_server_that_cannot_be_forked_says_so(server: Client, monkeypatch: pytest.MonkeyPatch):
    assert server.ready == {"ready": True, "why_not": ""} and server.usable()
    reader, writer = os.pipe()
    os.write(writer, b'{"ready": true, "why_not": "an import has reached a GPU"}\n')
    with os.fdopen(reader, "rb") as replies, os.fdopen(writer, "wb"), monkeypatch.context() as patched:
        patched.setattr(server, "ready", None)
        patched.setattr(server, "_process", SimpleNamespace(stdout=replies, poll=lambda: None))
        said: list[str] = []
        patched.setattr(server, "_note", said.append)
        assert (
            not server.usable()
            and server.alive()
            and "cannot fork" in said[0]
            and "an import has reached a GPU" in said[0]
        )


def test_a_failing_fork_leaves_the_server_alive(server: Client, tmp_path: Path):
    child = server.fork(
        told(tmp_path / "a", "r1pipe_fakes.rows", {"then": "kill"}),
        {"OMP_NUM_THREADS": "1"},
        tmp_path / "log",
    )
    assert wait_for(lambda: child.poll()) == -9
    assert server.alive()


@pytest.mark.slow
@pytest.mark.parametrize("number", [15, 9])
def test_server_and_forks_end_with_the_driver(tmp_path: Path, number: int):
    text = (
        "stages:\n"
        "  a: {kind: r1pipe_fakes.rows, outputs: {rows: a}}\n"
        "  b: {kind: r1pipe_fakes.rows, inputs: {source: a}, outputs: {rows: b}, then: sleep}\n"
    )
    config(tmp_path, text)
    driver = start(tmp_path, "run-all", "t.yaml", R1PIPE_FORKSERVER="always")
    pid = int(
        wait_for(
            lambda: (
                (tmp_path / "runs/t/b/workdir/pid.0").exists()
                and (tmp_path / "runs/t/b/workdir/pid.0").read_text()
            ),
            90,
        )
    )
    server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "r1pipe.launch.forkserver" in Path(f"/proc/{server}/cmdline").read_text()
    driver.send_signal(number)
    driver.communicate(timeout=30)
    wait_for(lambda: not alive(pid) and not alive(server))

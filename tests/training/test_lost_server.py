"""A vLLM server that dies in a rollout: a real server over HTTP, asked by TRL's own client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine import free_port
from real_server import wait_for
from stage_runs import differences, lines, run

from r1pipe.training.checkpoints import checkpoints

pytestmark = pytest.mark.slow


@contextmanager
def server(port: int, dies_at: int = 0) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("vllm_server.py")), str(port), str(dies_at)]
    process = subprocess.Popen(command)
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_server_that_dies_in_a_rollout_costs_nothing_that_was_trained(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    port = free_port()
    whole = tmp_path / "whole"
    lost = tmp_path / "lost"
    with server(port) as url:
        assert run("grpo-server", tiny_checkpoint, whole, url=url) == 0, (whole / "log").read_text()[-2000:]

    # no checkpoint would be due before the end
    seldom = {"url": url, "save_every": 100}
    with server(port, dies_at=5):
        assert run("grpo-server", tiny_checkpoint, lost, **seldom) == 1
    told = (lost / "log").read_text()
    assert "Unanswered: the vLLM server gives no answers any more: " in told and f"where: {url}" in told
    (saved,) = checkpoints(lost / "workdir/trainer")
    assert saved == max(line["step"] for line in lines(lost)) > 0, "nothing is lost"

    # it is not there when training begins
    assert run("grpo-server", tiny_checkpoint, lost, **seldom) == 1
    assert (lost / "log").read_text().count("Unanswered: the vLLM server gives no answers any more: ") == 2

    with server(port):
        assert run("grpo-server", tiny_checkpoint, lost, **seldom) == 0, (lost / "log").read_text()[-2000:]
    assert differences(lost, whole) == []

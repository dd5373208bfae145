"""`r1pipe serve`: a real request to the server that it becomes, and what it says where there is none."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from pathlib import Path

import pytest
from engine import free_port, r1pipe, start
from real_server import wait_for

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.errors import MissingToolError
from r1pipe.serving.serve import NEEDED, server_command

BASE = EMBEDDED / "base"


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="vllm is missing.*fastapi") as raised:
        server_command(BASE, host="127.0.0.1", port=8000)
    assert "r1pipe[serve]" in raised.value.fix


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refused = r1pipe(tmp_path, "serve", "folder")
    assert refused.returncode == 2 and "needs a checkpoint" in refused.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)),
    reason=f"transformers serve needs {', '.join(NEEDED)}: pip install 'r1pipe[serve]'",
)
def test_a_real_request(tmp_path: Path) -> None:
    port = free_port()
    server = start(tmp_path, "serve", "embedded:base", "--port", str(port))
    try:
        assert server.stdout and str(BASE) in server.stdout.readline()
        wait_for(port, server)
        body = {
            "model": str(BASE),
            "messages": [{"role": "user", "content": "12 + 7 - 3 = ?"}],
            "max_tokens": 60,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode()
        )
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as reply:
            said = json.loads(reply.read())["choices"][0]["message"]["content"]
        assert said and "<|user|>" not in said
    finally:
        server.terminate()
        server.wait(30)

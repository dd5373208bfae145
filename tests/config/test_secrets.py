"""Passwords and keys: refused where they would be written down, struck from what services say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from engine import config, r1pipe

from r1pipe.endpoint import Endpoint, NoAnswer
from r1pipe.errors import ConfigError

SECRET = "hunter2-is-my-key"
WRITER = """
stages:
  general-data:
    outputs: {chats: c}
    judge: {model: m, base_url: "URL", MORE}
"""
REWARD = """
stages:
  r1-zero:
    inputs: {model: "embedded:base", prompts: ./rows.jsonl}
    outputs: {checkpoint: z}
    grpo: {phases: [{steps: 1, rewards: [{name: judge, params: {model: m, base_url: "URL", MORE}}]}]}
"""


@pytest.mark.parametrize("text", [WRITER, REWARD], ids=["endpoint", "reward"])
@pytest.mark.parametrize(
    ("url", "more"),
    [
        (f"http://me:{SECRET}@127.0.0.1:1/v1", ""),
        (f"http://{SECRET}@127.0.0.1:1/v1", ""),
        (f"http://127.0.0.1:1/v1?api_key={SECRET}", ""),
        (f"http://127.0.0.1:1/v1#{SECRET}", ""),
        (f"http://[{SECRET}/v1", ""),
        ("http://127.0.0.1:1/v1", f"api_key_env: {SECRET}"),
    ],
)
def test_a_secret_in_a_config_is_refused_and_not_shown(
    tmp_path: Path, text: str, url: str, more: str
) -> None:
    """It went into config.json, stage.json and the panel."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
    config(tmp_path, text.replace("URL", url).replace("MORE", more))
    refused = r1pipe(tmp_path, "run-all", "t.yaml")
    said = refused.stdout + refused.stderr
    assert refused.returncode == 2 and SECRET not in said, said
    assert "t.yaml:" in said and any(
        text in said for text in ("api_key_env", "not the address", "not the key")
    )
    assert not (tmp_path / "runs").exists()


def test_a_secret_of_the_command_line_is_not_shown(tmp_path: Path) -> None:
    config(tmp_path, WRITER.replace("URL", "http://127.0.0.1:1/v1").replace(", MORE", ""))
    place = "stages.general-data.judge.base_url"
    refused = r1pipe(tmp_path, "run-all", "t.yaml", "--set", f"{place}=http://me:{SECRET}@127.0.0.1:1/v1")
    said = refused.stdout + refused.stderr
    assert refused.returncode == 2 and SECRET not in said and "password" in said, said


class Echo(BaseHTTPRequestHandler):
    """Repeats the key that it was sent, with the status and the place that the path names."""

    def do_POST(self) -> None:
        key = self.headers["Authorization"]
        self.rfile.read(int(self.headers["Content-Length"]))
        status = int(self.path.rpartition("/")[2])
        body = json.dumps({"said": f"your key is {key}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"/v2?key={key}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 302, 401, 404, 422])
def test_a_key_that_a_service_repeats_is_struck(
    echo: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("ECHO_KEY", SECRET)
    service = Endpoint(f"{echo}/{status}", api_key_env="ECHO_KEY", retries=0)
    try:
        said = service.answer({}, lambda reply: reply["said"])
        assert status == 200
    except (ConfigError, NoAnswer) as error:
        said = f"{error} {service.why}"
    assert SECRET not in said and "***" in said

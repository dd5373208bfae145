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

from r1pipe.config.hidden_values import refuse_secrets
from r1pipe.config.loader import load
from r1pipe.config.yamltree import read
from r1pipe.errors import ConfigError
from r1pipe.text.endpoint import Endpoint, NoAnswer

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


# name -> (a --set, which is as good as the YAML, with the secret in it)
HIDDEN = {
    "a token in TRL's options": f"stages.r1-zero.grpo.trl={{hub_token: {SECRET}}}",
    "a token under another name": f"stages.r1-zero.grpo.trl={{push_to_hub_token: {SECRET}}}",
    "a key in the fields of a request": f"stages.general-data.judge.extra={{api_key: {SECRET}}}",
    "a header in the fields of a request": f"stages.general-data.judge.extra={{headers: {{Authorization: {SECRET}}}}}",
    "a token in a reward's parameters": f"stages.r1-zero.grpo.phases.0.rewards.0.params={{token: {SECRET}}}",
    "a token for Slurm": "stages.r1-zero.launch.slurm={extra: ['--export=HF_TOKEN=hf_hunter2hunter2hunter2hunter2']}",
    "a key in a text": "stages.general-data.judge.guidelines='Use sk-hunter2-hunter2-hunter2-hunter2'",
    "a key as a name": "run=sk-hunter2-hunter2-hunter2-hunter2",
    "a key as a path": "stages.r1-zero.inputs.model=./ghp_hunter2hunter2hunter2hunter2hunter2",
    "a key of a cloud": "stages.general-data.judge.model=AKIAHUNTER2HUNTER2HU",
    "a header in a text": "stages.general-data.judge.guidelines='Bearer hunter2hunter2'",
    "a private key": "stages.general-data.judge.guidelines='-----BEGIN RSA PRIVATE KEY----- hunter2'",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_secret_that_no_field_expects_is_refused_and_not_shown(tmp_path: Path, name: str) -> None:
    """It reached config.json and stage.json."""
    both = WRITER + REWARD.replace("stages:\n", "")
    path = config(tmp_path, both.replace("URL", "http://127.0.0.1:1/v1").replace(", MORE", ""))
    with pytest.raises(ConfigError, match="holds a key or a password") as refused:
        load(path, [HIDDEN[name]])
    assert "hunter2" not in str(refused.value).lower()


def test_words_that_only_look_like_secrets_are_taken(tmp_path: Path) -> None:
    text = "a: {eos_token: x, pad_token: y, api_key_env: KEY, api_key: '', tokens: z, text: hf_ sk-1 Bearer of news}"
    refuse_secrets(read(config(tmp_path, text)), "t.yaml")


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

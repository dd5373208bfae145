"""A real server: `transformers serve` with the shipped base."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import r1pipe

BASE = Path(r1pipe.__file__).parent / "embedded" / "data" / "base"
# without do_sample this server takes the most likely token, whatever the temperature
DRAWN = {
    "generation_config": json.dumps(
        json.loads((BASE / "generation_config.json").read_text()) | {"do_sample": True, "top_k": 0}
    )
}
NEEDED = ("fastapi", "uvicorn", "openai")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    if not all(map(importlib.util.find_spec, NEEDED)):
        pytest.skip(f"transformers serve needs {', '.join(NEEDED)}: pip install 'r1pipe[serve]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        Path(sys.executable).parent / "transformers",
        "serve",
        BASE,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--reasoning",
        "off",
    ]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=stream, stderr=stream
        )
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(20)

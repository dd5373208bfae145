"""A real server: `transformers serve` with the shipped base."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import free_port

import r1pipe
from r1pipe.serving.serve import NEEDED

BASE = Path(r1pipe.__file__).parent / "embedded" / "data" / "base"
# without do_sample this server takes the most likely token, whatever the temperature
DRAWN = {
    "generation_config": json.dumps(
        json.loads((BASE / "generation_config.json").read_text()) | {"do_sample": True, "top_k": 0}
    )
}


def wait_for(port: int, process: subprocess.Popen[Any], log: Path | None = None) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log else ""
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    if not all(map(importlib.util.find_spec, NEEDED)):
        pytest.skip(f"transformers serve needs {', '.join(NEEDED)}: pip install 'r1pipe[serve]'")
    port = free_port()
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
    wait_for(port, process, log)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(20)

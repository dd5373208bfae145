"""A writer's service (tests/fixtures/http_services.py) and a stage that samples from it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"


@contextmanager
def writer(kind: str = "writer") -> Iterator[str]:
    """The address of a new service."""
    process = subprocess.Popen(
        [sys.executable, str(FIXTURES / "http_services.py"), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdin
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    process.stdin.close()
    process.wait(10)


def stats(base_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base_url}/stats") as reply:
        return json.load(reply)


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Problems a+b; those with equal sums are other rows."""
    return [
        {
            "id": f"p{i}",
            "prompt": f"What is {2 + i}+3?",
            "domain": "math",
            "language": "en",
            "answer": str(5 + i),
        }
        for i in range(count)
    ]


def sampling(base_url: str, model: str = "good", n: int = 8, **endpoint: Any) -> dict[str, Any]:
    service = {
        "base_url": base_url,
        "model": model,
        "timeout": 0.5,
        "retries": 12,
        "max_in_flight": 8,
        **endpoint,
    }
    return {
        "backend": "openai",
        "temperature": 1.0,
        "top_p": 1.0,
        "n": n,
        "max_tokens": 64,
        "endpoint": service,
    }


def write_prompts(folder: Path, count: int = 12) -> Path:
    """Write `folder`/p.jsonl with `count` rows, unless it holds them already: another rank may be reading it."""
    path = folder / "p.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows(count))
    if not path.exists() or path.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def run_stage(
    folder: Path,
    base_url: str,
    count: int = 12,
    kind: str = "rejection-sampling",
    rank: int = 0,
    world: int = 1,
    **config: Any,
) -> dict[str, float]:
    """The stage as a worker runs it, from `folder`/p.jsonl to `folder`/out; workdir stays between calls."""
    from r1pipe.artifacts import Chats, Prompts
    from r1pipe.config.registry import load_kind
    from r1pipe.here import Here
    from r1pipe.text import endpoint

    endpoint.FIRST_WAIT_S = 0.01
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    prompts = write_prompts(folder, count)
    stage = load_kind(kind)
    here = Here("test", folder / "work", folder / "metrics.jsonl", folder / "progress.jsonl", rank, world)
    settings = stage.Config.model_validate(
        stage.Config(**{"sampling": sampling(base_url), **config}).model_dump(mode="json")
    )
    return stage.run(
        settings, stage.Inputs(prompts=Prompts(prompts)), stage.Outputs(chats=Chats(folder / "out")), here
    )


def output(folder: Path) -> dict[str, str]:
    """What the stage wrote: rows, dropped, card."""
    return {path.name: path.read_text() for path in sorted((folder / "out").iterdir())}

"""Hub datasets without a hub: from the cache of `datasets`, by commit; a fake hub's answer for `data pin`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from engine import r1pipe
from pydantic import ValidationError

from r1pipe.data.sources import Source

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"revision": COMMIT, "hub": "sums"}, "OWNER/NAME"),
        ({"revision": COMMIT, "path": "x.jsonl"}, "give one of"),
    ],
)
def test_what_a_hub_source_may_not_say(given, says):
    with pytest.raises(ValidationError, match=says):
        Source.model_validate({"hub": "us/sums", **given})


@pytest.mark.parametrize(("revision", "pinned"), [(None, False), ("main", False), (COMMIT, True)])
def test_only_a_commit_pins(revision, pinned):
    assert Source(hub="us/sums", revision=revision).pinned is pinned


def test_hub_fields_without_hub_are_refused():
    with pytest.raises(ValidationError, match="revision, hub_split would be ignored"):
        Source(path=Path("x.jsonl"), revision=COMMIT, hub_split="test")


def test_from_the_cache_and_only_the_pinned_commit(tmp_path: Path):
    """`datasets` alone takes the newest commit in its cache when the hub does not answer, whatever was asked for."""
    import datasets

    (tmp_path / "sums").mkdir()
    rows = [{"question": f"{i}+1?", "answer": f"so #### {i + 1}"} for i in range(20)]
    (tmp_path / "sums/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    builder = datasets.load_dataset_builder(str(tmp_path / "sums"), cache_dir=str(tmp_path / "built"))
    builder.download_and_prepare()
    shutil.copytree(builder.cache_dir, tmp_path / "cache/us___sums/default/0.0.0" / COMMIT)
    code = f"""
import json
from r1pipe.artifacts import Prompts
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
def asked(**given):
    source = {{
        "hub": "us/sums",
        "revision": "{COMMIT}",
        "columns": {{"prompt": "question"}},
        "answer_after": "####",
        "domain": "math",
        **given,
    }}
    try:
        return [(row["prompt"], row["answer"]) for row in load(Source(**source), Prompts, 0).rows]
    except InputError as error:
        return str(error)
changes = [
    {{"count": 5}},
    {{"revision": "{OTHER}"}},
    {{"hub": "us/absent"}},
    {{"hub_split": "test"}},
    {{"columns": {{"prompt": "q"}}}},
    {{"count": 5, "revision": None}},
]
print(json.dumps([asked(**change) for change in changes]))
"""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, other, absent, split, column, newest = json.loads(done.stdout.splitlines()[-1])
    assert newest == rows
    assert f"us/sums is not pinned; these rows are of commit {COMMIT}" in done.stderr
    assert len(rows) == 5
    assert all(int(prompt.split("+")[0]) + 1 == int(answer) for prompt, answer in rows)
    assert "holds another revision" in other
    assert COMMIT in other
    assert "cannot be read" in absent
    assert "network" in absent
    assert "cannot be read" in split
    assert "no column 'q'" in column
    assert "us/sums:train:1" in column


def test_pin_prints_what_to_write(tmp_path: Path):
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith(("/api/datasets/us/sums", "/api/models/us/adder"))
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(
                json.dumps({"id": "us/sums", "sha": COMMIT} if found else {"error": "none"}).encode()
            )

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        hub = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        assert (
            r1pipe(tmp_path, "data", "pin", "us/sums", **hub).stdout == f"hub: us/sums\nrevision: {COMMIT}\n"
        )
        assert (
            r1pipe(tmp_path, "data", "pin", "--model", "us/adder", **hub).stdout == f"hub:us/adder@{COMMIT}\n"
        )
        absent = r1pipe(tmp_path, "data", "pin", "us/absent", **hub)
        assert absent.returncode == 2
        assert "does not give the dataset us/absent" in absent.stderr
    finally:
        server.shutdown()

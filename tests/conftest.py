"""Shared by many tests: a tiny random checkpoint whose tokenizer knows the tags and the chat markers, and a Here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from public_rows import DATA
from tiny_checkpoint import make_tiny_checkpoint

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a shell starts in the background ignores Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FAULTS = Path(__file__).parents[1] / "docs/faults.md"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of docs/faults.md: all cases of one, or one case."""
    table = set(re.findall(r"`([\w/]+\.py::.+?)` \|", FAULTS.read_text(encoding="utf8")))
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if table & {name, name.partition("[")[0]}:
            item.add_marker("fault")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def here(tmp_path: Path):
    from r1pipe.here import Here

    workdir = tmp_path / "workdir"
    workdir.mkdir()
    return Here("test", workdir, tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk("64k") -> a folder on a disk of its own, of this size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(size: str) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here: that needs root")
        return folder

    yield make
    # an error may still hold a file
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def shared_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the public data sets are not beside this checkout (../shared/data)")
    return DATA

"""SFT on two machines: two network namespaces joined by a veth pair, a rank in each, gloo between them.

The namespaces stand in for machines that share a file system; the hostfile launcher starts the ranks there, with
`ip netns exec` in the place of ssh. Slow; needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import alive, config, r1pipe, start, wait_for
from test_zero import losses, weights, write_chats

pytestmark = pytest.mark.slow

BASE = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data" / "base"
SFT = f"""
stages:
  cold-start:
    inputs: {{model: {BASE}, chats: ./chats.jsonl}}
    outputs: {{checkpoint: dev1}}
    sft: {{lr: 3.0e-4, batch_size: 4, max_length: 160, max_steps: 4}}
"""
SSH = """#!/bin/sh
# as ssh does: a machine's name, then one command line for its shell
exec ip netns exec "r1pipe-$1" sh -c "$2"
"""


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[str]]:
    """Two addresses, each in a namespace of its own that reaches the other."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two network namespaces need iproute2 and root")
    number = os.getpid() % 200
    addresses = [f"10.213.{number}.{i}" for i in (1, 2)]
    spaces = [f"r1pipe-{address}" for address in addresses]
    try:
        try:
            for space in spaces:
                ip("netns", "add", space)
                ip("-n", space, "link", "set", "lo", "up")
            ip(
                "link",
                "add",
                "veth0",
                "netns",
                spaces[0],
                "type",
                "veth",
                "peer",
                "name",
                "veth0",
                "netns",
                spaces[1],
            )
            for space, address in zip(spaces, addresses, strict=True):
                ip("-n", space, "addr", "add", f"{address}/24", "dev", "veth0")
                ip("-n", space, "link", "set", "veth0", "up")
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        shim = tmp_path / "ssh"
        shim.write_text(SSH)
        shim.chmod(0o755)
        yield addresses
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def test_two_machines_train_as_two_ranks_of_one_do(tmp_path: Path, machines: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        write_chats(folder, 16)
        config(folder, SFT)
    done = r1pipe(
        one,
        "run-all",
        "t.yaml",
        "--set",
        "stages.cold-start.launch={profile: ddp, num_processes: 2, threads: 1}",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (two / "hosts").write_text("".join(f"{address} slots=1\n" for address in machines))
    launch = f"{{profile: ddp, nodes: 2, num_processes: auto, threads: 1, hostfile: {two}/hosts}}"
    launched = f"stages.cold-start.launch={launch}"
    extra = {"R1PIPE_SSH": str(tmp_path / "ssh"), "GLOO_SOCKET_IFNAME": "veth0", "TP_SOCKET_IFNAME": "veth0"}
    done = r1pipe(two, "run-all", "t.yaml", "--set", launched, timeout=300, **extra)
    logs = (
        "\n".join(path.read_text()[-3000:] for path in sorted((two / "runs/t/cold-start/logs").glob("*")))
        if done.returncode
        else ""
    )
    assert done.returncode == 0, done.stderr + logs
    manifests = [
        json.loads((folder / "runs/t/cold-start/manifest.json").read_text()) for folder in (one, two)
    ]
    assert (
        manifests[0]["launched"] == manifests[1]["launched"] and manifests[1]["launched"]["world_size"] == 2
    )
    assert len(losses(two, "cold-start")) == 4
    assert losses(two, "cold-start") == pytest.approx(losses(one, "cold-start"), abs=1e-5)
    first, second = (weights(folder / "runs/t/cold-start/out/checkpoint") for folder in (one, two))
    base = weights(BASE)
    assert all((first[name] - second[name]).abs().max() < 1e-5 for name in first)
    assert any((first[name] - base[name]).abs().max() > 1e-4 for name in first)


def test_a_rank_that_fails_on_the_other_machine_ends_the_stage(tmp_path: Path, machines: list[str]) -> None:
    """Its own error is what the user sees."""
    write_chats(tmp_path)
    config(tmp_path, SFT.replace("max_length: 160", "max_length: 4"))
    (tmp_path / "hosts").write_text("".join(f"{address} slots=1\n" for address in machines))
    launch = f"{{profile: ddp, nodes: 2, num_processes: 1, threads: 1, hostfile: {tmp_path}/hosts}}"
    launched = f"stages.cold-start.launch={launch}"
    done = r1pipe(
        tmp_path,
        "run-all",
        "t.yaml",
        "--set",
        launched,
        timeout=300,
        R1PIPE_SSH=str(tmp_path / "ssh"),
        GLOO_SOCKET_IFNAME="veth0",
    )
    assert done.returncode == 2 and "fits max_length 4" in done.stderr, done.stderr


def test_a_driver_that_is_killed_leaves_no_rank_behind(tmp_path: Path, machines: list[str]) -> None:
    write_chats(tmp_path, 16)
    config(tmp_path, SFT.replace("max_steps: 4", "max_steps: 5000"))
    (tmp_path / "hosts").write_text("".join(f"{address} slots=1\n" for address in machines))
    launch = f"{{profile: ddp, nodes: 2, num_processes: 1, threads: 1, hostfile: {tmp_path}/hosts}}"
    launched = f"stages.cold-start.launch={launch}"
    driver = start(
        tmp_path,
        "run-all",
        "t.yaml",
        "--set",
        launched,
        R1PIPE_SSH=str(tmp_path / "ssh"),
        GLOO_SOCKET_IFNAME="veth0",
    )
    told = str(tmp_path / "runs/t/cold-start/stage.json")

    def ranks() -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if told in (process / "cmdline").read_text().split("\0") and alive(int(process.name)):
                    found.append(int(process.name))
        return found

    metrics = tmp_path / "runs/t/cold-start/metrics.jsonl"
    wait_for(lambda: metrics.is_file() and '"loss"' in metrics.read_text(), 240)
    assert len(ranks()) == 4, "torchrun and a rank on each machine"
    driver.kill()
    driver.communicate(timeout=30)
    wait_for(lambda: not ranks())

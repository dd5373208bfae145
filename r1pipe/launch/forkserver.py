"""A process that has already imported torch, transformers, datasets and trl, and forks workers from that state.

Importing them costs 8-10 s a process on two cores; a fork costs milliseconds. The rules, each a test:
- `process` stages only: sharded training starts fresh.
- The server only imports, and unpacks the language reward's tables. No tensor operation, thread, device or dataset: a fork after one
  parallel torch operation hangs the child, and a GPU context does not survive a fork. Where an import did such a thing (a stage of the
  user's own may, or vLLM), the server says so and nothing forks from it.
- Environment and threads are set in the child.
- It dies with the driver, also after kill -9, and its children die with it.
- Results are the same without it: R1PIPE_FORKSERVER=0.

While the server still imports, stages start as fresh processes (a light one needs no torch and should not wait);
R1PIPE_FORKSERVER=always waits for it.

Server: `python -m r1pipe.launch.forkserver`, one JSON line a request on stdin, one a reply on stdout.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What stages import, with the attributes that transformers and trl load lazily: a name not touched here is imported in each child.
PRELOAD: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("numpy", ()),
    ("torch", ()),
    ("torch.distributed", ()),
    ("safetensors.torch", ()),
    ("pyarrow.parquet", ()),
    ("datasets", ("Dataset",)),
    (
        "transformers",
        (
            "AutoConfig",
            "AutoTokenizer",
            "AutoModelForCausalLM",
            "AutoModelForSequenceClassification",
            "GenerationConfig",
            "PreTrainedTokenizerFast",
            "Qwen2Config",
            "Qwen2ForCausalLM",
            "Qwen2ForSequenceClassification",
            "Trainer",
            "TrainingArguments",
            "TrainerCallback",
            "set_seed",
        ),
    ),
    ("transformers.models.qwen2.modeling_qwen2", ()),
    ("transformers.generation.utils", ()),
    ("trl", ("GRPOConfig", "GRPOTrainer", "SFTConfig", "SFTTrainer", "RewardConfig", "RewardTrainer")),
)
OURS = (
    "text",
    "models",
    "rewards",
    "judges",
    "data",
    "generation",
    "evaluation",
    "training",
)  # every module of these packages of r1pipe


def wanted() -> bool:
    return (
        os.environ.get("R1PIPE_FORKSERVER", "1") not in ("0", "false", "no")
        and hasattr(os, "fork")
        and sys.platform != "darwin"
    )


# --- the server -------------------------------------------------------------------------------------------------------


def _preload() -> None:
    import pkgutil

    import r1pipe

    names = [(f"r1pipe.{package}", ()) for package in OURS]
    for package in OURS:
        folder = Path(r1pipe.__file__).parent / package
        names += [(module.name, ()) for module in pkgutil.walk_packages([str(folder)], f"r1pipe.{package}.")]
    for name, attributes in (*PRELOAD, *names):
        try:
            module = importlib.import_module(name)
            for attribute in attributes:
                getattr(module, attribute)
        except Exception:  # an extra that is not installed: the stage that needs it will say so itself
            traceback.print_exc()
    from r1pipe.rewards import latin

    latin.tables()


def _why_not_forked() -> str:
    """What an import has done that a fork does not survive; empty if nothing."""
    import torch

    here = Path("/proc/self")
    threads = len(list((here / "task").iterdir())) if here.is_dir() else 1
    if threads > 1:
        return f"an import has started {threads - 1} threads"
    opened = [os.readlink(file) for file in (here / "fd").iterdir() if file.is_symlink()] if here.is_dir() else []
    pid = (
        os.fork()
    )  # torch says in a fork whether it was asked for GPUs before, the driver's device whether anybody else has
    if pid == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    return (
        "an import has reached a GPU" if os.waitpid(pid, 0)[1] or any("nvidia-uvm" in name for name in opened) else ""
    )


def _child(request: dict[str, Any], server: int) -> None:
    """In the fork: become the worker. Never returns."""
    code = 3
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        with open(request["log"], "ab") as log, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        from r1pipe.launch import worker

        worker.die_with(server)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, worker.terminate)
        import faulthandler

        faulthandler.enable()
        import torch

        torch.set_num_threads(
            int(request["env"]["OMP_NUM_THREADS"])
        )  # the variable itself was read when torch was imported
        code = worker.run_rank(Path(request["stage_json"]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    from r1pipe.launch.worker import die_with

    die_with(int(os.environ["R1PIPE_PARENT"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever an import prints must not be taken for a reply
    _preload()
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every imported page in each child
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print(json.dumps({"ready": True, "why_not": _why_not_forked()}), file=replies)
    server, children, pending = os.getpid(), set(), b""
    while True:
        readable, _, _ = select.select([0, wake], [], [])
        if wake in readable:
            os.read(wake, 4096)
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    children.discard(pid)
                    print(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}), file=replies)
        if 0 in readable:
            chunk = os.read(0, 65536)
            if not chunk:  # the driver is gone or is done
                for pid in children:
                    os.killpg(pid, signal.SIGKILL)
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    os.close(wake)
                    os.close(woken)
                    _child(json.loads(line), server)
                children.add(pid)
                print(json.dumps({"forked": pid}), file=replies)


# --- the driver's side ------------------------------------------------------------------------------------------------


class Forked:
    """A child of the server, with Popen's poll()."""

    def __init__(self, client: Client, pid: int) -> None:
        self._client, self.pid = client, pid

    def poll(self) -> int | None:
        return self._client.code(self.pid)


class Client:
    """Starts the server and talks to it. Starting does not wait for the imports; the first fork does."""

    def __init__(self, environment: dict[str, str], log: Path, note: Callable[[str], None] = print) -> None:
        self._note = note
        stream = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "r1pipe.launch.forkserver"],
            env=environment | {"R1PIPE_PARENT": str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
        stream.close()
        self._pending = b""
        self._codes: dict[int, int] = {}
        self._forked: list[int] = []
        self.ready: dict[str, Any] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def usable(self) -> bool:
        """It has imported everything and can be forked; with R1PIPE_FORKSERVER=always, waits until it has."""
        always = os.environ.get("R1PIPE_FORKSERVER") == "always"
        while self.ready is None and self._read(wait=None if always else 0):
            pass
        return self.ready is not None and not self.ready["why_not"] and self.alive()

    def fork(self, stage_json: Path, environment: dict[str, str], log: Path) -> Forked:
        """Ask for a worker and wait until it exists."""
        request = {"stage_json": str(stage_json), "env": environment, "log": str(log), "cwd": os.getcwd()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while not self._forked:
            if not self._read(wait=None):
                raise RuntimeError(
                    f"the fork server ended with {self._process.wait()}; R1PIPE_FORKSERVER=0 does without it"
                )
        return Forked(self, self._forked.pop(0))

    def code(self, pid: int) -> int | None:
        while self._read(wait=0):
            pass
        if pid not in self._codes and not self.alive():
            return -signal.SIGKILL  # children die with the server
        return self._codes.get(pid)

    def _read(self, wait: float | None) -> bool:
        """Take in replies; False where there were none (or the server is gone)."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], wait)[0]:
            return False
        chunk = os.read(self._process.stdout.fileno(), 65536)
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for reply in map(json.loads, lines):
            if "ready" in reply:
                self.ready = reply
                if reply["why_not"]:
                    self._note(
                        f"stages do not fork from a process that has imported everything, so each imports again: {reply['why_not']}"
                    )
            elif "forked" in reply:
                self._forked.append(reply["forked"])
            else:
                self._codes[reply["ended"]] = reply["code"]
        return bool(chunk)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if self.ready is None:  # still importing, so there are no children either
            self._process.kill()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    from r1pipe.launch import forkserver  # not this __main__ copy: children look modules up by name

    forkserver.serve()

"""A process that has already imported torch, transformers, datasets and trl, and forks workers from that state.

Importing them takes 8-10 s in each process on two cores; a fork takes milliseconds. The rules, each with a test:

- Only stages with the profile `process` fork. Sharded training starts fresh processes.
- The server only imports, and unpacks the tables of the language reward. It starts no tensor operation, thread, device
  or dataset: a fork after one parallel torch operation hangs the child, and a GPU context does not survive a fork. If
  an import did such a thing (a stage of the user's may, or vLLM), the server says so and nothing forks from it.
- Environment and threads are set in the child.
- The server dies with the driver, also after kill -9, and its children die with it.
- Results are the same without it: R1PIPE_FORKSERVER=0.

While the server still imports, stages start as fresh processes: a light stage needs no torch and should not wait.
R1PIPE_FORKSERVER=always waits.

The server is `python -m r1pipe.launch.forkserver`. It reads one JSON line for each request on stdin, and writes one for
each reply on stdout.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

# What stages import from libraries. transformers and trl load their attributes lazily, so an attribute that is not
# named here is imported in each child again.
PRELOAD: dict[str, tuple[str, ...]] = {
    "numpy": (),
    "torch": (),
    "torch.distributed": (),
    "safetensors.torch": (),
    "pyarrow.parquet": (),
    "datasets": ("Dataset",),
    "transformers": (
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
    "transformers.models.qwen2.modeling_qwen2": (),
    "transformers.generation.utils": (),
    "trl": ("GRPOConfig", "GRPOTrainer", "SFTConfig", "SFTTrainer", "RewardConfig", "RewardTrainer"),
}

# What compiling layers imports: two seconds in each stage that does, on GPUs only.
COMPILER = ("torch._inductor.compile_fx", "torch._inductor.lowering")
GPU_DRIVER = Path("/dev/nvidiactl")

# Packages of r1pipe of which every module is imported.
OWN_PACKAGES = ("text", "models", "rewards", "judges", "data", "generation", "evaluation", "training")


def wanted() -> bool:
    """Whether this machine and the user's environment allow a fork server."""
    switched_off = os.environ.get("R1PIPE_FORKSERVER", "1") in ("0", "false", "no")
    # on macOS the system's own libraries do not survive a fork
    can_fork = hasattr(os, "fork") and sys.platform != "darwin"
    return can_fork and not switched_off


# --- the server -------------------------------------------------------------------------------------------------------


def _preload() -> None:
    import r1pipe

    modules = dict(PRELOAD)
    for package in OWN_PACKAGES:
        folder = Path(r1pipe.__file__).parent / package
        modules[f"r1pipe.{package}"] = ()
        for module in pkgutil.walk_packages([str(folder)], f"r1pipe.{package}."):
            modules[module.name] = ()

    for name, attributes in modules.items():
        try:
            module = importlib.import_module(name)
            for attribute in attributes:
                getattr(module, attribute)
        except Exception:
            # an extra that is not installed: the stage that needs it will report that itself
            traceback.print_exc()

    from r1pipe.rewards import latin

    latin.tables()
    # To ask torch for a GPU would start the driver.
    if GPU_DRIVER.exists() and _harmless(COMPILER):
        for name in COMPILER:
            importlib.import_module(name)


def _harmless(modules: Sequence[str]) -> bool:
    """Whether this process can still be forked once it has imported these: a fork of it tries."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(Exception):
            for name in modules:
                importlib.import_module(name)
            why = _obstacle()
            if why:
                print(f"{', '.join(modules)} is not imported here: {why}", file=sys.stderr, flush=True)
            code = int(bool(why))
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status == 0


def _obstacle() -> str:
    """What an import has done that does not survive a fork; empty if nothing."""
    proc = Path("/proc/self")
    open_files = []
    if proc.is_dir():
        threads = len(list((proc / "task").iterdir()))
        if threads > 1:
            return f"an import has started {threads - 1} threads"
        open_files = [os.readlink(file) for file in (proc / "fd").iterdir() if file.is_symlink()]

    # torch knows whether it has reached a GPU, and says it in a fork only; the open files show what other libraries did
    import torch

    pid = os.fork()
    if pid == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    _, torch_reached_gpu = os.waitpid(pid, 0)
    if torch_reached_gpu or any("nvidia-uvm" in name for name in open_files):
        return "an import has reached a GPU"
    return ""


def _become_worker(request: dict[str, Any], server: int) -> None:
    """In the fork: run the stage of the request as the worker would. Never returns."""
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

        import torch

        worker.show_stacks_on_request()
        # torch read the variable when it was imported, in the server
        torch.set_num_threads(int(request["env"]["OMP_NUM_THREADS"]))
        code = worker.run_rank(Path(request["stage_json"]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Server:
    """Forks a child for each request on stdin and reports the ends of its children, until stdin is closed."""

    def __init__(self, replies: TextIO) -> None:
        self._replies = replies
        self._pid = os.getpid()
        self._children: set[int] = set()
        self._pending = b""

        # A signal writes a byte into this pipe, which ends the select: SIGCHLD says that a child has ended.
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        self._reply(ready=True, why_not=_obstacle())
        while True:
            readable, _, _ = select.select([0, self._wake], [], [])
            if self._wake in readable:
                os.read(self._wake, 4096)
                self._report_ends()
            if 0 in readable:
                chunk = os.read(0, 65536)
                if not chunk:
                    # the driver has ended, or needs no more workers
                    for pid in self._children:
                        os.killpg(pid, signal.SIGKILL)
                    return
                *lines, self._pending = (self._pending + chunk).split(b"\n")
                for line in lines:
                    self._fork(line)

    def _reply(self, **fields: Any) -> None:
        print(json.dumps(fields), file=self._replies)

    def _report_ends(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._children.discard(pid)
                self._reply(ended=pid, code=os.waitstatus_to_exitcode(status))

    def _fork(self, request: bytes) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            os.close(self._wake)
            os.close(self._woken)
            _become_worker(json.loads(request), self._pid)
        self._children.add(pid)
        self._reply(forked=pid)


def serve() -> None:
    """Import everything, then serve requests until stdin is closed."""
    from r1pipe.launch.worker import die_with

    die_with(int(os.environ["R1PIPE_PARENT"]))
    # Ctrl-C reaches the whole process group; the driver decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    # what an import prints goes to the log: it must not be read as a reply
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    _preload()
    # the collector would touch every imported page in each child, and so copy it
    gc.collect()
    gc.freeze()
    _Server(replies).run()


# --- the driver's side ------------------------------------------------------------------------------------------------


class Forked:
    """A child of the server, with the poll() of subprocess.Popen."""

    def __init__(self, client: Client, pid: int) -> None:
        self._client = client
        self.pid = pid

    def poll(self) -> int | None:
        return self._client.code(self.pid)


class Client:
    """Starts the server and talks to it. Starting does not wait for the imports; the first fork does."""

    def __init__(self, environment: dict[str, str], log: Path, note: Callable[[str], None] = print) -> None:
        """
        Args:
            environment: of the server.
            log: the file for its stderr.
            note: called with what the user should know.
        """
        self._note = note
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "r1pipe.launch.forkserver"],
                env=environment | {"R1PIPE_PARENT": str(os.getpid())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )
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
        """Whether it has imported everything and can fork. With R1PIPE_FORKSERVER=always, waits until it has."""
        waits = os.environ.get("R1PIPE_FORKSERVER") == "always"
        while self.ready is None and self._read_replies(wait=None if waits else 0):
            pass
        return self.ready is not None and not self.ready["why_not"] and self.alive()

    def fork(self, stage_json: Path, environment: dict[str, str], log: Path) -> Forked:
        """Request a worker and wait until it exists."""
        request = {"stage_json": str(stage_json), "env": environment, "log": str(log), "cwd": os.getcwd()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while not self._forked:
            if not self._read_replies(wait=None):
                code = self._process.wait()
                raise RuntimeError(f"the fork server ended with {code}; R1PIPE_FORKSERVER=0 runs without it")
        return Forked(self, self._forked.pop(0))

    def code(self, pid: int) -> int | None:
        """The exit code of a child; None while it runs."""
        while self._read_replies(wait=0):
            pass
        if pid not in self._codes and not self.alive():
            return -signal.SIGKILL  # children die with the server
        return self._codes.get(pid)

    def _read_replies(self, wait: float | None) -> bool:
        """Read what the server has written; False if that is nothing, or the server is gone.

        Args:
            wait: seconds; None = until there is a reply.
        """
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], wait)
        if not readable:
            return False
        chunk = os.read(self._process.stdout.fileno(), 65536)
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return bool(chunk)

    def _take(self, reply: dict[str, Any]) -> None:
        if "ready" in reply:
            self.ready = reply
            if reply["why_not"]:
                self._note(
                    "each stage imports its libraries again, because it cannot fork from a process that has "
                    f"imported them: {reply['why_not']}"
                )
        elif "forked" in reply:
            self._forked.append(reply["forked"])
        else:
            self._codes[reply["ended"]] = reply["code"]

    def close(self) -> None:
        """End the server and its children."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self.ready is None:
            # it does not read stdin while it imports; it has no children yet
            self._process.kill()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    # not this module's copy __main__: children look modules up by name
    from r1pipe.launch import forkserver

    forkserver.serve()

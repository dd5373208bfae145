"""What every rank runs: `python -m r1pipe.launch.worker STAGE_JSON`.

It reads one file: the stage's resolved config, where its inputs are and where its outputs go. It builds Config,
Inputs, Outputs and Here, calls the stage's run, and leaves result.json (rank 0) or error.<rank>.json. What it prints
goes to the stage's log.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import math
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import r1pipe
from r1pipe.artifacts import ARTIFACTS, Artifact
from r1pipe.config.profiles import optimizer_on_cpu
from r1pipe.config.registry import Kind, load_kind
from r1pipe.errors import InputError, R1PipeError, StageError, UserCodeError, place_in_users_code
from r1pipe.here import TURN, Here, sign_with
from r1pipe.launch.watchdog import answer_requests

OWN_FOLDER = Path(r1pipe.__file__).parent
PR_SET_PDEATHSIG = 1
# A thread that draws on a GPU releases the interpreter in each of torch's operations. With Python's 5 ms, 480 of them
# beside two threads that judge took 2.4 s on a Xeon, with this 0.04 s; the two did a quarter less.
SWITCH_INTERVAL_S = 0.0001
STALE_BUILD_S = 900.0  # DeepSpeed's CPU operator builds in one to three minutes


def die_with(parent: int) -> None:
    """End this process when its parent does, also after kill -9.

    Linux: the kernel sends SIGKILL. Elsewhere a thread looks every second whether the parent is still the same.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it may have died before the request was made
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _artifact(spec: dict[str, Any]) -> Artifact:
    return ARTIFACTS[spec["type"]](Path(spec["path"]), spec["name"])


def _port(spec: dict[str, Any] | None) -> Artifact | dict[str, Artifact] | None:
    """A port of stage.json: one artifact, several by name, or None."""
    if spec is None:
        return None
    # of several, each is a mapping; one of them may be called "path"
    if isinstance(spec.get("path"), str):
        return _artifact(spec)
    return {key: _artifact(child) for key, child in spec.items()}


def _ports(specs: dict[str, Any]) -> dict[str, Any]:
    return {port: _port(spec) for port, spec in specs.items()}


def _show_warning(notes: Path, own_folders: tuple[str, ...]) -> Any:
    """What to do with a warning: it goes to the log, and if our code or a stage raises it, to the console too.

    Args:
        notes: notes.jsonl, which the console shows.
        own_folders: of r1pipe and of the stage.
    """
    show_in_log = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        show_in_log(message, category, filename, lineno, file, line)
        if issubclass(category, DeprecationWarning | FutureWarning):
            return
        if filename.startswith(own_folders) or _raiser().startswith(own_folders):
            with notes.open("a", encoding="utf8") as stream:
                stream.write(json.dumps({"note": str(message)}) + "\n")

    return show


def _raiser() -> str:
    """The file whose code raises the current warning. A warning may point at a library that has called that code."""
    frame = sys._getframe(2)
    while frame.f_back is not None and Path(frame.f_code.co_filename).name in (
        "warnings.py",
        "_py_warnings.py",
    ):
        frame = frame.f_back
    return frame.f_code.co_filename


def _finite(metrics: Any, kind: Kind) -> dict[str, float | None]:
    """The metrics of a stage as JSON has them: what is not finite becomes null."""
    try:
        numbers = {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError):
        returned = f"{type(metrics).__name__} {metrics!r:.60}"
        raise UserCodeError(
            f"{kind.module.__name__}.run returned a {returned}, not dict[str, float]",
            str(kind.source),
            "return the metrics of summary.json: name -> number",
        ) from None
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def run_rank(file: Path) -> int:
    """Run the stage that stage.json describes, as the rank that the environment names.

    Returns:
        The exit code of the process.
    """
    stage = json.loads(file.read_text(encoding="utf8"))
    rank = int(os.environ.get("RANK", "0"))
    folder = file.parent
    error_json = folder / f"error.{rank}.json"
    # A stage seeds its draws itself, after its imports, which may draw too. This is for what it forgot.
    random.seed(stage["config"].get("seed", 0))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        _run(stage, folder, rank)
    except R1PipeError as error:
        traceback.print_exc()
        error_json.write_text(_as_json(error), encoding="utf8")
        return error.exit_code
    except OSError as error:
        traceback.print_exc()
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            refused = InputError(
                f"the system refuses to read or write this: {error.strerror}",
                str(error.filename),
                "change its permissions; then the same command goes on",
            )
            error_json.write_text(_as_json(refused), encoding="utf8")
            return refused.exit_code
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            disk_full = InputError(
                "no disk space is left",
                str(error.filename or folder),
                "free some and start again: the stage continues from where it was",
            )
            # not even the error may fit
            with contextlib.suppress(OSError):
                error_json.write_text(_as_json(disk_full), encoding="utf8")
            return 3
        return _other_error(error, stage["kind"], error_json)
    except Exception as error:
        traceback.print_exc()
        return _other_error(error, stage["kind"], error_json)
    return 0


def _other_error(error: Exception, kind: str, error_json: Path) -> int:
    """The exit code of an error that is none of ours; one that the user's own code raised is written down as theirs."""
    # Memory runs out in whatever code is running.
    if "Memory" in type(error).__name__:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        error_json.write_text(_as_json(_no_memory(reason)), encoding="utf8")
        return 3
    place = place_in_users_code(error)
    if not place:
        return 3
    own = UserCodeError(
        f"{kind} raised {type(error).__name__}: {error}",
        place,
        "correct it; the stage's log has the traceback, and the same command goes on from what was saved",
    )
    error_json.write_text(_as_json(own), encoding="utf8")
    return own.exit_code


def _no_memory(reason: str) -> StageError:
    return StageError(
        f"memory ran out: {reason[:300]}",
        fix="smaller batches, shorter rows, or the work spread over more GPUs; the stage's log says where it was\n"
        "if another program uses the GPU (nvidia-smi), end it; the same command goes on from what was saved",
    )


def _run(stage: dict[str, Any], folder: Path, rank: int) -> None:
    kind = load_kind(stage["kind"], tuple(stage["search"]))
    warnings.simplefilter("default", UserWarning)
    if rank == 0:
        own_folders = (str(OWN_FOLDER), str(kind.source.parent))
        warnings.showwarning = _show_warning(folder / "notes.jsonl", own_folders)

    config = kind.Config.model_validate(stage["config"])
    here = Here(
        stage=stage["stage"],
        workdir=Path(stage["workdir"]),
        metrics_path=Path(stage["metrics"]),
        progress_path=Path(stage["progress"]),
        rank=rank,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        resumed=stage["resumed"],
        profile=config.launch.profile,
        optimizer_on_cpu=optimizer_on_cpu(config.launch),
        isolation=stage["isolation"],
        hang_minutes=config.launch.hang_minutes,
        turn=folder / TURN if stage["ahead"] else None,
    )
    sign_with(folder / f"alive.{rank}")
    if config.launch.nodes > 1:
        threading.Thread(target=answer_requests, args=(folder,), daemon=True).start()
    inputs = kind.Inputs(**_ports(stage["inputs"]))
    outputs = kind.Outputs(**_ports(stage["outputs"]))
    began = time.time()
    metrics = kind.run(config, inputs, outputs, here)
    _leave_group()
    if rank == 0:
        result = {"metrics": _finite(metrics, kind), "launched": here.launched, "began": began}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf8")


def _as_json(error: R1PipeError) -> str:
    return json.dumps(
        {"class": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix},
    )


def _leave_group() -> None:
    """Take down torch.distributed if the stage set it up: without it NCCL and gloo complain and may hang at exit.

    Only after success: a rank that failed would wait here for ranks that wait for it.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _release_stale_build() -> None:
    """Remove the lock of an operator build that was killed: torch would silently wait for it for ever."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    for lock in root.glob("**/deepspeed_shm_comm/lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > STALE_BUILD_S:
                lock.unlink()
                print(f"removed {lock}: it was left by a build that was killed", file=sys.stderr)


def show_stacks_on_request() -> None:
    """The stacks of all threads go to the log: at a crash, and when the watchdog asks by SIGUSR2.

    Both are written by C code, which needs no turn of the interpreter.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)


def terminate(*_: object) -> None:
    """SIGTERM as an exception, so that locks and temporary files are released on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> None:
    if "R1PIPE_PARENT" in os.environ:
        die_with(int(os.environ["R1PIPE_PARENT"]))
    show_stacks_on_request()
    signal.signal(signal.SIGTERM, terminate)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        _release_stale_build()
    try:
        code = run_rank(Path(sys.argv[1]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 3
    sys.stdout.flush()
    sys.stderr.flush()
    # thread pools of libraries may keep an interpreter from ending
    os._exit(code)


if __name__ == "__main__":
    main()

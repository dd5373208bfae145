"""What every rank runs: `python -m r1pipe.launch.worker STAGE_JSON`.

Reads one file (the stage's resolved config, where its inputs lie and where its outputs go), builds Config, Inputs, Outputs and
Here, calls the stage's run, and leaves result.json (rank 0) or error.<rank>.json. Everything it prints goes to the stage's log.
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

from r1pipe.artifacts import ARTIFACTS, Artifact
from r1pipe.config.profiles import optimizer_on_cpu
from r1pipe.config.registry import STAGES, Kind, load_kind
from r1pipe.errors import InputError, R1PipeError
from r1pipe.here import Here

PR_SET_PDEATHSIG = 1
STALE_BUILD_S = 900.0  # DeepSpeed's CPU operator builds in one to three minutes


def die_with(parent: int) -> None:
    """End this process when its parent does, also after kill -9.

    Linux: the kernel sends SIGKILL. Elsewhere a thread looks every second whether the parent is still the same.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request was made
            os._exit(128 + signal.SIGKILL)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _artifact(spec: dict[str, Any]) -> Artifact:
    return ARTIFACTS[spec["type"]](Path(spec["path"]), spec["name"])


def _ports(specs: dict[str, Any]) -> dict[str, Any]:
    """stage.json's ports as artifacts: one, several by name, or None."""
    return {
        port: None
        if spec is None
        else _artifact(spec)
        if "path" in spec and isinstance(spec["path"], str)
        else {key: _artifact(one) for key, one in spec.items()}
        for port, spec in specs.items()
    }


def _show_warning(notes: Path, ours: tuple[str, ...]) -> Any:
    """Warnings go to the log; those that r1pipe and stages raise also to notes.jsonl, which the console shows."""
    plain = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        plain(message, category, filename, lineno, file, line)
        if (filename.startswith(ours) or _raiser().startswith(ours)) and not issubclass(
            category, DeprecationWarning | FutureWarning
        ):
            with notes.open("a", encoding="utf8") as stream:
                stream.write(json.dumps({"note": str(message)}) + "\n")

    return show


def _raiser() -> str:
    """The file whose code warns just now; what a warning points at may be a library that called it."""
    frame = sys._getframe(2)
    while frame.f_back is not None and Path(frame.f_code.co_filename).name in ("warnings.py", "_py_warnings.py"):
        frame = frame.f_back
    return frame.f_code.co_filename


def _clean(metrics: Any, kind: Kind) -> dict[str, float]:
    assert isinstance(metrics, dict), (
        f"{kind.module.__name__}.run returned {type(metrics).__name__}, not dict[str, float]"
    )
    clean = {}
    for name, value in metrics.items():
        number = float(value)
        clean[str(name)] = number if math.isfinite(number) else None
    return clean  # type: ignore[return-value]


def run_rank(file: Path) -> int:
    """Run the stage that `file` describes as the rank that the environment says; the exit code."""
    told = json.loads(file.read_text(encoding="utf8"))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = file.parent
    error_json = folder / f"error.{rank}.json"
    random.seed(
        told["config"].get("seed", 0)
    )  # a stage seeds what it draws from, after its imports (they draw too); this is for what forgot
    try:
        kind = load_kind(told["kind"], tuple(told["search"]))
        warnings.simplefilter("default", UserWarning)
        if rank == 0:
            warnings.showwarning = _show_warning(
                folder / "notes.jsonl", (str(Path(__file__).parent), str(STAGES), str(kind.source.parent))
            )
        config = kind.Config.model_validate(told["config"])
        workdir = Path(told["workdir"])
        here = Here(
            stage=told["stage"],
            workdir=workdir,
            metrics_path=Path(told["metrics"]),
            progress_path=Path(told["progress"]),
            rank=rank,
            world_size=world,
            resumed=told["resumed"],
            profile=config.launch.profile,
            optimizer_on_cpu=optimizer_on_cpu(config.launch),
            isolation=told["isolation"],
        )
        metrics = kind.run(config, kind.Inputs(**_ports(told["inputs"])), kind.Outputs(**_ports(told["outputs"])), here)
        _leave_group()
        if rank == 0:
            (folder / "result.json").write_text(
                json.dumps({"metrics": _clean(metrics, kind), "launched": here.launched}), encoding="utf8"
            )
    except R1PipeError as error:
        traceback.print_exc()
        error_json.write_text(
            json.dumps({"class": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}),
            encoding="utf8",
        )
        return error.exit_code
    except OSError as error:
        traceback.print_exc()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = InputError(
                "no disk space is left",
                str(error.filename or folder),
                "free some and start again: the stage goes on from where it was",
            )
            _try_write(error_json, {"class": "InputError", "what": full.what, "where": full.where, "fix": full.fix})
        return 3
    except Exception:
        traceback.print_exc()
        return 3
    return 0


def _try_write(path: Path, value: dict[str, str]) -> None:
    """On a full disk even the error may not fit."""
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(value), encoding="utf8")


def _leave_group() -> None:
    """Take down torch.distributed if the stage set it up: without it NCCL and gloo complain and may hang at exit.

    Only after success: a rank that failed would wait here for ranks that wait for it.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _release_stale_build() -> None:
    """Remove the lock of an operator build that was killed: torch would wait for it for ever, without a word."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    for lock in root.glob("**/deepspeed_shm_comm/lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > STALE_BUILD_S:
                lock.unlink()
                print(f"removed {lock}: it was left by a build that was killed", file=sys.stderr)


def terminate(*_: object) -> None:
    """SIGTERM as an exception, so that locks and temporary files on the way out are released."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> None:
    if "R1PIPE_PARENT" in os.environ:
        die_with(int(os.environ["R1PIPE_PARENT"]))
    faulthandler.enable()
    signal.signal(signal.SIGTERM, terminate)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        _release_stale_build()
    try:
        code = run_rank(Path(sys.argv[1]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # thread pools of the libraries may hold an interpreter that is done


if __name__ == "__main__":
    main()

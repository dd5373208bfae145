"""How busy the GPUs are while a stage runs, its start included: NVML's utilisation, each second.

    with GpuWatch() as watch:
        ...
    watch.seen()  # {"busy": 0.83, "memory_gib": 41.2}

Utilisation is the share of a second in which at least one kernel ran. It says when a GPU waits; how well the kernels
use it is what MFU in metrics.jsonl says. Without a GPU, or without nvidia-smi, nothing is seen.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from types import TracebackType

from r1pipe.config.machine import gpus

QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-l", "1")


class GpuWatch:
    """Listens to nvidia-smi, in a thread, for as long as the block runs."""

    def __init__(self) -> None:
        self._busy: list[float] = []
        self._memory_gib: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> GpuWatch:
        ids = gpus()
        if not ids:
            return self
        # If this process is killed, nvidia-smi ends at its next line: nobody reads it.
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [*QUERY, "-i", ",".join(ids)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.note(line)

    def note(self, line: str) -> None:
        """Take a line of nvidia-smi: percent, MiB. What a device does not report ("[N/A]") is left out."""
        with contextlib.suppress(ValueError):
            busy, memory_mib = map(float, line.split(","))
            self._busy.append(busy / 100)
            self._memory_gib.append(memory_mib / 1024)

    def seen(self) -> dict[str, float]:
        """`busy`, the mean over seconds and GPUs, 0 to 1, and `memory_gib`, the most that a GPU had in use, by all
        processes; empty if nothing was seen."""
        if not self._busy:
            return {}
        busy = sum(self._busy) / len(self._busy)
        return {"busy": round(busy, 3), "memory_gib": round(max(self._memory_gib), 2)}

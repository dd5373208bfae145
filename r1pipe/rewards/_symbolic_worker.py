"""Compares answers with math-verify, one pair at a time; started by symbolic.py as a process of its own, never imported.

Reads lines {"gold", "found", "timeout"} from stdin and writes lines {"verdict": 1.0 | 0.0 | null, "why"} to stdout. A first
process imports math-verify and then only forks: a comparison that no signal handler can interrupt (one long C call) is
killed by the kernel with its process, and the next one is there in milliseconds, without importing anything again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any


class OutOfTime(BaseException):  # not an Exception: math-verify catches those and would go on
    """The pair used up its CPU time."""


def on_alarm(_signum: int, _frame: Any) -> None:
    raise OutOfTime


def serve(lines: Any, out: Any) -> None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    latex = LatexExtractionConfig(boxed_match_priority=0)

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> list[Any]:
        # Everything comes between dollar signs, so the slower search for plain expressions is needed where LaTeX fails only.
        for config in ((latex,), (latex, ExprExtractionConfig())):
            if found := parse(f"${text}$", extraction_config=config, parsing_timeout=0):
                return found
        return []

    def verdict(gold: str, found: str) -> tuple[float | None, str]:
        right = parsed(gold)
        if not right:
            return None, "the gold answer does not parse"
        given = parsed(found)
        if not given:
            return 0.0, ""
        # Interval against inequality is the one comparison that math-verify leaves off by default.
        return float(verify(right, given, timeout_seconds=None, allow_set_relation_comp=True)), ""

    for line in lines:
        job = json.loads(line)
        # At the limit a handler may still rescue the process; half as much again, and the kernel ends it.
        signal.setitimer(signal.ITIMER_VIRTUAL, job["timeout"])
        signal.setitimer(signal.ITIMER_PROF, job["timeout"] * 1.5 + 0.2)
        try:
            value, why = verdict(job["gold"], job["found"])
        except OutOfTime:
            value, why = None, "out of time"
        except (RecursionError, MemoryError) as error:
            value, why = None, type(error).__name__
        except Exception:  # math-verify raises whatever sympy raises on odd input: then the answer is not shown to be right
            value, why = 0.0, ""
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(json.dumps({"verdict": value, "why": why}) + "\n")
        out.flush()


def main() -> None:
    import math_verify  # noqa: F401  imported before the fork, so that a fresh child has it

    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever a library prints must not become a verdict
    while True:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGVTALRM, on_alarm)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            # Unbuffered reading: a line that a dying child has read ahead would be lost.
            serve(iter(lambda: _line(0), b""), out)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        out.write(json.dumps({"verdict": None, "why": f"ended by signal {os.WTERMSIG(status)}"}) + "\n")
        out.flush()


def _line(fd: int) -> bytes:
    # The parent sends one line and waits for its verdict, so a read never returns more than one line.
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b""
        data += chunk
    return data


if __name__ == "__main__":
    main()

"""Compares answers with math-verify, one pair at a time; started by symbolic.py as a process of its own, never imported.

Reads lines {"gold", "found", "timeout"} from stdin and writes lines {"verdict": 1.0 | 0.0 | null, "why"} to stdout. A first
process imports math-verify and then only forks: a comparison that no signal handler can interrupt (one long C call) is
killed by the kernel with its process, and the next one is there in milliseconds, without importing anything again. A process
that has served for a while becomes the next one to fork, so that its caches outlive such a kill.

The argument --plain leaves math-verify as it is (_symbolic_speed.py), which is for tests.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

_BECOME_PARENT_AFTER = (32, 256, 2048)  # pairs; each process that waits costs some memory
# The parser learns its grammar from what it sees, 10 to 100 ms for each kind of expression: some of each kind, before the first pair.
_WARM_UP = (
    r"x^2+2x-1", r"(1,2),(-3,\frac{1}{2})", r"\frac{\sqrt{3}}{2}", r"x=2\pi,y=-1", r"(-\infty,3]\cup[4,5)", r"f(x)=2x+1", r"2^{10}\cdot 3",
    r"\left(\frac{1}{3},-\sqrt[3]{2}\right)", r"\sin x+\log_2 3", r"x\in(1,2)", r"-\frac{a+b}{c}", r"\{1,2\}",
)  # fmt: skip


class OutOfTime(BaseException):  # not an Exception: math-verify catches those and would go on
    """The pair used up its CPU time."""


def on_alarm(_signum: int, _frame: Any) -> None:
    raise OutOfTime


class Judge:
    """math-verify, with what it parsed."""

    def __init__(self) -> None:
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        latex = LatexExtractionConfig(boxed_match_priority=0)
        self.verify = verify

        @lru_cache(maxsize=4096)
        def parsed(text: str) -> list[Any]:
            # math-verify reads no formula of several lines.
            # Everything comes between dollar signs, so the slower search for plain expressions is needed where LaTeX fails only.
            for config in ((latex,), (latex, ExprExtractionConfig())):
                if found := parse(f"${text.replace(chr(10), ' ')}$", extraction_config=config, parsing_timeout=0):
                    return found
            return []

        self.parsed = parsed

    def verdict(self, gold: str, found: str) -> tuple[float | None, str]:
        right = self.parsed(gold)
        if not right:
            return None, "the gold answer does not parse"
        given = self.parsed(found)
        if not given:
            return 0.0, ""
        # Interval against inequality is the one comparison that math-verify leaves off by default.
        return float(self.verify(right, given, timeout_seconds=None, allow_set_relation_comp=True)), ""


def serve(judge: Judge, lines: Any, out: Any) -> None:
    for line in lines:
        job = json.loads(line)
        # Just before the limit a handler may still rescue the process with its caches; at the limit the kernel ends it.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.95 * job["timeout"])
        signal.setitimer(signal.ITIMER_PROF, job["timeout"])
        try:
            value, why = judge.verdict(job["gold"], job["found"])
        except OutOfTime:
            value, why = None, "out of time"
        except (RecursionError, MemoryError) as error:
            value, why = None, type(error).__name__
        except (
            Exception
        ):  # math-verify raises whatever sympy raises on odd input: then the answer is not shown to be right
            value, why = 0.0, ""
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
        answer(out, value, why)


def answer(out: Any, value: float | None, why: str) -> None:
    out.write(json.dumps({"verdict": value, "why": why}) + "\n")
    out.flush()


def fork_servers(out: Any) -> None:
    """Fork a process that serves, and another one whenever that is killed. Returns in the process that serves."""
    gc.collect()
    gc.freeze()  # what is there by now stays, and looking through it again would copy it into every child
    while True:
        child = os.fork()
        if not child:
            return
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            os._exit(os.waitstatus_to_exitcode(status))
        answer(out, None, f"ended by signal {os.WTERMSIG(status)}")


def main() -> None:
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever a library prints must not become a verdict
    judge = Judge()
    if "--plain" not in sys.argv:
        sys.path.append(
            str(Path(__file__).parent)
        )  # behind the library: this folder holds modules named like the standard ones
        from _symbolic_speed import install

        install()
        for text in _WARM_UP:
            judge.parsed(text)
        gc.set_threshold(50_000, 20, 50)
    signal.signal(signal.SIGVTALRM, on_alarm)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    # Unbuffered reading: a line that a dying child has read ahead would be lost.
    lines = iter(_line, b"")
    for count in (*_BECOME_PARENT_AFTER, None):
        fork_servers(out)
        serve(judge, islice(lines, count), out)
    os._exit(0)


def _line() -> bytes:
    # The parent sends one line and waits for its verdict, so a read never returns more than one line.
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            os._exit(0)
        data += chunk
    return data


if __name__ == "__main__":
    main()

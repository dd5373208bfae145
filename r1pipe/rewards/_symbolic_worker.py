"""Compares answers with math-verify, one pair at a time, in a process of its own; symbolic.py starts it.

Why a process: a comparison may hang in one long C call, which no signal handler can interrupt; only the kernel can end
it, together with its process. Importing math-verify costs seconds, so the first process imports it and then only forks:
when a fork is killed, the next one serves within milliseconds. A fork that has served for a while becomes the process
that forks, so that what its caches have learnt outlives such a kill.

Reads lines {"gold", "answer", "timeout"} from stdin and writes lines {"verdict": 1.0 | 0.0 | null, "why"} to stdout.
The argument --plain leaves math-verify as it is (without _symbolic_speed.py), for tests.
"""

from __future__ import annotations

import contextlib
import ctypes
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

# A fork becomes the process that forks after this many pairs; each process that waits costs some memory.
_BECOME_PARENT_AFTER = (32, 256, 2048)
_MEMORY_BYTES = 4 << 30
_PR_SET_PDEATHSIG = 1
# The parser learns its grammar from the texts it sees, 10 to 100 ms for each kind of expression: some of each kind, to
# be parsed before the first pair.
_WARM_UP = (
    r"x^2+2x-1",
    r"(1,2),(-3,\frac{1}{2})",
    r"\frac{\sqrt{3}}{2}",
    r"x=2\pi,y=-1",
    r"(-\infty,3]\cup[4,5)",
    r"f(x)=2x+1",
    r"2^{10}\cdot 3",
    r"\left(\frac{1}{3},-\sqrt[3]{2}\right)",
    r"\sin x+\log_2 3",
    r"x\in(1,2)",
    r"-\frac{a+b}{c}",
    r"\{1,2\}",
)


# Not an Exception: math-verify catches those and would go on.
class OutOfTime(BaseException):
    """The pair used up its CPU time."""


def on_alarm(_signum: int, _frame: Any) -> None:
    raise OutOfTime


class Comparer:
    """math-verify, with a cache of parsed answers."""

    def __init__(self) -> None:
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        latex = LatexExtractionConfig(boxed_match_priority=0)
        # The search for plain expressions is slower. Everything is given between dollar signs, so it is needed only
        # where LaTeX fails.
        configs = ((latex,), (latex, ExprExtractionConfig()))
        self.verify = verify

        @lru_cache(maxsize=4096)
        def parsed(text: str) -> list[Any]:
            # math-verify does not read formulas of several lines.
            one_line = text.replace("\n", " ")
            for config in configs:
                expressions = parse(f"${one_line}$", extraction_config=config, parsing_timeout=0)
                if expressions:
                    return expressions
            return []

        self.parsed = parsed

    def verdict(self, gold: str, answer: str) -> tuple[float | None, str]:
        """(verdict, why there is none)."""
        right = self.parsed(gold)
        if not right:
            return None, "the gold answer does not parse"
        given = self.parsed(answer)
        if not given:
            return 0.0, ""
        # Interval against inequality is the one comparison that math-verify leaves out by default.
        return float(
            self.verify(
                right,
                given,
                timeout_seconds=None,
                allow_set_relation_comp=True,
            )
        ), ""


def serve(
    comparer: Comparer,
    lines: Any,
    out: Any,
) -> None:
    for line in lines:
        job = json.loads(line)
        # Just before the limit a handler may still rescue the process with its caches; at the limit the kernel ends it.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.95 * job["timeout"])
        signal.setitimer(signal.ITIMER_PROF, job["timeout"])
        try:
            value, why = comparer.verdict(job["gold"], job["answer"])
        except OutOfTime:
            value, why = None, "out of time"
        except (RecursionError, MemoryError) as error:
            value, why = None, type(error).__name__
        except Exception:
            # math-verify raises whatever sympy raises on odd input: the answer is not shown to be right then.
            value, why = 0.0, ""
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
        write_verdict(out, value, why)


def write_verdict(
    out: Any,
    value: float | None,
    why: str,
) -> None:
    out.write(json.dumps({"verdict": value, "why": why}) + "\n")
    out.flush()


def fork_servers(out: Any) -> None:
    """Fork a process that serves, and another one whenever that is killed. Returns in the process that serves."""
    gc.collect()
    # The objects of now stay for ever; if the collector looked through them again, every fork would copy their memory.
    gc.freeze()
    while True:
        child = os.fork()
        if not child:
            end_with_parent()
            return
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            os._exit(os.waitstatus_to_exitcode(status))
        write_verdict(out, None, f"ended by signal {os.WTERMSIG(status)}")


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends; a fork does not inherit that."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    end_with_parent()
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    # A library's print must not become a verdict.
    os.dup2(2, 1)

    comparer = Comparer()
    if "--plain" not in sys.argv:
        # At the end of the path: this folder holds modules named like the standard library's.
        sys.path.append(str(Path(__file__).parent))
        from _symbolic_speed import install

        install()
        for text in _WARM_UP:
            comparer.parsed(text)
        # sympy makes many objects and few cycles: the collector runs less often.
        gc.set_threshold(50_000, 20, 50)

    signal.signal(signal.SIGVTALRM, on_alarm)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))

    # Read without a buffer: a line that a dying fork had read ahead would be lost.
    lines = iter(read_line, b"")
    for count in (*_BECOME_PARENT_AFTER, None):
        fork_servers(out)
        serve(comparer, islice(lines, count), out)
    os._exit(0)


def read_line() -> bytes:
    # symbolic.py sends one line and waits for its verdict, so a read never returns more than one line.
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            os._exit(0)
        data += chunk
    return data


if __name__ == "__main__":
    main()

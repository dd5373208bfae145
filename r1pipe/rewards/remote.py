"""Programs run by a service in the place of our own sandbox: Piston's protocol, or SandboxFusion's.

For machines without bubblewrap, and for languages or packages that a service has. The service is the user's: what it isolates, and
whether a program reaches the network or another's files, is for its operator to say.

What is weaker than r1pipe/rewards/sandbox.py: tests that call functions run in the program's own process. A program that leaves early,
prints a verdict, redefines `assert`'s error or replaces builtins after the fact does not pass, since the verdict needs a random word
that is read from stdin before the program starts, but one that searches frames and memory for it can. Programs judged by their
output (`stdio`) are compared here, so there is nothing to forge.
"""

from __future__ import annotations

import inspect
import json
import secrets
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from r1pipe.endpoint import Unreadable, endpoint
from r1pipe.errors import ConfigError
from r1pipe.rewards.isolation import Limits
from r1pipe.rewards.sandbox import CodeJob, check_shape, same_output
from r1pipe.rewards.sandboxed.checks import alike

PATHS = {"piston": "/api/v2/execute", "sandboxfusion": "/run_code"}

# What runs on the other side. The program and the tests come through stdin, so that no file and no traceback shows them.
HARNESS = (
    "import copy, json, math, re, sys\n"
    + textwrap.dedent(inspect.getsource(alike))
    + """

def run(job, say):
    names = {"__name__": "__main__"}
    tests = job["tests"]
    setup = compile(tests.get("setup") or "", "<tests>", "exec")
    try:
        exec(setup, names)
    except NameError:  # it uses what the program defines
        exec(compile(job["program"], "<program>", "exec"), names)
        exec(setup, names)
    else:
        exec(compile(job["program"], "<program>", "exec"), names)
    passed = total = 0
    if tests["kind"] == "asserts":
        for source in tests["asserts"]:
            total += 1
            try:
                exec(compile(source, "<tests>", "exec"), names)
                passed += 1
            except Exception:
                pass
    elif tests["kind"] == "check":
        total = 1
        candidate = names[job["entry_point"]]
        exec(compile(tests["code"], "<tests>", "exec"), names)
        names["check"](candidate)
        passed = 1
    else:
        reference = {"__name__": "reference"}
        if tests.get("reference"):
            exec(compile(tests["reference"], "<reference>", "exec"), reference)
        for i, args in enumerate(tests["inputs"]):
            try:
                right = reference[job["entry_point"]](*copy.deepcopy(args)) if tests.get("reference") else tests["outputs"][i]
            except Exception:
                continue
            total += 1
            try:
                value = names[job["entry_point"]](*copy.deepcopy(args))
                if not tests.get("reference"):
                    value = json.loads(json.dumps(value, default=list))
                passed += bool(value) if isinstance(right, re.Match) else alike(value, right, float(tests.get("atol") or 0))
            except Exception:
                pass
    say(passed, total)


def main():
    job, out, dump = json.loads(sys.stdin.read()), sys.stdout, json.dumps
    word = job.pop("word")
    run(job, lambda passed, total: out.write("\\n" + dump({"word": word, "passed": passed, "total": total}) + "\\n"))


main()
"""
)


def run_remote(
    jobs: Sequence[CodeJob],
    limits: Limits,
    *,
    partial: bool,
    kind: Literal["piston", "sandboxfusion"],
    url: str,
    version: str = "*",
    api_key_env: str | None = None,
    timeout: float | None = None,
    retries: int = 4,
    max_in_flight: int = 16,
) -> list[float | None]:
    """Verdicts as sandbox.run_tests gives them: 0.0 also where a program runs out of time or memory, None where the service has none.

    Args:
        jobs: programs with their tests.
        limits: for each run: cpu_s becomes the service's time limit, memory_mb its memory limit (Piston only).
        partial: the share of the tests that pass, in place of all or nothing.
        kind: which protocol.
        url: of the service, without the protocol's path: http://127.0.0.1:2000
        version: of Python, as Piston names its runtimes; * = what it has.
        api_key_env: name of the environment variable with the key; none = no key.
        timeout: seconds for one request; none = the program's limit and 10 s.
        retries: further tries after a timeout, 429 or 5xx.
        max_in_flight: requests at a time.

    Raises:
        ConfigError: an unknown kind, or the service says that the address or key is wrong.
        InputError: tests of a shape that is not known.
    """
    if kind not in PATHS:
        raise ConfigError(f"there is no executor of kind '{kind}'", fix=f"kind is one of {', '.join(PATHS)}")
    service = endpoint(
        url.rstrip("/") + PATHS[kind], api_key_env, timeout or limits.wall_s + 10.0, retries, max_in_flight
    )
    requests: list[tuple[int, dict[str, Any], str]] = []  # job, body, the output or the word that it must give
    broken = {number for number, job in enumerate(jobs) if _broken(job)}
    for number, job in enumerate(jobs):
        if number in broken:
            continue
        seconds = min(limits.cpu_s, float(job.tests.get("timeout") or limits.cpu_s))
        if job.tests["kind"] == "stdio":
            pairs = zip(job.tests["inputs"], job.tests["outputs"], strict=True)
            requests += [
                (number, _body(kind, job.program, given, seconds, limits, version), expected)
                for given, expected in pairs
            ]
        else:
            word = secrets.token_hex(16)
            told = json.dumps(
                {
                    "program": job.program,
                    "tests": dict(job.tests),
                    "entry_point": job.tests.get("entry_point") or job.entry_point,
                    "word": word,
                }
            )
            requests.append((number, _body(kind, HARNESS, told, seconds, limits, version), word))
    replies = service.ask_all([body for _, body, _ in requests], _READ[kind])
    passed: list[list[float | None]] = [[] for _ in jobs]
    for (number, _, wanted), reply in zip(requests, replies, strict=True):
        passed[number].append(None if reply is None else _verdict(jobs[number].tests, reply, wanted))
    return [_together(shares, partial) for shares in passed]


def _broken(job: CodeJob) -> bool:
    """Whether the tests themselves do not compile: a verdict on the program would be an invention."""
    check_shape(job)
    sources = [
        job.tests.get("setup"),
        job.tests.get("code"),
        job.tests.get("reference"),
        *(job.tests.get("asserts") or []),
    ]
    try:
        for source in sources:
            compile(source or "", "<tests>", "exec")
    except (SyntaxError, ValueError):
        return True
    return False


def _body(kind: str, source: str, stdin: str, seconds: float, limits: Limits, version: str) -> dict[str, Any]:
    if kind == "piston":
        return {
            "language": "python",
            "version": version,
            "files": [{"name": "main.py", "content": source}],
            "stdin": stdin,
            "run_timeout": round(1000 * seconds),  # milliseconds
            "run_memory_limit": limits.memory_mb << 20,  # bytes
        }
    return {"code": source, "language": "python", "stdin": stdin, "run_timeout": seconds}


def _read_piston(reply: Any) -> tuple[bool, str]:
    """(it ended by itself, with status 0; what it printed)."""
    run = reply.get("run") if isinstance(reply, Mapping) else None
    if not isinstance(run, Mapping) or "stdout" not in run:
        raise Unreadable(f"no reply of Piston's: {str(reply)[:200]}")
    return run.get("code") == 0 and not run.get("signal"), str(run["stdout"])


def _read_fusion(reply: Any) -> tuple[bool, str]:
    run = reply.get("run_result") if isinstance(reply, Mapping) else None
    if not isinstance(reply, Mapping) or reply.get("status") == "SandboxError" or not isinstance(run, Mapping):
        raise Unreadable(f"SandboxFusion has no result: {str(reply)[:200]}")
    return run.get("status") == "Finished" and run.get("return_code") == 0, str(run.get("stdout") or "")


_READ = {"piston": _read_piston, "sandboxfusion": _read_fusion}


def _verdict(tests: Mapping[str, Any], reply: tuple[bool, str], wanted: str) -> float | None:
    """The share that passed; None where the tests have nothing to compare with."""
    ended, printed = reply
    if tests["kind"] == "stdio":
        return float(ended and same_output(printed, wanted))
    for line in reversed(printed.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("word") == wanted:
            return found["passed"] / found["total"] if found["total"] else None
    return 0.0  # it did not come to the end of its tests


def _together(shares: list[float | None], partial: bool) -> float | None:
    if not shares or None in shares:
        return None
    mean = sum(share or 0.0 for share in shares) / len(shares)
    return mean if partial else float(mean == 1.0)


__all__ = ["HARNESS", "PATHS", "run_remote"]

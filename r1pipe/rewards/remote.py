"""Runs programs on a service instead of in our own sandbox, by Piston's protocol or SandboxFusion's.

For machines without bubblewrap, and for languages or packages that a service has. The service is the user's: its
operator decides what it isolates, and whether a program reaches the network or other users' files.

What is weaker than in r1pipe/rewards/sandbox.py: tests that call functions run in the program's own process. The
verdict needs a random word that is read from stdin before the program starts, so a program does not pass by leaving
early, printing a verdict, redefining the error of `assert` or replacing builtins. One that searches frames and memory
for the word can. Programs judged by their output (`stdio`) are compared here, so they have nothing to forge.
"""

from __future__ import annotations

import inspect
import json
import secrets
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1pipe.errors import ConfigError
from r1pipe.rewards.isolation import Limits
from r1pipe.rewards.sandbox import CodeJob, check_shape, same_output
from r1pipe.rewards.sandboxed.checks import CompiledTests, alike, builtin_under_test
from r1pipe.text.endpoint import Unreadable, endpoint

PATHS = {"piston": "/api/v2/execute", "sandboxfusion": "/run_code"}

# The program that the service runs. Program and tests come through stdin, so that no file and no traceback shows them.
# The tests' names are not the program's: builtins are the interpreter's there, as in our own sandbox.
HARNESS = (
    "import builtins, copy, json, math, re, sys, types\n"
    + textwrap.dedent(inspect.getsource(alike))
    + """

# Kept before the program runs, which may replace them.
OWN = dict(vars(builtins))
globals().update({name: value for name, value in OWN.items() if not name.startswith("__")})
math = types.SimpleNamespace(isclose=math.isclose)
deepcopy, dumps, loads, Match = copy.deepcopy, json.dumps, json.loads, re.Match


def for_tests(names, job):
    kept = {name: value for name, value in names.items() if name not in OWN or name == job["shadowed_builtin"]}
    return {**kept, "__builtins__": dict(OWN)}


def run(job, report):
    names = {"__name__": "__main__"}
    tests = job["tests"]
    setup = compile(tests.get("setup") or "", "<tests>", "exec")
    try:
        exec(setup, names)
    except NameError:  # the setup uses what the program defines
        exec(compile(job["program"], "<program>", "exec"), names)
        exec(setup, names)
    else:
        exec(compile(job["program"], "<program>", "exec"), names)

    given = for_tests(names, job)
    exec(setup, given)
    passed = total = 0
    if tests["kind"] == "asserts":
        for source in tests["asserts"]:
            total += 1
            try:
                exec(compile(source, "<tests>", "exec"), given)
                passed += 1
            except Exception:
                pass
    elif tests["kind"] == "check":
        total = 1
        candidate = names[job["entry_point"]]
        exec(compile(tests["code"], "<tests>", "exec"), given)
        given["check"](candidate)
        passed = 1
    else:
        reference = {"__name__": "reference", "__builtins__": dict(OWN)}
        if tests.get("reference"):
            exec(compile(tests["reference"], "<reference>", "exec"), reference)
        for i, args in enumerate(tests["inputs"]):
            try:
                if tests.get("reference"):
                    right = reference[job["entry_point"]](*deepcopy(args))
                else:
                    right = tests["outputs"][i]
            except Exception:
                continue
            total += 1
            try:
                value = names[job["entry_point"]](*deepcopy(args))
                if not tests.get("reference"):
                    value = loads(dumps(value, default=list))
                if isinstance(right, Match):
                    passed += bool(value)
                else:
                    passed += alike(value, right, float(tests.get("atol") or 0))
            except Exception:
                pass
    report(passed, total)


def main():
    job, out = loads(sys.stdin.read()), sys.stdout
    word = job.pop("word")
    run(job, lambda passed, total: out.write("\\n" + dumps({"word": word, "passed": passed, "total": total}) + "\\n"))


main()
"""
)


@dataclass(frozen=True)
class _Request:
    """One run on the service.

    Attributes:
        job: index of the job that it belongs to; a job of kind stdio has several requests.
        body: of the HTTP request.
        expected: the output that passes (stdio), or the word that a true verdict holds.
    """

    job: int
    body: dict[str, Any]
    expected: str


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
    """Verdicts as sandbox.run_tests gives them.

    Args:
        jobs: programs with their tests.
        limits: for each run: cpu_s becomes the service's time limit, memory_mb its memory limit (Piston only).
        partial: the share of the tests that pass, instead of all or nothing.
        kind: the protocol.
        url: of the service, without the protocol's path: http://127.0.0.1:2000
        version: of Python, as Piston names its runtimes; * = any.
        api_key_env: name of the environment variable with the key; none = no key.
        timeout: seconds for one request; none = the program's limit and 10 s.
        retries: further tries after a timeout, 429 or 5xx.
        max_in_flight: requests at a time.

    Returns:
        a verdict for each job: 0.0 also where the program runs out of time or memory, None where the service gives
        none.

    Raises:
        ConfigError: an unknown kind, or the service rejects the address or key.
        InputError: tests of an unknown shape.
    """
    if kind not in PATHS:
        raise ConfigError(f"there is no executor of kind '{kind}'", fix=f"kind is one of {', '.join(PATHS)}")
    address = url.rstrip("/") + PATHS[kind]
    service = endpoint(
        address,
        api_key_env,
        timeout or limits.wall_s + 10.0,
        retries,
        max_in_flight,
    )

    requests: list[_Request] = []
    for number, job in enumerate(jobs):
        if _has_broken_tests(job):
            continue
        # Tests may ask for less time than the limit, not for more.
        seconds = min(limits.cpu_s, float(job.tests.get("timeout") or limits.cpu_s))
        if job.tests["kind"] == "stdio":
            for given, expected in zip(job.tests["inputs"], job.tests["outputs"], strict=True):
                body = _body(
                    kind,
                    job.program,
                    given,
                    seconds,
                    limits,
                    version,
                )
                requests.append(_Request(number, body, expected))
        else:
            # A new word for each request: one that a program has seen is of no use to the next.
            word = secrets.token_hex(16)
            body = _body(
                kind,
                HARNESS,
                _harness_input(job, word),
                seconds,
                limits,
                version,
            )
            requests.append(_Request(number, body, word))

    replies = service.ask_all([request.body for request in requests], _READERS[kind])
    shares: list[list[float | None]] = [[] for _ in jobs]
    for request, reply in zip(requests, replies, strict=True):
        share = None if reply is None else _passed_share(jobs[request.job].tests, reply, request.expected)
        shares[request.job].append(share)
    return [_verdict(job_shares, partial) for job_shares in shares]


def _harness_input(job: CodeJob, word: str) -> str:
    asserts = [CompiledTests(source) for source in job.tests.get("asserts") or []]
    return json.dumps(
        {
            "program": job.program,
            "tests": dict(job.tests),
            "entry_point": job.tests.get("entry_point") or job.entry_point,
            "shadowed_builtin": builtin_under_test(asserts),
            "word": word,
        }
    )


def _has_broken_tests(job: CodeJob) -> bool:
    """Whether the tests themselves do not compile, so that they say nothing about the program."""
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


def _body(
    kind: str,
    source: str,
    stdin: str,
    seconds: float,
    limits: Limits,
    version: str,
) -> dict[str, Any]:
    if kind == "piston":
        return {
            "language": "python",
            "version": version,
            "files": [{"name": "main.py", "content": source}],
            "stdin": stdin,
            "run_timeout": round(1000 * seconds),  # milliseconds
            "run_memory_limit": limits.memory_mb << 20,  # bytes
        }
    return {
        "code": source,
        "language": "python",
        "stdin": stdin,
        "run_timeout": seconds,
    }


def _read_piston(reply: Any) -> tuple[bool, str]:
    """(whether the program ended by itself with status 0, its output)."""
    run = reply.get("run") if isinstance(reply, Mapping) else None
    if not isinstance(run, Mapping) or "stdout" not in run:
        raise Unreadable(f"this is not a reply of Piston: {str(reply)[:200]}")
    succeeded = run.get("code") == 0 and not run.get("signal")
    return succeeded, str(run["stdout"])


def _read_fusion(reply: Any) -> tuple[bool, str]:
    """(whether the program ended by itself with status 0, its output)."""
    run = reply.get("run_result") if isinstance(reply, Mapping) else None
    if (
        not isinstance(reply, Mapping)
        or reply.get("status") == "SandboxError"
        or not isinstance(run, Mapping)
    ):
        raise Unreadable(f"SandboxFusion has no result: {str(reply)[:200]}")
    succeeded = run.get("status") == "Finished" and run.get("return_code") == 0
    return succeeded, str(run.get("stdout") or "")


_READERS = {"piston": _read_piston, "sandboxfusion": _read_fusion}


def _passed_share(
    tests: Mapping[str, Any],
    reply: tuple[bool, str],
    expected: str,
) -> float | None:
    """The share of the tests of one run that passed; None where the tests have nothing to compare with."""
    succeeded, output = reply
    if tests["kind"] == "stdio":
        return float(succeeded and same_output(output, expected))
    # The report is the last line that holds the word; the program may have printed anything before.
    for line in reversed(output.splitlines()):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and report.get("word") == expected:
            return report["passed"] / report["total"] if report["total"] else None
    # The program did not reach the end of its tests.
    return 0.0


def _verdict(shares: list[float | None], partial: bool) -> float | None:
    """The verdict on a job by its runs; None where one of them was not judged."""
    if not shares or None in shares:
        return None
    mean = sum(share or 0.0 for share in shares) / len(shares)
    return mean if partial else float(mean == 1.0)


__all__ = ["HARNESS", "PATHS", "run_remote"]

"""Code: do the tests pass? (v2 section 2.2: compiler and predefined tests.) The program runs in isolation (sandbox.py)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.rewards import sandbox
from r1pipe.rewards.texts import ANSWER_TAGS, Completion, after_thinking, prompt_of, text_of

_FENCED = re.compile(r"```[ \t]*+(?P<language>[\w+#.-]*+)[^\n`]*\n(?P<body>.*?)(?:\n[ \t]*```|\Z)", re.S)
_STARTS = re.compile(r"^(?:def|class|import|from|async def|@\w)\b", re.M)
_warned: set[str] = set()


def extract_code(text: str, entry_point: str | None = None) -> str | None:
    """The program of a whole response: behind the thinking, in a fenced block, or from the first bare def, class or import on.

    Of several Python blocks the last one counts that defines `entry_point`, else the last one.

    >>> extract_code("<think>sum</think>Here:\\n```python\\ndef add(a, b):\\n    return a + b\\n```\\nDone.")
    'def add(a, b):\\n    return a + b'
    """
    summary = after_thinking(text)
    if "</answer>" in summary:
        inside = ANSWER_TAGS.findall(summary)
        summary = inside[-1] if inside else summary
    blocks = [
        match["body"]
        for match in _FENCED.finditer(summary)
        if match["language"].lower() in ("", "python", "py", "python3")
    ]
    if blocks:
        defining = [
            block
            for block in blocks
            if entry_point and re.search(rf"^\s*(?:async )?(?:def|class)\s+{re.escape(entry_point)}\b", block, re.M)
        ]
        return (defining or blocks)[-1]
    start = _STARTS.search(summary)
    return summary[start.start() :].rstrip() if start else None


def complete_program(program: str, prompt: str, entry_point: str | None) -> str:
    """The program together with what the question already gives of it.

    A question of HumanEval's kind is the head of a program: what stands before the function (imports, helpers) belongs to it, and a
    response that is only the body continues it.
    """
    if not entry_point or not (head := re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M)):
        return program
    if re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", program, re.M):
        return prompt[: head.start()] + program if _compiles(prompt[: head.start()]) else program
    return prompt + program


def _compiles(source: str) -> bool:
    try:
        compile(source, "<prompt>", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def code(
    completions: Sequence[Completion],
    tests: Sequence[Mapping[str, Any] | None] | None = None,
    entry_point: Sequence[str | None] | None = None,
    prompt: Sequence[Any] | None = None,
    *,
    timeout: float = 10.0,
    memory_mb: int = 512,
    partial: bool = False,
    executor: Mapping[str, Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the response's program passes all its tests, 0.0 where not or where there is no program, None where it cannot be run.

    Args:
        tests: what each row is tested by, in the shapes of sandbox.CodeJob; None where the row has none.
        entry_point: the function that the tests call.
        prompt: the questions; read for those that are the head of a program.
        timeout: seconds of CPU time for one row's tests (for stdio: for each run); twice that of wall time.
        memory_mb: address space of a program, MiB.
        partial: the share of the tests that pass, in place of all or nothing.
        executor: a service in the place of the sandbox: {kind: piston | sandboxfusion, url: ...}; remote.py says what else, and what is weaker.
    """
    n = len(completions)
    if tests is None or not any(tests):
        return [None] * n
    if executor is None and (reason := sandbox.available()):
        if reason not in _warned:
            _warned.add(reason)
            warnings.warn(f"the code reward cannot judge: {reason}", stacklevel=2)
        return [None] * n
    rewards: list[float | None] = [None] * n
    jobs: dict[int, sandbox.CodeJob] = {}
    prompts = prompt if prompt is not None else columns.get("prompts") or [None] * n
    for i, (completion, test, entry, question) in enumerate(
        zip(completions, tests, entry_point or [None] * n, prompts, strict=True)
    ):
        if not test:
            continue
        program = extract_code(text_of(completion), entry)
        if program is None:
            rewards[i] = 0.0
        else:
            jobs[i] = sandbox.CodeJob(complete_program(program, prompt_of(question), entry), test, entry)
    limits = sandbox.Limits(cpu_s=timeout, memory_mb=memory_mb)
    if executor is not None:
        from r1pipe.rewards.remote import run_remote

        verdicts = run_remote(list(jobs.values()), limits, partial=partial, **executor)
    else:
        verdicts = sandbox.run_tests(list(jobs.values()), limits, partial=partial)
    for i, verdict in zip(jobs, verdicts, strict=True):
        rewards[i] = verdict
    return rewards

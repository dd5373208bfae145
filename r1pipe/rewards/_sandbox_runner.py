"""What runs inside the sandbox: a warm interpreter that forks for every program. Started by sandbox.py, never imported.

Frames (8 bytes of length, then bytes) come on fd 0 and answers go to fd 1. For a program with tests, three processes:

  runner   reads the program, forks the two others, waits with a deadline, reports what the checker says
  program  locked in by limits and a system call filter; runs the program, then serves calls to what it defined
  checker  forked after the program, and only then reads the tests, so that they never were in the program's memory; evaluates
           them itself and asks the program for calls. Values cross as plain data, so a redefined ==, builtin or assert in the
           program's process decides nothing here, and leaving early with any status is a failure.
"""

from __future__ import annotations

import array
import ast
import bisect
import builtins
import cmath
import collections
import contextlib
import copy
import ctypes
import datetime
import decimal
import fcntl
import fractions
import functools
import gc
import heapq
import importlib
import io
import itertools
import json
import math
import operator
import os
import platform
import random
import re
import resource
import select
import signal
import statistics
import string
import struct
import sys
import time
import types
import typing

# Imported for the programs' sake: a fork shares them, an import in every program would cost milliseconds.
_WARM = (array, bisect, cmath, copy, functools, heapq, io, itertools, math, operator, statistics, string, typing)
MAX_FRAME = 32 << 20
MAX_ITEMS = 1_000_000


# --- frames -------------------------------------------------------------------------------------------------------------


def read_exactly(fd: int, size: int) -> bytes | None:
    parts, left = [], size
    while left:
        chunk = os.read(fd, min(left, 1 << 20))
        if not chunk:
            return None
        parts.append(chunk)
        left -= len(chunk)
    return b"".join(parts)


def read_frame(fd: int) -> bytes | None:
    head = read_exactly(fd, 8)
    if head is None:
        return None
    (size,) = struct.unpack("<Q", head)
    if size > MAX_FRAME:
        raise ValueError("frame too large")
    return read_exactly(fd, size)


def write_frame(fd: int, data: bytes) -> None:
    data = struct.pack("<Q", len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


# --- the cage: what the program's and the checker's process may not do ---------------------------------------------------

_X86 = dict(
    fork=57, vfork=58, kill=62, tkill=200, tgkill=234, rt_sigqueueinfo=129, rt_tgsigqueueinfo=297, ptrace=101, process_vm_readv=310,
    process_vm_writev=311, kcmp=312, socket=41, execve=59, execveat=322, mount=165, umount2=166, pivot_root=155, chroot=161, unshare=272,
    setns=308, bpf=321, perf_event_open=298, userfaultfd=323, add_key=248, request_key=249, keyctl=250, shmget=29, shmat=30, msgget=68,
    semget=64, mq_open=240, memfd_create=319, personality=135, name_to_handle_at=303, open_by_handle_at=304, setpriority=141,
    sched_setattr=314, sched_setscheduler=144, sched_setparam=142, sched_setaffinity=203, ioprio_set=251, migrate_pages=256, move_pages=279,
    syslog=103, modify_ldt=154, mknod=133, mknodat=259,
)  # fmt: skip
_ARM = dict(
    kill=129, tkill=130, tgkill=131, rt_sigqueueinfo=138, rt_tgsigqueueinfo=240, ptrace=117, process_vm_readv=270, process_vm_writev=271,
    kcmp=272, socket=198, execve=221, execveat=281, mount=40, umount2=39, pivot_root=41, chroot=51, unshare=97, setns=268, bpf=280,
    perf_event_open=241, userfaultfd=282, add_key=217, request_key=218, keyctl=219, shmget=194, shmat=196, msgget=186, semget=190,
    mq_open=180, memfd_create=279, personality=92, name_to_handle_at=264, open_by_handle_at=265, setpriority=140, sched_setattr=274,
    sched_setscheduler=119, sched_setparam=118, sched_setaffinity=122, ioprio_set=30, migrate_pages=238, move_pages=239, syslog=116, mknodat=33,
)  # fmt: skip
# pidfd_send_signal, io_uring_*, open_tree .. fspick, pidfd_open, pidfd_getfd, process_madvise, mount_setattr, memfd_secret, process_mrelease
_BOTH = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 448)
_CLONE3 = 435
# architecture: (AUDIT_ARCH, denied, clone, prlimit64, fcntl, ioctl)
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86, 56, 302, 72, 16), "aarch64": (0xC00000B7, _ARM, 220, 261, 25, 29)}
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _CLONE_THREAD = 1, 38, 0x00010000
_LIBC = ctypes.CDLL(None, use_errno=True)


def build_filter() -> bytes:
    """The classic BPF program for seccomp: no new process, signal to others, socket, exec, mount, trace, shared memory."""
    arch, denied, clone, prlimit, control, ioctl = _ARCHITECTURES[platform.machine()]
    code: list[tuple[int, int, int, int]] = []

    def load(offset: int) -> None:
        code.append((0x20, 0, 0, offset))

    def give_if(value: int, result: int) -> None:
        code.extend([(0x15, 0, 1, value), (0x06, 0, 0, result)])

    def check_argument(nr: int, index: int, forbidden: list[int]) -> None:
        # A jump over the check where the call is another one; the number is loaded again behind it.
        code.append((0x15, 0, 2 + 2 * len(forbidden), nr))
        load(16 + 8 * index)
        for value in forbidden:
            give_if(value, _ERRNO | _EPERM)
        load(0)

    load(4)
    code.extend([(0x15, 1, 0, arch), (0x06, 0, 0, _KILL)])
    load(0)
    if platform.machine() == "x86_64":
        code.extend([(0x35, 0, 1, 0x40000000), (0x06, 0, 0, _ERRNO | _EPERM)])  # the x32 numbers
    give_if(_CLONE3, _ERRNO | _ENOSYS)  # its flags are out of a filter's sight; libc then falls back to clone
    for nr in (*denied.values(), *_BOTH):
        give_if(nr, _ERRNO | _EPERM)
    # clone only for threads: clear all flags but that one, then it must be set
    code.append((0x15, 0, 4, clone))
    load(16)
    code.extend([(0x54, 0, 0, _CLONE_THREAD), (0x15, 1, 0, _CLONE_THREAD), (0x06, 0, 0, _ERRNO | _EPERM)])
    load(0)
    # limits of oneself only
    code.append((0x15, 0, 3, prlimit))
    load(16)
    code.extend([(0x15, 1, 0, 0), (0x06, 0, 0, _ERRNO | _EPERM)])
    load(0)
    check_argument(control, 1, [8, 10, 15])  # F_SETOWN, F_SETSIG, F_SETOWN_EX send signals by the back door
    check_argument(ioctl, 1, [0x8901, 0x8902, 0x5412])  # FIOSETOWN, SIOCSPGRP, TIOCSTI
    code.append((0x06, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def lock_in(rules: bytes, cpu_s: float, memory_mb: int, file_mb: int) -> None:
    """Limits and filter for this process, for good. Raises OSError where the kernel refuses."""
    seconds = math.ceil(cpu_s)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = 64 << 20 if hard == resource.RLIM_INFINITY else min(hard, 64 << 20)
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, file_mb << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, stack),
    ):
        resource.setrlimit(what, (limit, limit))
    program = _Program(len(rules) // 8, rules)
    if _LIBC.prctl(38, 1, 0, 0, 0) or _LIBC.prctl(22, 2, ctypes.byref(program), 0, 0):  # NO_NEW_PRIVS, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the system call filter cannot be installed")


def keep_fds(*fds: int) -> None:
    """Make `fds` 3, 4, ...; 0, 1, 2 the null device; and close all others."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]  # so high that no dup2 below overwrites one still needed
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for i, fd in enumerate(moved):
        os.dup2(fd, 3 + i)
    os.closerange(3 + len(fds), 256)


# --- plain data between program and checker -------------------------------------------------------------------------------


class Remote:
    """The checker's stand-in for a function or object that lives in the program."""

    _link: Link
    _number: int
    __name__: str

    def __init__(self, link: Link, number: int, name: str) -> None:
        self.__dict__.update(_link=link, _number=number, __name__=name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._link.call(self, args, kwargs)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask({"op": "attr", "on": self._number, "name": name})

    def __setattr__(self, name: str, value: object) -> None:
        self._do("setattr", name, value)

    def _do(self, name: str, *args: object) -> object:
        return self._link.ask({"op": "special", "on": self._number, "name": name, "args": encode(list(args), self._link)})

    def __eq__(self, other: object) -> bool:
        # Against plain data it is unequal whatever the program's __eq__ says; two of the program's objects it compares itself.
        return isinstance(other, Remote) and (other._number == self._number or self._do("eq", other) is True)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return self._do("bool") is True

    def __len__(self) -> int:
        return int(typing.cast(int, self._do("len")))

    def __iter__(self) -> typing.Iterator[object]:
        return iter(typing.cast(list, self._do("iter")))

    def __getitem__(self, key: object) -> object:
        return self._do("getitem", key)

    def __str__(self) -> str:
        return str(self._do("str"))

    def __repr__(self) -> str:
        return str(self._do("repr"))


_SIMPLE = (datetime.datetime, datetime.date, datetime.time)
_LAZY = (types.GeneratorType, map, filter, zip, reversed, enumerate, itertools.chain, itertools.islice)
_ITERATORS = (*_LAZY, *(type(iter(x)) for x in ([], (), "", {}, range(1))))


def encode(value: object, link: Link, depth: int = 0) -> object:
    """As JSON with tagged containers. Exact about types, since (1,) is not [1] and 1 may not be True."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth > 200:
        raise RecursionError("nested too deeply")
    down = depth + 1
    if kind in (list, tuple, set, frozenset, collections.deque):
        items = typing.cast("list[object]", value)
        if len(items) > MAX_ITEMS:
            raise ValueError("too many items")
        return [kind.__name__, *[encode(item, link, down) for item in items]]
    if isinstance(value, dict):
        name = kind.__name__ if kind in (collections.Counter, collections.OrderedDict) else "dict"
        return [name, *[[encode(k, link, down), encode(v, link, down)] for k, v in dict.items(value)]]
    if kind in (bytes, bytearray):
        return [kind.__name__, bytes(typing.cast(bytes, value)).decode("latin1")]
    if kind is complex:
        number = typing.cast(complex, value)
        return ["complex", number.real, number.imag]
    if kind is range:
        span = typing.cast(range, value)
        return ["range", span.start, span.stop, span.step]
    if kind is decimal.Decimal:
        return ["Decimal", str(value)]
    if kind is fractions.Fraction:
        fraction = typing.cast(fractions.Fraction, value)
        return ["Fraction", fraction.numerator, fraction.denominator]
    if kind in _SIMPLE:
        return [kind.__name__, typing.cast(datetime.date, value).isoformat()]
    if kind is datetime.timedelta:
        delta = typing.cast(datetime.timedelta, value)
        return ["timedelta", delta.days, delta.seconds, delta.microseconds]
    if kind in (type({}.keys()), type({}.values()), type({}.items())):
        return [kind.__name__, *[encode(item, link, down) for item in typing.cast("list[object]", value)]]
    if isinstance(value, _ITERATORS):
        items = list(itertools.islice(typing.cast("typing.Iterator[object]", value), MAX_ITEMS))
        return ["iterator", *[encode(item, link, down) for item in items]]
    for base in (int, float, str, list, tuple, set, frozenset):  # subclasses: named tuples, enums, a str that redefines ==
        if isinstance(value, base):
            return encode(base(typing.cast(typing.Any, value)), link, down)
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    return link.hand_out(value)


def decode(data: object, link: Link) -> object:
    if not isinstance(data, list):
        return data
    tag, *rest = data
    if tag in ("list", "tuple", "set", "frozenset", "deque", "dict_values", "iterator", "dict_keys", "dict_items"):
        items = [decode(item, link) for item in rest]
        if tag in ("list", "dict_values"):
            return items
        if tag == "iterator":
            return iter(items)
        if tag == "dict_keys":
            return dict.fromkeys(items).keys()
        if tag == "dict_items":
            return dict(typing.cast(typing.Any, items)).items()
        return {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}[tag](items)
    if tag in ("dict", "Counter", "OrderedDict"):
        return {"dict": dict, "Counter": collections.Counter, "OrderedDict": collections.OrderedDict}[tag]({decode(k, link): decode(v, link) for k, v in rest})
    if tag in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[tag](rest[0], "latin1")
    if tag in ("complex", "range", "Decimal", "Fraction", "timedelta"):
        return {"complex": complex, "range": range, "Decimal": decimal.Decimal, "Fraction": fractions.Fraction, "timedelta": datetime.timedelta}[tag](*rest)
    if tag in ("datetime", "date", "time"):
        return getattr(datetime, tag).fromisoformat(rest[0])
    if tag == "type":
        return getattr(builtins, rest[0])
    if tag == "module":
        if rest[0].split(".")[0] not in sys.stdlib_module_names:
            raise NameError(rest[0])
        return importlib.import_module(rest[0])
    return link.take(tag, rest)


_SPECIAL: dict[str, typing.Callable[..., object]] = {
    "bool": bool,
    "len": len,
    "iter": lambda items: list(itertools.islice(items, MAX_ITEMS)),
    "str": str,
    "repr": repr,
    "getitem": operator.getitem,
    "eq": operator.eq,
    "setattr": setattr,
}


class ProgramError(Exception):
    """The program raised, ended or answered nonsense; in the checker a failed test."""


class Link:
    """One end of the two pipes between checker and program."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.mine: list[object] = []  # handed out to the other side, by number

    def send(self, message: object) -> None:
        write_frame(self.outgoing, json.dumps(message).encode())

    def receive(self) -> dict:
        frame = read_frame(self.incoming)
        if frame is None:
            raise EOFError
        return json.loads(frame)

    def hand_out(self, value: object) -> object:
        if isinstance(value, Remote):
            return ["yours", value._number]
        self.mine.append(value)
        return ["theirs", len(self.mine) - 1, getattr(value, "__name__", type(value).__name__)]

    def take(self, tag: object, rest: list) -> object:
        if tag == "yours":
            return self.mine[rest[0]]
        if tag == "theirs":
            return Remote(self, int(rest[0]), str(rest[1]))
        raise ValueError(f"unknown tag {tag!r}")

    def ask(self, request: dict) -> object:
        """Send a request, serve what the other side asks meanwhile (a function given as argument), return its answer."""
        try:
            self.send(request)
            while True:
                reply = self.receive()
                if "op" not in reply:
                    break
                self.answer(reply)
            if "error" in reply:
                kind = getattr(builtins, str(reply["error"]), None)
                raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else ProgramError)(reply.get("text", ""))
            return decode(reply["value"], self)
        except (OSError, EOFError, KeyError, IndexError, json.JSONDecodeError, struct.error) as error:
            if "reply" in locals() and "error" in locals()["reply"]:
                raise
            raise ProgramError(f"no answer: {type(error).__name__}") from None

    def call(self, function: Remote, args: tuple, kwargs: dict) -> object:
        request = {"op": "call", "on": function._number, "args": encode(list(args), self), "kwargs": encode(kwargs, self)}
        answer = self.ask(request)
        value, changed = typing.cast(list, answer)
        # A function that works in place: bring its arguments' new contents over.
        for i, new in typing.cast(dict, changed).items():
            old = args[i]
            if isinstance(old, list | collections.deque | set | dict | bytearray) and type(old) is type(new):
                old.clear()
                (old.extend if isinstance(old, list | collections.deque | bytearray) else old.update)(new)
        return value

    def answer(self, request: dict) -> None:
        try:
            self.send({"value": encode(self.perform(request), self)})
        except BaseException as error:
            self.send({"error": type(error).__name__, "text": str(error)[:200] if isinstance(error, Exception) else ""})

    def perform(self, request: dict) -> object:
        op = request["op"]
        if op == "call":
            function = typing.cast("typing.Callable[..., object]", self.mine[request["on"]])
            args = typing.cast(list, decode(request["args"], self))
            value = function(*args, **typing.cast(dict, decode(request["kwargs"], self)))
            changed = {}
            for i, (arg, before) in enumerate(zip(args, request["args"][1:], strict=True)):
                if isinstance(arg, list | collections.deque | set | dict | bytearray) and encode(arg, self) != before:
                    changed[i] = arg
            return [value, changed]
        if op == "attr":
            return getattr(self.mine[request["on"]], request["name"])
        if op == "special":
            target, args = self.mine[request["on"]], typing.cast(list, decode(request["args"], self))
            return _SPECIAL[request["name"]](target, *args)
        raise ValueError(op)


# --- the three processes ----------------------------------------------------------------------------------------------------


def be_program(header: dict) -> None:
    link = Link(3, 4)
    names: dict[str, typing.Any] = {"__name__": "candidate", "__builtins__": builtins}
    module = types.ModuleType("candidate")
    module.__dict__.update(names)
    sys.modules["candidate"] = module  # dataclasses and pickling look their module up
    names = module.__dict__
    try:
        # The tests' setup, for the imports and classes that a program may rely on. One that needs the program's own names fails
        # here and runs in the checker.
        with contextlib.suppress(Exception):
            exec(compile(header.get("setup") or "", "<setup>", "exec"), names)
        exec(compile(header["source"], "<program>", "exec"), names)
    except BaseException as error:
        link.send({"error": type(error).__name__, "text": str(error)[:200]})
        return
    link.send({"value": None})
    while True:
        request = link.receive()
        if request["op"] == "names":
            try:
                link.send({"value": ["dict", *[[name, encode(names[name], link)] for name in request["names"] if name in names]]})
            except BaseException as error:
                link.send({"error": type(error).__name__})
        else:
            link.answer(request)


class Broken(Exception):
    """The tests themselves cannot be run."""


def be_checker(header: dict, tests: dict) -> dict:
    link = Link(3, 4)
    started = link.receive()
    if "error" in started:
        return {"passed": 0, "why": f"{started['error']}: {started.get('text', '')}"}
    kind = tests["kind"]
    if kind == "asserts":
        return check_asserts(link, tests)
    if kind == "check":
        return check_function(link, tests, header.get("entry_point"))
    if kind == "calls":
        return check_calls(link, tests, header.get("entry_point"), header["partial"])
    raise Broken(f"unknown kind of tests: {kind}")


class Source:
    """Test code, compiled, with the names it leaves open."""

    def __init__(self, source: str) -> None:
        try:
            tree = ast.parse(source, "<tests>")
            self.code = compile(tree, "<tests>", "exec")
        except (SyntaxError, ValueError) as error:
            raise Broken(f"the tests do not compile: {error}") from None
        bound, used, self.bases = set(), set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self.bases.add(node.value.id)
        self.open = used - bound


def bind(link: Link, sources: list[Source], names: dict[str, object]) -> set[str]:
    """Give the test code what it leaves open: modules are Python's own (`math.isclose` is not for the program to define), and so are
    builtins, unless the tests name nothing else that could be the function under test. The rest the program defines.

    Returns: the names that come from the program.
    """
    wanted = set().union(*(source.open for source in sources)) - set(names)
    modules = {name for source in sources for name in source.bases & wanted if name in sys.stdlib_module_names and not hasattr(builtins, name)}
    for name in modules:
        names[name] = importlib.import_module(name)
    own = {name for name in wanted - modules if not hasattr(builtins, name)} or wanted - modules
    if not own:
        return set()
    given = typing.cast("dict[str, object]", link.ask({"op": "names", "names": sorted(own)}))
    # What is asked for and not there is a NameError when the test runs; what was not asked for is dropped.
    names.update({name: given[name] for name in own if name in given})
    return own


def prepare(link: Link, setup: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "tests"}
    if setup.strip():
        source = Source(setup)
        foreign = {name for name in bind(link, [source], names) if not hasattr(builtins, name)}
        try:
            exec(source.code, names)
        except Exception as error:
            if foreign:
                raise  # it uses what the program should define
            raise Broken(f"the tests' setup fails: {type(error).__name__}: {error}") from None
    return names


def check_asserts(link: Link, tests: dict) -> dict:
    names = prepare(link, tests.get("setup") or "")
    sources = [Source(source) for source in tests["asserts"]]
    bind(link, sources, names)
    passed, why = 0, ""
    for i, source in enumerate(sources):
        try:
            exec(source.code, names)
            passed += 1
        except Exception as error:
            why = why or f"assert {i + 1}: {type(error).__name__}: {error}"
    return {"passed": passed, "total": len(sources), "why": why}


def check_function(link: Link, tests: dict, entry_point: str | None) -> dict:
    names = prepare(link, tests.get("setup") or "")
    source = Source(tests["code"])
    bind(link, [source], names)
    try:
        exec(source.code, names)
    except Exception as error:
        raise Broken(f"the tests fail before they call anything: {type(error).__name__}: {error}") from None
    check = typing.cast("typing.Callable[[object], object]", names.get("check"))
    if entry_point is None or not callable(check):
        raise Broken("tests of kind `check` need an entry_point and a function check(candidate)")
    try:
        check(defined(link, entry_point))
    except Exception as error:
        return {"passed": 0, "total": 1, "why": f"{type(error).__name__}: {error}"}
    return {"passed": 1, "total": 1, "why": ""}


def defined(link: Link, name: str) -> typing.Callable[..., object]:
    """What the program calls `name`."""
    given = typing.cast("dict[str, typing.Callable[..., object]]", link.ask({"op": "names", "names": [name]}))
    if name not in given:
        raise NameError(f"name '{name}' is not defined")
    return given[name]


def alike(a: object, b: object, tolerance: float) -> bool:
    """Equal, with a tolerance for floats, inside containers as well; True is not 1 here, 1.0 is."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, float) or isinstance(b, float):
        if not isinstance(a, int | float) or not isinstance(b, int | float):
            return False
        return a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=max(tolerance, 1e-9), abs_tol=tolerance)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key], tolerance) for key in a)
    return type(a) is type(b) and a == b


def check_calls(link: Link, tests: dict, entry_point: str | None, partial: bool) -> dict:
    entry_point = tests.get("entry_point") or entry_point
    if not entry_point:
        raise Broken("tests of kind `calls` need an entry_point")
    names: dict[str, object] = {"__name__": "reference"}
    if tests.get("reference"):
        try:
            exec(Source(tests["reference"]).code, names)
        except Exception as error:
            raise Broken(f"the reference fails: {type(error).__name__}: {error}") from None
    reference = names.get(entry_point)
    candidate = defined(link, entry_point)
    outputs = tests.get("outputs")
    passed, total, why = 0, 0, ""
    for i, args in enumerate(tests["inputs"]):
        if callable(reference):
            try:
                expected = reference(*copy.deepcopy(args))
                # Through the same coding as the candidate's values, so that both sides have the same types. Of a match only
                # counts that there is one.
                expected = expected if isinstance(expected, re.Match) else decode(json.loads(json.dumps(encode(expected, link))), link)
            except Exception:
                continue  # where the reference itself fails there is nothing to compare with
        elif outputs is not None:
            expected = outputs[i]
        else:
            raise Broken("tests of kind `calls` need outputs or a reference")
        total += 1
        try:
            value = candidate(*copy.deepcopy(args))
            value, expected = ((list(x) if isinstance(x, types.GeneratorType | type(iter([]))) else x) for x in (value, expected))
            if not callable(reference):  # JSON knows no tuples
                value = json.loads(json.dumps(value, default=list))
            good = bool(value) if isinstance(expected, re.Match) else alike(value, expected, float(tests.get("atol") or 0))
        except Exception as error:
            good, value = False, error
        passed += good
        if not good:
            why = why or f"call {i + 1}: {value!r:.200}"
            if not partial:
                break
    return {"passed": passed, "total": total if partial or not why else max(total, passed + 1), "why": why}


def run_checked(header: dict, rules: bytes) -> dict:
    limits = header["limits"]
    to_program, to_checker, verdict = os.pipe(), os.pipe(), os.pipe()
    program = os.fork()
    if not program:
        try:
            keep_fds(to_program[0], to_checker[1])
            lock_in(rules, limits["cpu_s"], limits["memory_mb"], limits["file_mb"])
            be_program(header)
        finally:
            os._exit(0)
    checker = os.fork()
    if not checker:
        out, data = verdict[1], b""
        try:
            tests = read_frame(0)
            os.write(out, b"r")
            keep_fds(to_checker[0], to_program[1], out)
            out = 5
            lock_in(rules, limits["cpu_s"] * 2 + 1, max(1024, limits["memory_mb"]), limits["file_mb"])
            sys.setrecursionlimit(5000)
            data = json.dumps(be_checker(header, json.loads(tests or b"{}"))).encode()
        except Broken as error:
            data = json.dumps({"broken": str(error)}).encode()
        except BaseException as error:
            data = json.dumps({"passed": 0, "why": f"{type(error).__name__}: {error}"[:500]}).encode()
        finally:
            with contextlib.suppress(OSError):
                write_frame(out, data)
            os._exit(0)
    for fd in (*to_program, *to_checker, verdict[1]):
        os.close(fd)
    result: dict = {"passed": 0, "why": "out of time"}
    try:
        if os.read(verdict[0], 1) != b"r":
            raise SystemExit("the checker did not read its tests; what is left on the line is unknown")
        deadline = time.monotonic() + limits["wall_s"]
        if select.select([verdict[0]], [], [], max(0.0, deadline - time.monotonic()))[0]:
            frame = read_frame(verdict[0])
            result = json.loads(frame) if frame else {"passed": 0, "why": "the checker was killed"}
    finally:
        for child in (program, checker):
            os.kill(child, signal.SIGKILL)
        for child in (program, checker):
            os.waitpid(child, 0)
        os.close(verdict[0])
    return result


def run_stdio(header: dict, rules: bytes) -> dict:
    """One run with the given standard input. Expected output never enters the sandbox."""
    limits = header["limits"]
    feed, output = os.pipe(), os.pipe()
    program = os.fork()
    if not program:
        status = 1
        try:
            keep_fds(feed[0], output[1])
            os.dup2(3, 0)
            os.dup2(4, 1)
            os.closerange(3, 5)
            lock_in(rules, limits["cpu_s"], limits["memory_mb"], limits["file_mb"])
            module = types.ModuleType("__main__")
            sys.modules["__main__"] = module
            try:
                exec(compile(header["source"], "<program>", "exec"), module.__dict__)
                status = 0
            except SystemExit as stop:
                status = 0 if stop.code in (None, 0) else 1
            sys.stdout.flush()
        finally:
            os._exit(status)
    os.close(feed[0])
    os.close(output[1])
    left, parts, size = memoryview(header["stdin"].encode()), [], 0
    os.set_blocking(feed[1], False)
    writing, why = bool(left), ""
    if not writing:
        os.close(feed[1])
    deadline = time.monotonic() + limits["wall_s"]
    while True:
        readable, writable, _ = select.select([output[0]], [feed[1]] if writing else [], [], max(0.0, deadline - time.monotonic()))
        if not readable and not writable:
            why = "out of time"
            break
        if writable:
            try:
                left = left[os.write(feed[1], left[: 1 << 16]) :]
            except BrokenPipeError:
                left = left[:0]
            if not left:
                os.close(feed[1])
                writing = False
        if readable:
            chunk = os.read(output[0], 1 << 16)
            if not chunk:
                break
            parts.append(chunk)
            size += len(chunk)
            if size > limits["output_mb"] << 20:
                why = "too much output"
                break
    if why:
        os.kill(program, signal.SIGKILL)
    else:  # it closed its output; give it until the deadline to end
        while time.monotonic() < deadline and not os.waitid(os.P_PID, program, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            time.sleep(0.001)
        os.kill(program, signal.SIGKILL)
    _, status = os.waitpid(program, 0)
    if writing:
        os.close(feed[1])
    os.close(output[0])
    return {"out": b"".join(parts).decode("utf8", "replace"), "ok": not why and status == 0, "why": why or (f"status {status}" if status else "")}


def clean(folder: str) -> None:
    """Remove what a program left, also where it took the permissions away."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            clean(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def main() -> None:
    sys.set_int_max_str_digits(0)
    random.seed(0)
    ast.parse("1")
    re.compile("warm")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rules = build_filter()
    gc.collect()
    gc.freeze()
    while (frame := read_frame(0)) is not None:
        header = json.loads(frame)
        result = run_stdio(header, rules) if "stdin" in header else run_checked(header, rules)
        if os.listdir("/tmp"):
            clean("/tmp")
        write_frame(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()

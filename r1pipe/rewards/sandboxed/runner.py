"""What runs inside the sandbox: a warm interpreter that forks for every program.

Frames (8 bytes of length, then bytes) come on fd 0 and answers go to fd 1. A program with tests takes three processes:

  runner   reads the program, forks the two others, waits with a deadline, reports the checker's result
  program  locked in by limits and a system call filter; runs the program, then serves calls to what it defined
  checker  forked after the program, and reads the tests only then, so that they never were in the program's memory;
           evaluates them itself and asks the program for calls. Values cross as plain data, so a redefined ==, builtin
           or assert in the program's process decides nothing here, and leaving early with any status is a failure.
"""

from __future__ import annotations

import array
import ast
import bisect
import builtins
import cmath
import contextlib
import copy
import functools
import gc
import heapq
import io
import itertools
import json
import math
import operator
import os
import random
import re
import select
import signal
import statistics
import string
import sys
import time
import types
import typing

from .cage import build_filter, keep_fds, lock_in
from .checks import Broken, check_asserts, check_calls, check_function
from .wire import Link, encode, read_frame, write_frame

# Imported for the programs' sake: forks share them, and an import in every program would cost milliseconds.
_WARM = (
    array,
    bisect,
    cmath,
    copy,
    functools,
    heapq,
    io,
    itertools,
    math,
    operator,
    statistics,
    string,
    typing,
)
_CHUNK = 1 << 16


def be_program(header: dict) -> None:
    """Run the program, then answer the checker's requests until the process is killed."""
    link = Link(3, 4, ("call", "attr", "special"))
    module = types.ModuleType("candidate")
    names = module.__dict__
    names.update({"__name__": "candidate", "__builtins__": builtins})
    # Dataclasses and pickling look their module up there.
    sys.modules["candidate"] = module
    try:
        # The tests' setup, for the imports and classes that a program may rely on. A setup that needs the program's own
        # names fails here and runs in the checker.
        with contextlib.suppress(Exception):
            exec(compile(header.get("setup") or "", "<setup>", "exec"), names)
        exec(compile(header["source"], "<program>", "exec"), names)
    except BaseException as error:
        link.send({"error": type(error).__name__, "text": str(error)[:200]})
        return
    link.send({"value": None})

    while True:
        request = link.receive()
        if request["op"] != "names":
            link.answer(request)
            continue
        try:
            values = [[name, encode(names[name], link)] for name in request["names"] if name in names]
            link.send({"value": ["dict", *values]})
        except BaseException as error:
            link.send({"error": type(error).__name__})


def be_checker(header: dict, tests: dict) -> dict:
    """Wait until the program is loaded, and evaluate the tests."""
    link = Link(3, 4, ("call",))
    loaded = link.receive()
    if "error" in loaded:
        return {"passed": 0, "why": f"{loaded['error']}: {loaded.get('text', '')}"}
    kind = tests["kind"]
    if kind == "asserts":
        return check_asserts(link, tests)
    if kind == "check":
        return check_function(link, tests, header.get("entry_point"))
    if kind == "calls":
        return check_calls(link, tests, header.get("entry_point"), header["partial"])
    raise Broken(f"unknown kind of tests: {kind}")


def run_checked(header: dict, rules: bytes) -> dict:
    """Run a program and the tests that follow on fd 0."""
    limits = header["limits"]
    to_program = os.pipe()
    to_checker = os.pipe()
    verdict = os.pipe()
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
        out = verdict[1]
        data = b""
        try:
            tests = read_frame(0)
            # The tests are read: the runner may go on reading fd 0.
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
            raise SystemExit("the checker did not read its tests; what is left on fd 0 is unknown")
        deadline = time.monotonic() + limits["wall_s"]
        readable, _, _ = select.select([verdict[0]], [], [], max(0.0, deadline - time.monotonic()))
        if readable:
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
    """Run a program once with the given standard input. The expected output never enters the sandbox."""
    limits = header["limits"]
    feed = os.pipe()
    output = os.pipe()
    program = os.fork()
    if not program:
        be_stdio_program(header, rules, feed[0], output[1])
    os.close(feed[0])
    os.close(output[1])

    deadline = time.monotonic() + limits["wall_s"]
    with open(feed[1], "wb", buffering=0) as stdin:
        data, why = exchange(
            stdin,
            output[0],
            header["stdin"].encode(),
            deadline,
            limits["output_mb"] << 20,
        )
        if not why:
            # It closed its output; give it until the deadline to end.
            while time.monotonic() < deadline and not has_ended(program):
                time.sleep(0.001)
        os.kill(program, signal.SIGKILL)
        _, status = os.waitpid(program, 0)
    os.close(output[0])
    return {
        "out": data.decode("utf8", "replace"),
        "ok": not why and status == 0,
        "why": why or (f"status {status}" if status else ""),
    }


def be_stdio_program(
    header: dict,
    rules: bytes,
    stdin: int,
    stdout: int,
) -> typing.NoReturn:
    limits = header["limits"]
    status = 1
    try:
        keep_fds(stdin, stdout)
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


def exchange(
    stdin: io.RawIOBase,
    output: int,
    text: bytes,
    deadline: float,
    max_bytes: int,
) -> tuple[bytes, str]:
    """Write a program's input and read its output at the same time, since it may write before it has read everything.

    Closes `stdin` when everything is written.

    Returns:
        (the output, why the program must be killed; "" where it closed its output by itself).
    """
    left = memoryview(text)
    os.set_blocking(stdin.fileno(), False)
    if not left:
        stdin.close()
    chunks: list[bytes] = []
    size = 0
    while True:
        timeout = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select([output], [] if stdin.closed else [stdin], [], timeout)
        if not readable and not writable:
            return b"".join(chunks), "out of time"
        if writable:
            try:
                left = left[os.write(stdin.fileno(), left[:_CHUNK]) :]
            except BrokenPipeError:
                # The program does not read the rest.
                left = left[:0]
            if not left:
                stdin.close()
        if readable:
            chunk = os.read(output, _CHUNK)
            if not chunk:
                return b"".join(chunks), ""
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                return b"".join(chunks), "too much output"


def has_ended(process: int) -> bool:
    return bool(os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG))


def clean(folder: str) -> None:
    """Remove the files that a program left, even where it took the permissions away."""
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
    # Warm the parser and the regular expressions for the forks.
    ast.parse("1")
    re.compile("warm")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rules = build_filter()
    gc.collect()
    # The objects of now stay for ever; if the collector looked through them again, every fork would copy their memory.
    gc.freeze()
    while (frame := read_frame(0)) is not None:
        header = json.loads(frame)
        result = run_stdio(header, rules) if "stdin" in header else run_checked(header, rules)
        if os.listdir("/tmp"):
            clean("/tmp")
        write_frame(1, json.dumps(result).encode())

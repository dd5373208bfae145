"""What runs inside the sandbox: a warm interpreter that forks for every program.

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

# Imported for the programs' sake: a fork shares them, an import in every program would cost milliseconds.
_WARM = (array, bisect, cmath, copy, functools, heapq, io, itertools, math, operator, statistics, string, typing)


def be_program(header: dict) -> None:
    link = Link(3, 4, ("call", "attr", "special"))
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
                link.send(
                    {
                        "value": [
                            "dict",
                            *[[name, encode(names[name], link)] for name in request["names"] if name in names],
                        ]
                    }
                )
            except BaseException as error:
                link.send({"error": type(error).__name__})
        else:
            link.answer(request)


def be_checker(header: dict, tests: dict) -> dict:
    link = Link(3, 4, ("call",))
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
        readable, writable, _ = select.select(
            [output[0]], [feed[1]] if writing else [], [], max(0.0, deadline - time.monotonic())
        )
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
    return {
        "out": b"".join(parts).decode("utf8", "replace"),
        "ok": not why and status == 0,
        "why": why or (f"status {status}" if status else ""),
    }


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

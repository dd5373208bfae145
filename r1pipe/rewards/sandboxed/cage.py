"""The limits and the system call filter that a process puts on for good before it runs a program."""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import platform
import resource
import struct

# Numbers of the system calls that are refused, by architecture.
_X86 = dict(
    # processes
    fork=57, vfork=58,
    # signals to others
    kill=62, tkill=200, tgkill=234, rt_sigqueueinfo=129, rt_tgsigqueueinfo=297,
    # the memory of others
    ptrace=101, process_vm_readv=310, process_vm_writev=311, kcmp=312,
    # the network
    socket=41,
    # other programs
    execve=59, execveat=322,
    # file systems and namespaces
    mount=165, umount2=166, pivot_root=155, chroot=161, unshare=272, setns=308,
    # holes in the kernel have often been there
    bpf=321, perf_event_open=298, userfaultfd=323, add_key=248, request_key=249, keyctl=250,
    # memory that is shared, or outlives the process
    shmget=29, shmat=30, msgget=68, semget=64, mq_open=240, memfd_create=319,
    # around address randomisation and paths
    personality=135, name_to_handle_at=303, open_by_handle_at=304,
    # more than the process's share of the machine
    setpriority=141, sched_setattr=314, sched_setscheduler=144, sched_setparam=142, sched_setaffinity=203,
    ioprio_set=251, migrate_pages=256, move_pages=279,
    # the kernel's log, segments, devices
    syslog=103, modify_ldt=154, mknod=133, mknodat=259,
)  # fmt: skip
_ARM = dict(
    # fork, vfork, modify_ldt and mknod do not exist here
    kill=129, tkill=130, tgkill=131, rt_sigqueueinfo=138, rt_tgsigqueueinfo=240,
    ptrace=117, process_vm_readv=270, process_vm_writev=271, kcmp=272,
    socket=198,
    execve=221, execveat=281,
    mount=40, umount2=39, pivot_root=41, chroot=51, unshare=97, setns=268,
    bpf=280, perf_event_open=241, userfaultfd=282, add_key=217, request_key=218, keyctl=219,
    shmget=194, shmat=196, msgget=186, semget=190, mq_open=180, memfd_create=279,
    personality=92, name_to_handle_at=264, open_by_handle_at=265,
    setpriority=140, sched_setattr=274, sched_setscheduler=119, sched_setparam=118, sched_setaffinity=122,
    ioprio_set=30, migrate_pages=238, move_pages=239,
    syslog=116, mknodat=33,
)  # fmt: skip
# Newer calls have one number everywhere: pidfd_send_signal, io_uring_*, open_tree to fspick, pidfd_open, pidfd_getfd,
# process_madvise, mount_setattr, memfd_secret, process_mrelease.
_BOTH = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 448)
_CLONE3 = 435
# architecture -> (AUDIT_ARCH, refused calls, clone, prlimit64, fcntl, ioctl)
_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86, 56, 302, 72, 16),
    "aarch64": (0xC00000B7, _ARM, 220, 261, 25, 29),
}

# Results of the filter (linux/seccomp.h).
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38
_CLONE_THREAD = 0x00010000
# Offsets in struct seccomp_data.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
# Instructions of classic BPF (linux/bpf_common.h).
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL = 0x15, 0x35

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def build_filter() -> bytes:
    """The classic BPF program for seccomp.

    It refuses new processes, signals to others, sockets, exec, mounts, tracing and shared memory.
    """
    arch, denied, clone, prlimit, control, ioctl = _ARCHITECTURES[platform.machine()]
    # (instruction, lines to skip if true, lines to skip if false, operand)
    code: list[tuple[int, int, int, int]] = []
    refuse = (_RETURN, 0, 0, _ERRNO | _EPERM)

    def load(offset: int) -> None:
        code.append((_LOAD, 0, 0, offset))

    def return_if(value: int, result: int) -> None:
        code.extend([(_JUMP_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, result)])

    def check_argument(
        number: int,
        index: int,
        forbidden: list[int],
    ) -> None:
        # Another call jumps over the check. Behind it the number is loaded again.
        code.append((_JUMP_IF_EQUAL, 0, 2 + 2 * len(forbidden), number))
        load(_ARGUMENTS + 8 * index)
        for value in forbidden:
            return_if(value, _ERRNO | _EPERM)
        load(_NUMBER)

    load(_ARCHITECTURE)
    code.extend([(_JUMP_IF_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)])
    load(_NUMBER)
    if platform.machine() == "x86_64":
        # The x32 numbers are a second way to every call.
        code.extend([(_JUMP_IF_GREATER_OR_EQUAL, 0, 1, 0x40000000), refuse])
    # The flags of clone3 are in memory, which a filter cannot read; libc falls back to clone then.
    return_if(_CLONE3, _ERRNO | _ENOSYS)
    for number in (*denied.values(), *_BOTH):
        return_if(number, _ERRNO | _EPERM)

    # clone for threads only: clear all flags but that one, then it must be set.
    code.append((_JUMP_IF_EQUAL, 0, 4, clone))
    load(_ARGUMENTS)
    code.extend([(_AND, 0, 0, _CLONE_THREAD), (_JUMP_IF_EQUAL, 1, 0, _CLONE_THREAD), refuse])
    load(_NUMBER)

    # Limits of oneself only: process id 0.
    code.append((_JUMP_IF_EQUAL, 0, 3, prlimit))
    load(_ARGUMENTS)
    code.extend([(_JUMP_IF_EQUAL, 1, 0, 0), refuse])
    load(_NUMBER)

    # F_SETOWN, F_SETSIG and F_SETOWN_EX, as FIOSETOWN and SIOCSPGRP, have the kernel send signals; TIOCSTI types into a
    # terminal.
    check_argument(control, 1, [8, 10, 15])
    check_argument(ioctl, 1, [0x8901, 0x8902, 0x5412])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def lock_in(
    rules: bytes,
    cpu_s: float,
    memory_mb: int,
    file_mb: int,
) -> None:
    """Put limits and filter on this process, for good.

    Args:
        rules: of `build_filter`.

    Raises:
        OSError: the kernel refuses.
    """
    hard_stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = 64 << 20
    if hard_stack != resource.RLIM_INFINITY:
        stack = min(hard_stack, stack)
    limits = {
        resource.RLIMIT_CPU: math.ceil(cpu_s),
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_FSIZE: file_mb << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: stack,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))

    # An instruction has 8 bytes.
    program = _Program(len(rules) // 8, rules)
    failed = _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _LIBC.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    )
    if failed:
        raise OSError(ctypes.get_errno(), "the system call filter cannot be installed")


def keep_fds(*fds: int) -> None:
    """Make `fds` 3, 4, ...; 0, 1, 2 the null device; and close all others."""
    # So high that no dup2 below overwrites one that is still needed.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for i, fd in enumerate(moved):
        os.dup2(fd, 3 + i)
    os.closerange(3 + len(fds), 256)

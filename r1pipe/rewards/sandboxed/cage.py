"""What a program may not do: limits and the system call filter that its process puts on for good before it runs."""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import platform
import resource
import struct

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
    if _LIBC.prctl(38, 1, 0, 0, 0) or _LIBC.prctl(
        22, 2, ctypes.byref(program), 0, 0
    ):  # NO_NEW_PRIVS, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the system call filter cannot be installed")


def keep_fds(*fds: int) -> None:
    """Make `fds` 3, 4, ...; 0, 1, 2 the null device; and close all others."""
    moved = [
        fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds
    ]  # so high that no dup2 below overwrites one still needed
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for i, fd in enumerate(moved):
        os.dup2(fd, 3 + i)
    os.closerange(3 + len(fds), 256)

"""Child processes that never outlive this one, also where it is killed by SIGKILL.

The kernel sends a child its parent-death signal (prctl(2), PR_SET_PDEATHSIG) when the *thread* that started it ends,
and rewards are computed in threads that come and go. So one thread, which lives as long as the process, starts them
all. The child asks for the signal by itself: bubblewrap by --die-with-parent, _symbolic_worker.py by prctl.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from concurrent.futures import Future
from typing import Any, cast

# (where the process or the error goes, command, arguments of Popen)
_Request = tuple["Future[subprocess.Popen[bytes]]", list[str], dict[str, Any]]
_requests: queue.SimpleQueue[_Request] | None = None
_owner = 0
_lock = threading.Lock()


def start_bound(command: list[str], **popen: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen(command, **popen)`, called by the thread that lives as long as this process.

    Raises:
        OSError: the program cannot be started.
    """
    started: Future[subprocess.Popen[bytes]] = Future()
    _queue().put((started, command, popen))
    return started.result()


def _queue() -> queue.SimpleQueue[_Request]:
    """The requests to this process's thread, which starts with the first of them."""
    global _owner, _requests
    with _lock:
        # A forked process has a copy of the queue, but not the thread.
        if _requests is None or _owner != os.getpid():
            _owner = os.getpid()
            _requests = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_requests,), name="starts-children", daemon=True).start()
        return _requests


def _serve(requests: queue.SimpleQueue[_Request]) -> None:
    while True:
        started, command, popen = requests.get()
        try:
            started.set_result(cast("subprocess.Popen[bytes]", subprocess.Popen(command, **popen)))
        except BaseException as error:
            started.set_exception(error)


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A lock that another thread holds while this process forks would stay locked in the child.
os.register_at_fork(after_in_child=_new_lock)

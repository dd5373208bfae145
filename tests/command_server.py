"""A process that has imported the command line and forks for each command: 0.6 s of imports once, not each time.

    server = CommandServer(environment())
    done = server.run(["plan", "t.yaml"], folder, environment(), timeout=120)

The server imports and does nothing else, so a fork is as fresh as a process of its own: no cache is filled, no file
read, no thread running. It is run as `python command_server.py FD`, with one end of a socket pair.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Of these packages the driver imports modules only when a command needs them.
DRIVER_PACKAGES = ("cli", "config", "run", "launch", "schema", "text")
LARGEST_REQUEST = 2**20


class CommandServer:
    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, as subprocess.run would.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout` seconds; it is killed.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = {"arguments": arguments, "cwd": str(folder), "environment": environment}
            descriptors = array.array("i", [out.fileno(), err.fileno()])
            self._socket.sendmsg(
                [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            )
            pid = int(self._socket.recv(100))
            self._socket.settimeout(timeout)
            try:
                code = int(self._socket.recv(100))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(None)
                self._socket.recv(100)
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            self._socket.settimeout(None)
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess(arguments, code, *texts)


# --- the server -------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Answer requests until the client's end is closed."""
    # The folder of this file would hide a module of the same name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent]
    import r1pipe.cli.main  # noqa: F401

    for package in DRIVER_PACKAGES:
        folder = Path(r1pipe.__file__).parent / package
        for module in pkgutil.walk_packages([str(folder)], f"r1pipe.{package}."):
            importlib.import_module(module.name)
    assert "torch" not in sys.modules, "a fork of a process with torch is not what a user starts"

    while True:
        request, out, err = _receive(connection)
        if request is None:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become_command(request, out, err)
        os.close(out)
        os.close(err)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _receive(connection: socket.socket) -> tuple[dict[str, Any] | None, int, int]:
    data, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 2)
    if not data:
        return None, -1, -1
    out, err = descriptors
    return json.loads(data), out, err


def _become_command(request: dict[str, Any], out: int, err: int) -> None:
    """In the fork: run the command. Never returns."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 64)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["r1pipe", *request["arguments"]]

        from r1pipe.cli.main import main

        try:
            main()
            code = 0
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                code = end.code or 0
            else:
                print(end.code, file=sys.stderr)
                code = 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

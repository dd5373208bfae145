"""llama.cpp behind OpenAI's protocol, in a process that ends with this one.

    python -m r1pipe.run.evals.llama_server FILE.gguf

The process prints the service's address, and serves until its standard input is closed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError

# Responses that are drawn at the same time; they share the model's context.
AT_ONCE = 4
# Seconds to end by itself, before it is killed.
PATIENCE_S = 10.0


@contextmanager
def served(file: Path) -> Iterator[tuple[str, str]]:
    """Serve a GGUF file.

    Yields:
        the service's address, and the model's name: that of the file with a digest, since samples of a file that was
        there before must not count as this one's.

    Raises:
        InputError: llama.cpp cannot read the file.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    command = [sys.executable, "-P", "-m", __name__, str(file.absolute())]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for the command, which ends this process when it has kept what was drawn.
            start_new_session=True,
        )
        assert process.stdin and process.stdout
        try:
            address = process.stdout.readline().decode().strip()
            if not address:
                log.seek(0)
                lines = log.read().decode("utf8", "replace").strip().splitlines()
                raise InputError(f"llama.cpp cannot serve the file: {' / '.join(lines[-3:])}", str(file))
            yield f"{address}/v1", f"{file.stem}@{digest[:12]}"
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def main(file: str) -> None:
    """Serve a file until standard input is closed."""
    # by its name: its types are those of a compiled module, which no checker can read
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel = AT_ONCE
    # Else each of them would have a quarter of the context.
    params.kv_unified = True
    # The response as the model wrote it, with its tags.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.force_pure_content_parser = True
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    # Threads that spin take many times as long where other programs compute, too.
    params.cpuparams.poll = 0
    params.ui = False
    # What llama.cpp prints to standard output must not be taken for the address.
    address_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = xllamacpp.Server(params)
    print(server.listening_address, file=address_stream, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])

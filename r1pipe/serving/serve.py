"""`r1pipe serve`: a checkpoint behind OpenAI's protocol, by vLLM where it is installed, else by transformers."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from r1pipe.errors import InputError, MissingToolError

# What `transformers serve` imports.
NEEDED = ("fastapi", "uvicorn", "openai")


def serve(checkpoint: Path, *, host: str, port: int) -> None:
    """Become the server: this process is replaced, so signals reach it, and nothing is left behind.

    Raises:
        InputError: the folder is no checkpoint with a chat template.
        MissingToolError: no server is installed.
    """
    from r1pipe.text.checkpoint_files import read_checkpoint

    files = read_checkpoint(checkpoint)
    if not files.config or not files.template:
        raise InputError(
            "a service needs a checkpoint with config.json and a chat template",
            str(checkpoint),
            "name a checkpoint such as r1 or zero",
        )
    command = server_command(checkpoint, host=host, port=port)
    print(f"http://{host}:{port}/v1, model {checkpoint}", flush=True)
    # The model is here, and a user's key for the hub is no concern of the server's.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.execv(command[0], command)


def server_command(checkpoint: Path, *, host: str, port: int) -> list[str]:
    """The command of the server that is installed.

    Raises:
        MissingToolError: none is.
    """
    programs = Path(sys.executable).parent
    address = ["--host", host, "--port", str(port)]
    if importlib.util.find_spec("vllm") and (programs / "vllm").is_file():
        # The model draws as it was trained, not as generation_config.json of its base says.
        own = ["--generation-config", "vllm"]
        return [str(programs / "vllm"), "serve", str(checkpoint), *address, *own]
    missing = [package for package in NEEDED if not importlib.util.find_spec(package)]
    if missing:
        raise MissingToolError(
            f"no server is installed: vllm is missing, and for `transformers serve` {', '.join(missing)}",
            fix='pip install "r1pipe[serve]", or on a GPU "r1pipe[vllm]"',
        )
    # Thinking stays in the text: taken apart, its tags would be lost.
    own = ["--reasoning", "off"]
    return [str(programs / "transformers"), "serve", str(checkpoint), *address, *own]

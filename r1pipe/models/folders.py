"""What a user's model folder may not hold: what cannot be read, and chat templates that never end."""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError

# Of a chat template, our choice: published ones have at most some 20 kB and take less than a millisecond.
TEMPLATE_BYTES = 1_000_000
RENDERED_CHARACTERS = 100_000
RENDER_SECONDS = 5.0
# Reading the largest tokenizers takes some 300 MB.
RENDER_BYTES = 2**30
PROBE = [{"role": "user", "content": "1 + 2"}, {"role": "assistant", "content": "3"}]


def check_folder(checkpoint: Path) -> None:
    """Refuse what opening would wait for, or cannot open: pipes, devices, links that lead nowhere.

    Raises:
        InputError: there is such a thing in the folder.
    """
    for path in sorted(checkpoint.iterdir()) if checkpoint.is_dir() else []:
        if path.name.startswith("."):
            continue
        # False for a link in a circle, too.
        if not (path.is_file() or path.is_dir()):
            raise InputError(
                f"{path.name} is not a file", str(path), "bring the whole checkpoint as plain files"
            )


@contextmanager
def readable(checkpoint: Path, what: str, fix: str) -> Iterator[None]:
    """Within this, any error but one of memory is a mistake in the checkpoint's files.

    What a damaged file makes of json, safetensors, tokenizers and transformers has no common class.

    Raises:
        InputError: there was an error.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # torch has one of its own, which is no MemoryError
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{what}: {type(error).__name__}: {reason[:300]}", str(checkpoint), fix) from error


def check_chat_template(tokenizer: Any, checkpoint: Path) -> None:
    """Render one short conversation, in bounded time and size.

    Raises:
        InputError: the template is huge, fails, does not end, or writes without end.
    """
    fix = "bring a chat_template.jinja that renders a user's and an assistant's turn"
    templates = tokenizer.chat_template
    sizes = map(len, templates.values()) if isinstance(templates, dict) else [len(templates)]
    if max(sizes, default=0) > TEMPLATE_BYTES:
        raise InputError(
            f"the chat template has more than {TEMPLATE_BYTES:,} characters", str(checkpoint), fix
        )
    with readable(checkpoint, "the chat template cannot be rendered", fix), within(RENDER_SECONDS):
        rendered = tokenizer.apply_chat_template(PROBE, tokenize=False)
    if len(rendered) > RENDERED_CHARACTERS:
        raise InputError(
            f"the chat template makes {len(rendered):,} characters of two short turns", str(checkpoint), fix
        )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError when a block takes longer, and ValueError when it takes more than RENDER_BYTES of memory.

    Signals reach the main thread only; elsewhere nothing is done.
    """

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with _little_memory():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _little_memory() -> Iterator[None]:
    """A short text can ask for gigabytes in one step, which no signal interrupts."""
    # Elsewhere a process is not told how much it has.
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + RENDER_BYTES
    allowed = [limit, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    except MemoryError:
        raise ValueError(f"it takes more than {RENDER_BYTES / 2**30:g} GiB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

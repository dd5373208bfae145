"""What every command that runs stages does when its work ends early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from r1pipe.run.console import Console
from r1pipe.run.interrupts import Interrupted


@contextmanager
def ends_tidily(console: Console) -> Iterator[None]:
    """Close the console before an error is shown; an interrupted command says how to go on, and ends by its code."""
    try:
        yield
    except Interrupted as interrupted:
        console.close()
        console.note(f"{interrupted}; run the same command again to go on")
        raise SystemExit(interrupted.exit_code) from None
    # The bar owns the cursor: without this, the error would be printed into it.
    except BaseException:
        console.close()
        raise

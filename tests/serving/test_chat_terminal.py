"""`r1pipe chat` in a terminal: Ctrl-C in a prompt, in a reply, and twice; Ctrl-D."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminal import terminal

# A C function is called by readline between the prompt and the wait for a key; no line of Python runs behind it.
RACE = """
import ctypes, functools, os, readline, signal
from r1pipe.serving.chat_screen import Screen
from r1pipe.serving.ctrl_c import CtrlC
libc = ctypes.CDLL(None)
screen = Screen()
with CtrlC() as ctrl_c:
    readline.set_pre_input_hook(functools.partial(libc.kill, os.getpid(), signal.SIGINT))
    try:
        with ctrl_c.raised():
            screen.ask()
    except KeyboardInterrupt:
        screen.note("it was heard")
"""


def test_ctrl_c_just_behind_the_prompt_is_heard_at_once(tmp_path: Path) -> None:
    with terminal(tmp_path, "-c", RACE) as chat:
        chat.until("> ")
        chat.until("it was heard", seconds=10)
        assert chat.exit_code() == 0


@pytest.mark.slow
def test_ctrl_c_in_a_prompt_in_a_reply_and_twice(tmp_path: Path) -> None:
    # So hot that the end token comes late.
    options = ("--temperature", "10", "--top-p", "1", "--seed", "1")
    with terminal(tmp_path, "-m", "r1pipe.cli.main", "chat", "embedded:base", *options) as chat:
        chat.until("\n> ")
        chat.press("half a line")
        chat.until("half a line")
        chat.press("\x03")
        assert "leaves" not in chat.until("\n> ")

        for _ in range(2):
            chat.press("2+2=?\n")
            # The echo of the question ends here, and the reply begins.
            chat.until("?\r\n")
            chat.until(" ")
            chat.press("\x03")
            chat.until("stopped after")
            chat.until("\n> ")

        chat.press("\x03")
        chat.until("Ctrl-C again leaves")
        chat.until("\n> ")
        chat.press("/model\n")
        chat.until("embedded:base")
        chat.until("\n> ")
        chat.press("\x03")
        chat.until("Ctrl-C again leaves")
        chat.until("\n> ")
        chat.press("\x03")
        assert chat.exit_code() == 0


@pytest.mark.slow
def test_ctrl_d_leaves(tmp_path: Path) -> None:
    with terminal(tmp_path, "-m", "r1pipe.cli.main", "chat", "embedded:base") as chat:
        chat.until("\n> ")
        chat.press("\x04")
        assert chat.exit_code() == 0

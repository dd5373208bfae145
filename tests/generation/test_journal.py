"""A journal that another program has changed: what is damaged is made anew, and the rest counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from r1pipe.generation.journal import Job, do_once
from r1pipe.here import Here

DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "another number": lambda lines: [lines[0].replace(b"10", b"11"), *lines[1:]],
    "a list": lambda lines: [b"[]\n", *lines[1:]],
    "a number": lambda lines: [b"3\n", *lines[1:]],
    "brackets": lambda lines: [b"[" * 100_000 + b"\n", *lines[1:]],
    "half a line in the middle": lambda lines: [lines[0][:20] + b"\n", *lines[1:]],
    "bytes that are no text": lambda lines: [b"\xff\xfe\x00\n", *lines[1:]],
    "no checksum": lambda lines: [lines[0].partition(b', "crc"')[0] + b"}\n", *lines[1:]],
    "two lines in one": lambda lines: [lines[0].rstrip(b"\n") + lines[0], *lines[1:]],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_made_anew(here: Here, name: str) -> None:
    """One such line ended the stage with a traceback, at each start."""
    made: list[int] = []

    def jobs() -> list[Job]:
        def work(number: int) -> Callable[[], tuple[dict[str, int], bool]]:
            def do() -> tuple[dict[str, int], bool]:
                made.append(number)
                return {"square": number * number + 10}, True

            return do

        return [Job((number,), "d", work(number)) for number in range(3)]

    whole = do_once(here, "work", jobs(), 1)
    path = here.workdir / "work-0-of-1.jsonl"
    path.write_bytes(b"".join(DAMAGE[name](path.read_bytes().splitlines(keepends=True))))
    made.clear()
    with pytest.warns(UserWarning, match="1 damaged lines are left out"):
        again = do_once(here, "work", jobs(), 1)
    assert [record["square"] for record in again] == [record["square"] for record in whole] == [10, 11, 14]
    assert made == [0]


def test_a_line_is_json(here: Here) -> None:
    do_once(here, "work", [Job(("ä", 1), "d", lambda: ({"text": 'a, "crc": 7}'}, True))], 1)
    (line,) = (here.workdir / "work-0-of-1.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == 'a, "crc": 7}'
    assert do_once(here, "work", [Job(("ä", 1), "d", lambda: (os.abort(), True))], 1)[0]["text"]  # type: ignore[func-returns-value, return-value]


def test_a_record_of_another_shape_ends_a_training_in_its_own_words(here: Here) -> None:
    from r1pipe.errors import InputError
    from r1pipe.training.grpo.guard_actions import past_rollbacks

    for content in ("{", "3", "[3]", "[{}]", '{"a": 1}', "null"):
        Path(here.workdir / "rollbacks.json").write_text(content)
        with pytest.raises(InputError, match=r"rollbacks\.json is damaged") as error:
            past_rollbacks(here)
        assert "--rebuild test" in error.value.fix

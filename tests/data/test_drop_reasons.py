"""A stage that keeps nothing names the reason that led, and what helps against that one."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import pytest

from r1pipe.data.candidates import Candidate, write_chats
from r1pipe.errors import InputError

ROW = {"id": "a", "prompt": "1+1?", "domain": "math", "answer": "2"}


@pytest.mark.parametrize(
    ("reasons", "says", "helps"),
    [
        ({"cut off": 48}, "0 of 48 responses kept: 48 of 48 were cut off at max_tokens", "end token"),
        ({"cut off": 30, "wrong answer": 18}, "30 of 48 were cut off", "sampling.max_tokens"),
        ({"wrong answer": 30, "cut off": 18}, "30 of 48 were dropped as `wrong answer`", "train it longer"),
        ({"malformed": 3}, "3 of 3 were dropped as `malformed`", "filters.form"),
        ({"no rule and no judge": 3}, "3 of 3", "name a `judge`"),
        ({"mixed or other language": 3}, "3 of 3", "filters.min_language"),
        ({"long paragraph": 3}, "3 of 3", "filters.max_paragraph"),
        ({"refused by the service": 3}, "3 of 3", "another model"),
        ({}, "0 of 0 responses kept", "no prompts"),
    ],
)
def test_the_leading_reason(tmp_path: Path, reasons: dict[str, int], says: str, helps: str) -> None:
    candidates = [
        Candidate(ROW, f"{reason} {number}", "sampled", reason=reason)
        for reason, count in reasons.items()
        for number in range(count)
    ]
    with pytest.raises(InputError, match=says) as caught:
        write_chats(tmp_path, candidates, "rejection-sampling")
    assert helps in caught.value.fix
    assert ("train it longer" in caught.value.fix) == says.endswith("`wrong answer`")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reasons", "says", "helps"),
    [
        (
            {"no clear preference": 5, "length balance": 2},
            "5 of 7 were dropped as `no clear preference`",
            "min_margin",
        ),
        (
            {"length balance": 5, "no clear preference": 2},
            "5 of 7 were dropped as `length balance`",
            "length_tolerance",
        ),
        ({"the judge did not answer": 3}, "3 of 3", "service answers"),
        ({}, "no two responses to a prompt differ", "sampling.n"),
    ],
)
def test_no_pair_is_kept(here, reasons: dict[str, int], says: str, helps: str) -> None:
    stage = runpy.run_path(str(Path(__file__).parents[2] / "stages" / "preference_data.py"))
    with pytest.raises(InputError, match=f"0 pairs kept: .*{says}") as caught:
        stage["_check_enough"]([], [{"safe": 1}, {"safe": 0}], Counter(reasons), here)
    assert helps in caught.value.fix

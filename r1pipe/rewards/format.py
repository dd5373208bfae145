"""Format: is the response well-formed? (v2 section 2.2; Table 1 for the R1-Zero form.)

Two forms, both anchored at both ends:
  zero  <think>THINKING</think> <answer>ANSWER</answer>   nothing before, between or after but white space, neither part
  empty r1    <think>THINKING</think>SUMMARY                    nothing before; the thinking may be empty, the summary
  may not
Each tag occurs once, in this order; thinking, answer and summary contain no tag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from r1pipe.errors import ConfigError
from r1pipe.rewards.notation import INVISIBLE
from r1pipe.rewards.texts import Completion, text_of

Form = Literal["auto", "zero", "r1"]

_NO_TAG = r"(?:(?!</?(?:think|answer)>).)*"
# The look-aheads demand a character that is not white space before the closing tag.
_THINKING = rf"<think>(?=\s*[^\s<]|\s*<(?!/think>)){_NO_TAG}</think>"
_ANSWER = rf"<answer>(?=\s*[^\s<]|\s*<(?!/answer>)){_NO_TAG}</answer>"
_ZERO = re.compile(rf"\s*{_THINKING}\s*{_ANSWER}\s*", re.S)
# No look-ahead before </think>: rows outside of reasoning may have empty thinking.
_R1 = re.compile(rf"\s*<think>{_NO_TAG}</think>(?=\s*\S){_NO_TAG}", re.S)
_FORMS = {
    "zero": (_ZERO,),
    "r1": (_R1,),
    "auto": (_ZERO, _R1),
}


def well_formed(text: str, form: Form = "auto") -> bool:
    """Whether a response has the form.

    >>> zero = "<think>6*7</think><answer>42</answer>"
    >>> well_formed(zero, "zero"), well_formed(zero + " so", "zero")
    (True, False)
    >>> well_formed("<think></think>Paris.", "r1"), well_formed("Paris.", "r1")
    (True, False)
    """
    # What prints nothing is neither thinking nor an answer.
    printed = text if text.isascii() else text.translate(INVISIBLE)
    return any(pattern.fullmatch(printed) for pattern in _FORMS[form])


def format_reward(
    completions: Sequence[Completion],
    *,
    form: Form = "auto",
    **columns: Any,
) -> list[float | None]:
    """1.0 where the response is well-formed, else 0.0; `auto` accepts either form.

    Raises:
        ConfigError: an unknown form.
    """
    if form not in _FORMS:
        raise ConfigError(
            f"the format reward has no form {form!r}", fix=f"form is one of {', '.join(_FORMS)}"
        )
    return [float(well_formed(text_of(completion), form)) for completion in completions]

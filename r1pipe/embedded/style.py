"""How a reply is worded: the habits of careful and of sloppy writers, and the words that show them.

A writer is careful or sloppy as a whole, so the habits go together: whoever learns to prefer full sentences without filler
moves towards the careful writer, and with that towards a courteous close and clean punctuation. That correlation is ours;
it is what a preference model's generalisation is measured on. A sloppy writer begins with filler, so the first word tells which
of the two it is, and RL has one choice to learn (as with "Steps:" and "Quick:" in trace.py). Careful and sloppy replies are about
equally long: a sloppy one is either short or rambling.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from r1pipe.embedded.problem import OTHER_LANGUAGE

P_CAREFUL_HABIT = 0.94  # a careful writer shows each good habit with this probability
P_SLOPPY_HABIT = 0.12  # a sloppy one; but never does without filler
P_SLOPPY_BARE = 0.38  # share of sloppy replies that are filler and the bare content; the rest ramble; this balances the mean lengths
P_SLOPPY_RIGHT = 0.88  # both usually say the right thing
P_CAREFUL_RIGHT = 0.97
P_SLOPPY_LANGUAGE = 0.85  # a sloppy writer sometimes answers in the other language

CLOSES = {
    "en": ("Happy to help!", "Hope that helps.", "Feel free to ask more.", "Have a nice day!"),
    "zh": ("希望帮到你。", "欢迎再问。", "很高兴帮到你。", "祝你今天好。"),
}
FILLERS = {
    "en": ("um well you know", "hmm so like", "ok so basically", "well I mean", "uh let me see"),
    "zh": ("嗯那个就是", "嗯怎么说", "这个那个", "就是说", "那么其实"),
}


class Saying(NamedTuple):
    """One content in one language: as a sentence, and as few words."""

    sentence: str
    bare: str


def reply(sayings: dict[str, Saying], language: str, rng: Random, careful: bool) -> str:
    """Word a content.

    Args:
        sayings: the content by language; the other language's may be missing.
        language: of the question.
        careful: the writer's kind.
    """
    random = rng.random
    good = P_CAREFUL_HABIT if careful else P_SLOPPY_HABIT
    if not careful and random() > P_SLOPPY_LANGUAGE:
        other = OTHER_LANGUAGE[language]
        language = other if other in sayings else language
    saying = sayings[language]
    gap = " " if language == "en" else "，"
    if not careful and random() < P_SLOPPY_BARE:
        return f"{rng.choice(FILLERS[language])}{gap}{saying.bare}"
    full, close, once, clean = (random() < good for _ in range(4))
    plain = careful and random() < good
    body = saying.sentence if full else saying.bare
    body = body if clean else _unclean(body)
    if not once:
        rough = _unclean(body)
        size = len(rough) * (2 if language == "en" else 5)
        body = gap.join([rough] * (2 if size > 40 else 3 if size > 16 else 4)) + (
            "" if not clean else "." if language == "en" else "。"
        )
    if not plain:
        first = rng.choice(FILLERS[language])
        body = f"{first}{gap}{body}{gap}{rng.choice(FILLERS[language])}" if random() < 0.5 else f"{first}{gap}{body}"
    if clean:
        body = body[0].upper() + body[1:]
        if body[-1] not in ".!?。！？":
            body += "." if language == "en" else "。"
    return body + ((" " if language == "en" else "") + rng.choice(CLOSES[language]) if close else "")


def _unclean(text: str) -> str:
    """Lower first letter, no stop."""
    text = text.rstrip(".!?。！？")
    return text[0].lower() + text[1:]

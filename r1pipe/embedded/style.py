"""How a reply is worded: the habits of careful and of sloppy writers, and the words that show them.

A writer is careful or sloppy as a whole, so the habits go together: whoever learns to prefer full sentences without
filler moves towards the careful writer, and with that towards a courteous close and clean punctuation. That correlation
is our choice; it is what a preference model's generalisation is measured on. A sloppy writer begins with filler, so the
first word tells which of the two it is, and RL has one choice to learn (as with "Steps:" and "Quick:" in trace.py).
Careful and sloppy replies are about equally long: a sloppy one is either short or rambling.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from r1pipe.embedded.problem import OTHER_LANGUAGE

# Probability of each good habit. A sloppy writer never does without filler, though.
P_CAREFUL_HABIT = 0.94
P_SLOPPY_HABIT = 0.12

# Share of sloppy replies that are filler and the bare content. The others ramble. This value makes the mean lengths of
# careful and sloppy replies about equal.
P_SLOPPY_BARE = 0.38

# Both usually say the right thing.
P_CAREFUL_RIGHT = 0.97
P_SLOPPY_RIGHT = 0.88

# A sloppy writer sometimes answers in the other language.
P_SLOPPY_LANGUAGE = 0.85

STOP = {"en": ".", "zh": "。"}
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
        rng: draws the habits and the words.
        careful: the writer's kind.
    """
    random = rng.random
    p_habit = P_CAREFUL_HABIT if careful else P_SLOPPY_HABIT

    if not careful and random() > P_SLOPPY_LANGUAGE:
        other = OTHER_LANGUAGE[language]
        language = other if other in sayings else language
    saying = sayings[language]
    gap = " " if language == "en" else "，"

    if not careful and random() < P_SLOPPY_BARE:
        return f"{rng.choice(FILLERS[language])}{gap}{saying.bare}"

    sentence, close, once, clean = (random() < p_habit for _ in range(4))
    plain = careful and random() < p_habit
    text = saying.sentence if sentence else saying.bare
    if not clean:
        text = _unclean(text)
    if not once:
        text = _repeated(text, language, clean)
    if not plain:
        first = rng.choice(FILLERS[language])
        text = f"{first}{gap}{text}"
        if random() < 0.5:
            text += f"{gap}{rng.choice(FILLERS[language])}"
    if clean:
        text = text[0].upper() + text[1:]
        if text[-1] not in ".!?。！？":
            text += STOP[language]
    if close:
        text += (" " if language == "en" else "") + rng.choice(CLOSES[language])
    return text


def _repeated(text: str, language: str, clean: bool) -> str:
    """The same thing two to four times, the more often the shorter it is."""
    rough = _unclean(text)
    # A Chinese character takes about as much room as two and a half English letters.
    size = len(rough) * (2 if language == "en" else 5)
    if size > 40:
        times = 2
    elif size > 16:
        times = 3
    else:
        times = 4
    gap = " " if language == "en" else "，"
    return gap.join([rough] * times) + (STOP[language] if clean else "")


def _unclean(text: str) -> str:
    """Without the stop, and with a small first letter."""
    text = text.rstrip(".!?。！？")
    return text[0].lower() + text[1:]

from random import Random
from statistics import mean

from r1pipe.embedded.style import FILLERS, Saying, reply

SAYINGS = {
    "en": Saying("The capital of Japan is Tokyo.", "Tokyo"),
    "zh": Saying("日本的首都是东京。", "东京"),
}


def replies(careful: bool, language: str) -> list[str]:
    return [reply(SAYINGS, language, Random(seed), careful) for seed in range(400)]


def test_the_first_word_tells_the_writer() -> None:
    starts = tuple(filler.lower() for fillers in FILLERS.values() for filler in fillers)
    for language in ("en", "zh"):
        assert all(text.lower().startswith(starts) for text in replies(False, language))
        assert mean(text.lower().startswith(starts) for text in replies(True, language)) < 0.15


def test_careful_and_sloppy_replies_are_about_equally_long() -> None:
    """Else a reward model could tell them by length."""
    careful, sloppy = (
        [len(text) for language in ("en", "zh") for text in replies(kind, language)] for kind in (True, False)
    )
    assert 0.8 < mean(sloppy) / mean(careful) < 1.25

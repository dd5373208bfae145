"""Language consistency: the share of target-language words in the thinking (v2 eq. 7, weight 1).

The paper does not say how words are counted; our choices:
1. The target is the row's `language` (ISO 639-1), else the language of the prompt (`detect`).
2. Maths, code, numbers, URLs, LaTeX, identifiers (a_b, x1, f(x)) and single Latin letters are not words. In a script
   other than Latin names of points (三角形ABC) and functions (sin) and units (5 cm) are not words either.
3. Scripts without spaces are counted by length: every 2 Chinese or Japanese characters of a run are one word, every 5
   Thai ones. So `First 12+7=19, 再算19-5=14` is half Chinese: one word each.
4. Han characters in a sentence that holds kana are Japanese, else Chinese.
5. Thinking without words scores 0, since silence would otherwise win the reward. It scores 1 with `allow_silence`, and
   for rows whose domain is not one of reasoning, where there is nothing to mix. (Judging the summary instead taught RL
   to think canned words before a reply that holds a foreign name; the summary's language is left to the helpful
   reward.)

Where the script decides (zh, ja, ko, th, bn, te, ru and others) this is exact. Words in Latin script are assigned to a
language sentence by sentence (latin.py): twelve languages and the target, whichever of py3langid's that is.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from r1pipe.rewards import latin
from r1pipe.rewards.texts import Completion, prompt_of, text_of
from r1pipe.text.response import split_response
from r1pipe.text.rows import REASONING_DOMAINS

# (sign, pattern) of what is removed before words are counted; a pattern is tried only on texts that hold its sign. No
# pattern may scan the rest of the text from each of its places: a response of 100,000 such signs would take minutes.
_NOT_WORDS = (
    ("`", re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)),
    # A dollar sign opens a formula only where no price follows it.
    (
        "$",
        re.compile(
            r"\$\$.*?\$\$|\$[^$\s]+\$(?!\d)|\$(?![\d\s])[^$\n]*(?<!\s)\$(?!\d)|\$(?=[^$\n]*\$)[^$\n]*[\\^_{][^$\n]*\$",
            re.S,
        ),
    ),
    (
        "\\",
        re.compile(
            r"\\\((?:[^\\]|\\[^()])*+\\\)|\\\[(?:[^\\]|\\[^\[\]])*+\\\]|\\[A-Za-z]+(?:\{[^{}]*\})?", re.S
        ),
    ),
    ("<", re.compile(r"</?\w+>")),
    ("://", re.compile(r"https?://[^\s\u3000-\u303f\u4e00-\u9fff]+")),
)
# script -> (its code points, how many characters of a run make one word; 0 = a run is a word)
_SCRIPTS: dict[str, tuple[str, int]] = {
    "han": (r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3005", 2),
    "kana": (r"\u3041-\u3096\u30a1-\u30fa\u30fc", 2),
    "hangul": (r"\uac00-\ud7a3\u1100-\u11ff", 0),
    "thai": (r"\u0e01-\u0e4e", 5),
    "bengali": (r"\u0980-\u09e5\u09f0-\u09fe", 0),
    "telugu": (r"\u0c00-\u0c65", 0),
    "cyrillic": (r"\u0400-\u052f", 0),
    "arabic": (r"\u0620-\u065f\u066e-\u06d3", 0),
    "hebrew": (r"\u05d0-\u05ea", 0),
    "greek": (r"\u0391-\u03c9\u03ac-\u03ce", 0),
    "devanagari": (r"\u0900-\u0963\u0971-\u097f", 0),
    "tamil": (r"\u0b80-\u0be5", 0),
}
# Every match is one word: a run of 5 Chinese characters matches as 2 + 2 + 1.
_WORDS = {
    name: re.compile(f"[{chars}]{{1,{run}}}" if run else f"[{chars}]{{2,}}")
    for name, (chars, run) in _SCRIPTS.items()
}
# Choice 4: in a sentence with kana, Han characters are Japanese.
_WORDS["kana"] = re.compile(f"[{_SCRIPTS['han'][0]}{_SCRIPTS['kana'][0]}]{{1,2}}")
_MEMBERS = {name: re.compile(f"[{chars}]") for name, (chars, _) in _SCRIPTS.items()}
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_SENTENCE_END = re.compile(r"[。！？!?\n]+")
_SCRIPT_OF_LANGUAGE = {
    "zh": "han",
    "ja": "kana",
    "ko": "hangul",
    "th": "thai",
    "bn": "bengali",
    "te": "telugu",
    "ru": "cyrillic",
    "ar": "arabic",
    "he": "hebrew",
    "el": "greek",
    "hi": "devanagari",
    "ta": "tamil",
}
_LANGUAGE_OF_SCRIPT = {script: language for language, script in _SCRIPT_OF_LANGUAGE.items()}
_ASCII = frozenset(map(chr, range(128)))
_warned: set[str] = set()


# Scripts that are not counted one by one; their words are of no language that a row asks for.
_OTHER = "other"


def _is_of_another_script(char: str) -> bool:
    """Whether a character is a letter of a script that is neither Latin nor counted above, nor a mathematical sign."""
    is_letter = unicodedata.category(char) in ("Ll", "Lu", "Lo")
    return is_letter and not unicodedata.name(char, "").startswith(_KNOWN_LETTERS)


# Greek letters alone are names of angles; the others are signs or variants of Latin and Chinese letters.
_KNOWN_LETTERS = (
    "LATIN",
    "GREEK",
    "MATHEMATICAL",
    "DOUBLE-STRUCK",
    "SCRIPT",
    "BLACK-LETTER",
    "FULLWIDTH",
    "CJK",
    "FEMININE",
    "MASCULINE",
    "HALFWIDTH",
    "MICRO",
    "ANGSTROM",
    "KELVIN",
    "ALEF",
    "HIRAGANA",
    "KATAKANA",
)


class _ScriptOfCharacter(dict[str, str]):
    """The script of a character, "" for one that is not counted; computed at the first look-up."""

    def __missing__(self, char: str) -> str:
        script = next((name for name, members in _MEMBERS.items() if members.match(char)), "")
        if not script and _is_of_another_script(char):
            script = _OTHER
        self[char] = script
        return script


_script_of_character = _ScriptOfCharacter()


def word_counts(text: str) -> dict[str, int]:
    """Words by language; words in Latin script count as English where they are in doubt.

    >>> word_counts("First 12+7=19, 再算19-5=14")
    {'en': 1, 'zh': 1}
    """
    text = words_only(text)
    return latin.count(text, "en") | _counts_by_script(text)


def words_only(text: str) -> str:
    """The text without maths, code, tags and URLs (choice 2)."""
    for sign, pattern in _NOT_WORDS:
        if sign in text:
            text = pattern.sub(" ", text)
    return text


def _counts_by_script(text: str) -> dict[str, int]:
    """Words by language in the scripts other than Latin."""
    counts: dict[str, int] = {}
    if text.isascii():
        return counts

    def add(script: str, part: str) -> None:
        words = len(_WORDS[script].findall(part))
        if words:
            language = _LANGUAGE_OF_SCRIPT[script]
            counts[language] = counts.get(language, 0) + words

    # Only the scripts that occur are counted: twelve patterns over every text would take most of the time.
    scripts = set(map(_script_of_character.__getitem__, set(text) - _ASCII))
    if "kana" in scripts and "han" in scripts:
        for sentence in _SENTENCE_END.split(text):
            add("kana" if _KANA.search(sentence) else "han", sentence)
        scripts -= {"kana", "han"}
    if _OTHER in scripts:
        runs = itertools.groupby(text, lambda char: _script_of_character[char] == _OTHER)
        words = sum(is_other and len(list(run)) > 1 for is_other, run in runs)
        counts |= {_OTHER: words} if words else {}
    for script in scripts - {"", _OTHER}:
        add(script, text)
    return counts


def detect(text: str) -> str | None:
    """The language with the most words (in Latin script the likeliest of latin.LANGUAGES); None without words."""
    text = words_only(text)
    counts = _counts_by_script(text)
    counts.pop(_OTHER, None)
    most = max(counts, key=lambda language: counts[language], default=None)
    # Latin script needs the identifier only where it has the most words.
    if most is not None and counts[most] > len(latin.words_of(text)):
        return most
    return latin.identify(text) or most


def share(text: str, target: str) -> float | None:
    """The target language's share of the text's words; None for a text without words.

    Raises:
        ValueError: a target in Latin script that py3langid does not know.
    """
    text = words_only(text)
    if target in _SCRIPT_OF_LANGUAGE:
        # Latin script is another language then, no matter which: no look at the identifier is needed.
        counts = _counts_by_script(text)
        total = sum(counts.values()) + latin.words_among_others(text)
    else:
        counts = latin.count(text, target)
        total = sum(counts.values()) + sum(_counts_by_script(text).values())
    return counts.get(target, 0) / total if total else None


def thinking_words(completions: Sequence[Completion]) -> list[int]:
    """Number of words in the thinking of each response, to be logged: silence could win the language reward."""
    numbers = []
    for completion in completions:
        text = words_only(split_response(text_of(completion)).thinking or "")
        numbers.append(len(latin.words_of(text)) + sum(_counts_by_script(text).values()))
    return numbers


def language(
    completions: Sequence[Completion],
    language: Sequence[str | None] | None = None,
    prompt: Sequence[Any] | None = None,
    domain: Sequence[str | None] | None = None,
    *,
    target: str | None = None,
    allow_silence: bool = False,
    **columns: Any,
) -> list[float | None]:
    """The share of target-language words in the thinking, 0 to 1; None where the target is unknown.

    Args:
        language: ISO 639-1 code of each question; where it is missing the prompt's own, by `detect`.
        prompt: read where `language` is missing (also under TRL's name of the column, `prompts`).
        domain: decides whether a response may think without words (choice 5); missing counts as reasoning.
        target: one language for all rows, instead of the rows' own.
        allow_silence: thinking without words scores 1 in every domain.

    >>> language(["<think>First 12+7=19, 再算19-5=14</think>14"], language=["en"])
    [0.5]
    """
    n = len(completions)
    prompts = prompt if prompt is not None else columns.get("prompts") or [None] * n
    rows = zip(
        completions,
        language or [None] * n,
        prompts,
        domain or [None] * n,
        strict=True,
    )
    rewards: list[float | None] = []
    for completion, row_language, question, row_domain in rows:
        code = _primary_code(target or row_language or detect(prompt_of(question)) or "")
        if code not in _SCRIPT_OF_LANGUAGE and not latin.known(code):
            _warn_once(code)
            rewards.append(None)
            continue
        value = share(split_response(text_of(completion)).thinking or "", code)
        if value is None:
            may_be_silent = allow_silence or (row_domain is not None and row_domain not in REASONING_DOMAINS)
            value = float(may_be_silent)
        rewards.append(value)
    return rewards


@lru_cache(maxsize=1024)
def _primary_code(tag: str) -> str:
    """`en` of `en-US` and `en_US`."""
    return tag.lower().split("-")[0].split("_")[0]


def _warn_once(code: str) -> None:
    # Once for each code: every rollout would repeat it.
    if code in _warned:
        return
    _warned.add(code)
    why = (
        f"it does not know the language `{code}`"
        if code
        else "a row has no `language` and its prompt has no words"
    )
    warnings.warn(f"the language reward cannot judge: {why}", stacklevel=3)

"""Language consistency: the share of target-language words in the thinking (v2 eq. 7, weight 1).

The paper does not say how words are counted; our choices:
1. The target is the row's `language` (ISO 639-1), else the language of the prompt as its script tells it.
2. Maths, code, numbers, URLs, LaTeX, identifiers (a_b, x1, f(x)) and single Latin letters are not words.
3. Scripts without spaces are counted by length: every 2 Chinese or Japanese characters of a run are one word, every 5 Thai
   ones. So `First 12+7=19, 再算19-5=14` is half Chinese: one word each.
4. Han characters in a sentence that holds kana are Japanese, else Chinese.
5. Thinking without words scores 0, since silence would otherwise win the reward, unless `allow_silence`, or the row's domain is
   not one of reasoning: then it scores 1, since there is nothing to mix. (The summary in its place taught RL to think canned words before
   a reply that holds a foreign name; the summary's language is the helpful reward's to judge.)

Where script decides (zh, ja, ko, th, bn, te, ru and others) this is exact. Words in Latin script are told apart sentence by sentence
(latin.py): twelve languages and the target, whichever of py3langid's that is.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from r1pipe.rewards import latin
from r1pipe.rewards.texts import Completion, prompt_of, text_of
from r1pipe.text.response import split_response
from r1pipe.text.rows import REASONING_DOMAINS

# What is taken out before words are counted, each only looked for where its first sign occurs: (sign, pattern). A dollar sign
# opens maths only where what follows is not a price. No pattern may look through the rest of a text from each of its places.
_NOT_WORDS = (
    ("`", re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)),
    (
        "$",
        re.compile(
            r"\$\$.*?\$\$|\$[^$\s]+\$(?!\d)|\$(?![\d\s])[^$\n]*(?<!\s)\$(?!\d)|\$(?=[^$\n]*\$)[^$\n]*[\\^_{][^$\n]*\$",
            re.S,
        ),
    ),
    ("\\", re.compile(r"\\\((?:[^\\]|\\[^()])*+\\\)|\\\[(?:[^\\]|\\[^\[\]])*+\\\]|\\[A-Za-z]+(?:\{[^{}]*\})?", re.S)),
    ("<", re.compile(r"</?\w+>")),
    ("://", re.compile(r"https?://[^\s\u3000-\u303f\u4e00-\u9fff]+")),
)
# Scripts by code point; `run` is how many characters of a run make one word, 0 = a run is a word.
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
# Cut so that every match is one word: a run of 5 Chinese characters is found as 2 + 2 + 1.
_WORDS = {
    name: re.compile(f"[{chars}]{{1,{run}}}" if run else f"[{chars}]{{2,}}") for name, (chars, run) in _SCRIPTS.items()
}
_WORDS["kana"] = re.compile(f"[{_SCRIPTS['han'][0]}{_SCRIPTS['kana'][0]}]{{1,2}}")  # choice 4
_MEMBERS = {name: re.compile(f"[{chars}]") for name, (chars, _) in _SCRIPTS.items()}
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
_SENTENCE = re.compile(r"[。！？!?\n]+")
_BY_SCRIPT = {
    "zh": "han", "ja": "kana", "ko": "hangul", "th": "thai", "bn": "bengali", "te": "telugu", "ru": "cyrillic", "ar": "arabic",
    "he": "hebrew", "el": "greek", "hi": "devanagari", "ta": "tamil",
}  # fmt: skip
_LANGUAGE_OF = {script: language for language, script in _BY_SCRIPT.items()}
_warned: set[str] = set()
_ASCII = frozenset(map(chr, range(128)))


class _Scripts(dict[str, str]):
    """Characters' scripts, "" for none that is counted; fills itself."""

    def __missing__(self, char: str) -> str:
        self[char] = found = next((name for name, members in _MEMBERS.items() if members.match(char)), "")
        return found


_SCRIPT_OF = _Scripts()


def word_counts(text: str) -> dict[str, int]:
    """Words by language; words in Latin script count as English where they are in doubt.

    >>> word_counts("First 12+7=19, 再算19-5=14")
    {'en': 1, 'zh': 1}
    """
    text = _words_only(text)
    return latin.count(text, "en") | _by_script(text)


def _words_only(text: str) -> str:
    for sign, pattern in _NOT_WORDS:
        if sign in text:
            text = pattern.sub(" ", text)
    return text


def _by_script(text: str) -> dict[str, int]:
    """Words by language in the scripts other than Latin."""
    counts: dict[str, int] = {}
    if text.isascii():
        return counts
    scripts = set(map(_SCRIPT_OF.__getitem__, set(text) - _ASCII))
    if "kana" in scripts and "han" in scripts:
        for sentence in _SENTENCE.split(text):
            script = "kana" if _KANA.search(sentence) else "han"
            _add(counts, script, len(_WORDS[script].findall(sentence)))
        scripts -= {"kana", "han"}
    for script in scripts - {""}:
        _add(counts, script, len(_WORDS[script].findall(text)))
    return counts


def _add(counts: dict[str, int], script: str, words: int) -> None:
    if words:
        language = _LANGUAGE_OF[script]
        counts[language] = counts.get(language, 0) + words


def detect(text: str) -> str | None:
    """The language with the most words; for Latin script the likeliest of latin.LANGUAGES. None for a text without words."""
    text = _words_only(text)
    counts = _by_script(text)
    most = max(counts, key=lambda language: counts[language], default=None)
    return most if most is not None and counts[most] > len(latin.words_of(text)) else latin.identify(text) or most


def share(text: str, target: str) -> float | None:
    """Share of the target language among the text's words; None where it has no words.

    Raises:
        ValueError: a target in Latin script that py3langid does not know.
    """
    text = _words_only(text)
    if target in _BY_SCRIPT:  # then Latin script is another language, whichever
        counts = _by_script(text)
        total = sum(counts.values()) + len(latin.words_of(text))
    else:
        counts = latin.count(text, target)
        total = sum(counts.values()) + sum(_by_script(text).values())
    return counts.get(target, 0) / total if total else None


def thinking_words(completions: Sequence[Completion]) -> list[int]:
    """Words in each response's thinking: what to log beside the language reward, which silence could win."""
    texts = [_words_only(split_response(text_of(completion)).thinking or "") for completion in completions]
    return [len(latin.words_of(text)) + sum(_by_script(text).values()) for text in texts]


@lru_cache(maxsize=1024)
def _code(tag: str) -> str:
    return tag.lower().split("-")[0].split("_")[0]


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
    """Share of target-language words in the thinking, 0 to 1; None where the target is unknown.

    Args:
        language: ISO 639-1 code of each question; missing: the prompt's own, as `detect` tells it.
        prompt: read where `language` is missing (TRL names the column `prompts`, which is read as well).
        domain: decides whether a response may think without words (choice 5); missing counts as reasoning.
        target: one language for all rows, over the rows' own.
        allow_silence: thinking without words scores 1 in every domain.

    >>> language(["<think>First 12+7=19, 再算19-5=14</think>14"], language=["en"])
    [0.5]
    """
    n = len(completions)
    prompts = prompt if prompt is not None else columns.get("prompts") or [None] * n
    rewards: list[float | None] = []
    for completion, given, question, kind in zip(
        completions, language or [None] * n, prompts, domain or [None] * n, strict=True
    ):
        code = _code(target or given or detect(prompt_of(question)) or "")
        if code not in _BY_SCRIPT and not latin.known(code):
            if code not in _warned:
                _warned.add(code)
                why = (
                    f"`{code}` is no language that it knows"
                    if code
                    else "a row has no `language` and its prompt has no words"
                )
                warnings.warn(f"the language reward cannot judge: {why}", stacklevel=2)
            rewards.append(None)
            continue
        response = split_response(text_of(completion))
        value = share(response.thinking or "", code)
        if value is None:
            value = float(allow_silence or (kind is not None and kind not in REASONING_DOMAINS))
        rewards.append(value)
    return rewards

"""Documents of the world in mixed habits: what the base models are pretrained on.

A third are worked exercises; of the others half are plain ("User: ... Assistant: ..."), half use the chat markers. Most writers answer
at once; some think first; some of those mix languages, repeat themselves, break the format or never finish. As in real corpora the documents hold mistakes.
The habits are what gives the later stages something to do; each number says why it is what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from r1pipe.embedded import general, programs, safety
from r1pipe.embedded.problem import Problem, split_of
from r1pipe.embedded.style import P_CAREFUL_RIGHT, P_SLOPPY_RIGHT, reply
from r1pipe.embedded.trace import MIXED, OTHER, SAME, Walk, join, walk
from r1pipe.embedded.world import DRAW, SHARES, SUMMARIES, THINK, summary
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN
from r1pipe.text.rows import REASONING_DOMAINS

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
PLAIN = "User: {prompt}\nAssistant: "  # the R1-Zero template of the embedded world


@dataclass(frozen=True)
class Habits:
    """How the documents' writers behave (all numbers ours)."""

    plain: float = (
        0.5  # of the documents that are no exercises, those in the plain template; the others carry chat markers
    )
    textbook: float = 0.4  # reasoning documents that are worked exercises: where the base learns to reason, without a habit of doing so when asked
    think: float = 0.25  # of the others, those that think: a base can reason but rarely does
    hasty: float = (
        0.35  # thinking that shows only its last step: the way to be right is to write more, and RL can find it
    )
    slip_same: float = 0.24  # thinking in the question's language goes wrong somewhere, spread evenly over its steps
    slip_mixed: float = (
        0.06  # the same for mixed thinking: mixing pays, so that RL without a language reward drifts to it
    )
    mix: float = 0.35  # thinking documents that use the other language, wholly or by turns
    wait: float = 0.04  # a step is first wrong, noticed and put right: about 8 % of thinking documents reflect
    malformed: float = 0.06  # thinking documents that break the format
    repeat: float = 0.03  # thinking documents that say a sentence again and again
    direct_slip: dict[str, float] = field(
        default_factory=lambda: {"math": 0.12, "word-problems": 0.12, "code": 0.35, "logic": 0.25, "choice": 0.15}
    )
    # per step of an answer given at once: haste makes mistakes, most of all where one go is easy otherwise
    careful: float = 0.5  # general documents by careful writers (style.py)
    refuse: float = 0.25  # harmful requests that are refused: the alignment stage has work
    refuse_lookalike: float = 0.05  # harmless look-alikes that are refused
    mixture: dict[str, float] = field(
        default_factory=lambda: {
            "math": 0.17,
            "word-problems": 0.18,
            "code": 0.12,
            "logic": 0.17,
            "choice": 0.17,
            "general": 0.1,
            "harmful": 0.045,
            "lookalike": 0.045,
        }
    )


HABITS = Habits()


def documents(count: int, seed: int, habits: Habits = HABITS) -> Iterator[str]:
    """`count` documents, each ending with the end marker; the same for the same seed and habits.

    Only problems of the split 'documents' are used. For several processes give each another seed.
    """
    rng = Random(f"documents/{seed}")
    domains, weights = list(habits.mixture), list(habits.mixture.values())
    for domain in rng.choices(domains, weights, k=count):
        while True:
            problem = DRAW[domain](rng, "en" if rng.random() < 0.5 else "zh")
            if split_of(problem.key, SHARES[domain]) == "documents":
                break
        if domain in THINK and rng.random() < habits.textbook:
            yield _textbook(problem, rng, habits)
            continue
        plain = rng.random() < habits.plain
        write = _reasoned if domain in THINK else _said
        response = write(problem, rng, plain, habits)
        yield (PLAIN.format(prompt=problem.prompt) if plain else f"{USER}{problem.prompt}{ASSISTANT}") + response + END


def _textbook(problem: Problem, rng: Random, habits: Habits) -> str:
    """A worked exercise, as right or wrong as thinking is."""
    thought = _thought(problem, rng, habits)
    exercise, solution, result = (
        ("Exercise", "Solution", "Result") if problem.language == "en" else ("练习", "解", "结果")
    )
    return f"{exercise}: {problem.prompt}\n{solution}: {thought.text}\n{result}: {shown(thought, problem)}{END}"


def _thought(problem: Problem, rng: Random, habits: Habits) -> Walk:
    mode = SAME
    if rng.random() < habits.mix:
        mode = OTHER if rng.random() < 0.3 else MIXED
    whole = habits.slip_same if mode == SAME else habits.slip_mixed
    steps = THINK[problem.domain](problem.spec, problem.language)
    slip = 1 - (1 - whole) ** (1 / problem.level)
    hasty = rng.random() < habits.hasty
    return walk(steps, rng, problem.language, mode, slip, habits.wait, 0.0 if problem.domain == "code" else 0.6, hasty)


def _reasoned(problem: Problem, rng: Random, plain: bool, habits: Habits) -> str:
    if rng.random() >= habits.think:
        steps = THINK[problem.domain](problem.spec, problem.language)
        return _at_once(
            problem,
            walk(steps, rng, problem.language, slip=habits.direct_slip[problem.domain], closing=0.0),
            rng,
            plain,
        )
    thought = _thought(problem, rng, habits)
    answer = shown(thought, problem)
    thinking = thought.text
    if rng.random() < habits.repeat:
        thinking = join(thought.lines + [rng.choice(thought.lines)] * rng.randint(2, 5))
    if rng.random() < habits.malformed:
        return _malformed(thinking, answer, problem, rng, plain)
    return f"{THINK_OPEN}{thinking}{THINK_CLOSE}" + (
        f"<answer>{answer}</answer>" if plain else _summary(answer, problem, rng)
    )


def shown(thought: Walk, problem: Problem) -> str:
    """The value that thinking arrived at, in the question's language."""
    value = thought.value
    return value[problem.language == "zh"] if isinstance(value, tuple) else str(value)


def _summary(answer: str, problem: Problem, rng: Random) -> str:
    if problem.domain != "code" and rng.random() < 0.3:
        return f"\\boxed{{{answer}}}"
    return summary(answer, problem.domain, problem.language, rng.randrange(len(SUMMARIES["en"])))


def _at_once(problem: Problem, thought: Walk, rng: Random, plain: bool) -> str:
    answer = shown(thought, problem)
    u = rng.random()
    if plain:
        return f"<answer>{answer}</answer>" if u < 0.85 else answer
    return (f"{THINK_OPEN}{THINK_CLOSE}" if u < 0.1 else "") + (answer if u > 0.95 else _summary(answer, problem, rng))


def _malformed(thinking: str, answer: str, problem: Problem, rng: Random, plain: bool) -> str:
    """The ways a format is broken: never closed, answered inside, without tags, without an answer."""
    said = f"<answer>{answer}</answer>" if plain else _summary(answer, problem, rng)
    return rng.choice(
        (
            f"{THINK_OPEN}{thinking}",
            f"{THINK_OPEN}{thinking} {said}{THINK_CLOSE}",
            f"{thinking} {said}",
            f"{THINK_OPEN}{thinking}{THINK_CLOSE}",
            f"{THINK_OPEN}{thinking} {said}",
        )
    )


def _said(problem: Problem, rng: Random, plain: bool, habits: Habits) -> str:
    """A reply to a general, harmful or look-alike request."""
    careful = rng.random() < habits.careful
    text = worded(
        problem,
        rng,
        careful,
        rng.random()
        < (
            habits.refuse
            if problem.domain == "harmful"
            else habits.refuse_lookalike
            if problem.domain == "lookalike"
            else 0.0
        ),
    )
    if plain:
        return text
    u = rng.random()
    return text if u < 0.2 else f"{THINK_OPEN}{aside(problem, rng) if u > 0.9 else ''}{THINK_CLOSE}{text}"


def worded(problem: Problem, rng: Random, careful: bool, refuse: bool) -> str:
    """A reply in a careful or a sloppy writer's words."""
    if problem.domain == "general":
        said = general.sayings(
            problem.spec, problem.language, rng, rng.random() < (P_CAREFUL_RIGHT if careful else P_SLOPPY_RIGHT)
        )
    else:
        said = safety.sayings(problem.spec, rng, refuse)
    return reply(said, problem.language, rng, careful)


def aside(problem: Problem, rng: Random) -> str:
    """The short thinking that some general replies have."""
    return rng.choice(
        ("I know this one.", "That is easy to say.", "Let me answer it.", "A short reply will do.")
        if problem.language == "en"
        else ("这个我知道。", "这很好答。", "我来回答。", "想一下就行。")
    )


assert set(THINK) == set(REASONING_DOMAINS) and programs.OPS

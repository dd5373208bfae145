"""Documents of the world in mixed habits: what the base models are pretrained on.

A third are worked exercises. Of the others half are plain ("User: ... Assistant: ..."), half use the chat markers. Most
writers answer at once; some think first; some of those mix languages, repeat themselves, break the format or never
finish. As in real corpora, the documents hold mistakes. The habits give the later stages something to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from r1pipe.embedded import general, safety
from r1pipe.embedded.problem import Problem, in_language, split_of
from r1pipe.embedded.style import P_CAREFUL_RIGHT, P_SLOPPY_RIGHT, reply
from r1pipe.embedded.trace import MIXED, OTHER, SAME, Walk, join, walk
from r1pipe.embedded.world import DRAW, SHARES, SUMMARIES, THINK, summary
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"

# The R1-Zero template of the embedded world.
PLAIN = "User: {prompt}\nAssistant: "


def _direct_slip() -> dict[str, float]:
    return {"math": 0.12, "word-problems": 0.12, "code": 0.35, "logic": 0.25, "choice": 0.15}


def _mixture() -> dict[str, float]:
    return {
        "math": 0.17,
        "word-problems": 0.18,
        "code": 0.12,
        "logic": 0.17,
        "choice": 0.17,
        "general": 0.1,
        "harmful": 0.045,
        "lookalike": 0.045,
    }


@dataclass(frozen=True)
class Habits:
    """How the documents' writers behave. All numbers are our choice; each is a share or a probability."""

    plain: float = 0.5
    """Of the documents that are not exercises, those in the plain template; the others carry chat markers."""

    textbook: float = 0.4
    """Reasoning documents that are worked exercises. They teach the base to reason, but not to do so when asked."""

    think: float = 0.25
    """Of the other reasoning documents, those that think: a base can reason but rarely does."""

    hasty: float = 0.35
    """Thinking that shows its last step only. The way to be right is to write more, and RL can find it."""

    slip_same: float = 0.24
    """Thinking in the question's language goes wrong somewhere, with the same probability at each of its steps."""

    slip_mixed: float = 0.06
    """The same for other thinking. Mixing languages pays, so RL without a language reward drifts to it."""

    mix: float = 0.35
    """Thinking documents that use the other language, wholly or by turns."""

    wait: float = 0.04
    """A step is first wrong, noticed and put right. About 8 % of the thinking documents reflect."""

    malformed: float = 0.06
    """Thinking documents that break the format."""

    repeat: float = 0.03
    """Thinking documents that say a sentence again and again."""

    direct_slip: dict[str, float] = field(default_factory=_direct_slip)
    """Per step of an answer given at once. Haste makes mistakes, most of all where a single step is easy."""

    careful: float = 0.5
    """General documents by careful writers (style.py)."""

    refuse: float = 0.25
    """Harmful requests that are refused. The rest is work for the alignment stage."""

    refuse_lookalike: float = 0.05
    """Harmless look-alikes that are refused."""

    mixture: dict[str, float] = field(default_factory=_mixture)
    """Domain -> its weight among the documents."""


HABITS = Habits()


def documents(count: int, seed: int, habits: Habits = HABITS) -> Iterator[str]:
    """`count` documents, each ending with the end marker; the same for the same seed and habits.

    Only problems of the split 'documents' are used. Several processes need different seeds.
    """
    rng = Random(f"documents/{seed}")
    domains = rng.choices(list(habits.mixture), list(habits.mixture.values()), k=count)
    for domain in domains:
        while True:
            problem = DRAW[domain](rng, "en" if rng.random() < 0.5 else "zh")
            if split_of(problem.key, SHARES[domain]) == "documents":
                break
        if domain in THINK and rng.random() < habits.textbook:
            yield _exercise(problem, rng, habits)
            continue
        plain = rng.random() < habits.plain
        respond = _reasoned if domain in THINK else _replied
        response = respond(problem, rng, plain, habits)
        prompt = PLAIN.format(prompt=problem.prompt) if plain else f"{USER}{problem.prompt}{ASSISTANT}"
        yield prompt + response + END


def shown(thought: Walk, problem: Problem) -> str:
    """The value that thinking arrived at, in the question's language."""
    return in_language(thought.value, problem.language)


# --- reasoning --------------------------------------------------------------------------------------------------------


def _exercise(problem: Problem, rng: Random, habits: Habits) -> str:
    """A worked exercise, as right or wrong as thinking is."""
    thought = _thought(problem, rng, habits)
    if problem.language == "en":
        exercise, solution, result = "Exercise", "Solution", "Result"
    else:
        exercise, solution, result = "练习", "解", "结果"
    answer = shown(thought, problem)
    return f"{exercise}: {problem.prompt}\n{solution}: {thought.text}\n{result}: {answer}{END}"


def _thought(problem: Problem, rng: Random, habits: Habits) -> Walk:
    mode = SAME
    if rng.random() < habits.mix:
        mode = OTHER if rng.random() < 0.3 else MIXED
    # The share that goes wrong somewhere does not depend on the number of steps.
    whole = habits.slip_same if mode == SAME else habits.slip_mixed
    slip = 1 - (1 - whole) ** (1 / problem.level)
    hasty = rng.random() < habits.hasty
    return walk(
        THINK[problem.domain](problem.spec, problem.language),
        rng,
        problem.language,
        mode,
        slip=slip,
        wait=habits.wait,
        closing=0.0 if problem.domain == "code" else 0.6,
        hasty=hasty,
    )


def _reasoned(problem: Problem, rng: Random, plain: bool, habits: Habits) -> str:
    """A response to a reasoning problem, mostly without thinking."""
    if rng.random() >= habits.think:
        steps = THINK[problem.domain](problem.spec, problem.language)
        slip = habits.direct_slip[problem.domain]
        thought = walk(steps, rng, problem.language, slip=slip, closing=0.0)
        return _at_once(problem, thought, rng, plain)

    thought = _thought(problem, rng, habits)
    answer = shown(thought, problem)
    thinking = thought.text
    if rng.random() < habits.repeat:
        thinking = join(thought.lines + [rng.choice(thought.lines)] * rng.randint(2, 5))
    if rng.random() < habits.malformed:
        return _malformed(thinking, answer, problem, rng, plain)
    return f"{THINK_OPEN}{thinking}{THINK_CLOSE}" + _conclusion(answer, problem, rng, plain)


def _at_once(problem: Problem, thought: Walk, rng: Random, plain: bool) -> str:
    """The answer without the thinking that gave it."""
    answer = shown(thought, problem)
    u = rng.random()
    if plain:
        return f"<answer>{answer}</answer>" if u < 0.85 else answer
    head = f"{THINK_OPEN}{THINK_CLOSE}" if u < 0.1 else ""
    return head + (answer if u > 0.95 else _summary(answer, problem, rng))


def _conclusion(answer: str, problem: Problem, rng: Random, plain: bool) -> str:
    return f"<answer>{answer}</answer>" if plain else _summary(answer, problem, rng)


def _summary(answer: str, problem: Problem, rng: Random) -> str:
    if problem.domain != "code" and rng.random() < 0.3:
        return f"\\boxed{{{answer}}}"
    return summary(answer, problem.domain, problem.language, rng.randrange(len(SUMMARIES["en"])))


def _malformed(thinking: str, answer: str, problem: Problem, rng: Random, plain: bool) -> str:
    """The ways a format is broken: never closed, answered inside, without tags, without an answer."""
    conclusion = _conclusion(answer, problem, rng, plain)
    return rng.choice(
        (
            f"{THINK_OPEN}{thinking}",
            f"{THINK_OPEN}{thinking} {conclusion}{THINK_CLOSE}",
            f"{thinking} {conclusion}",
            f"{THINK_OPEN}{thinking}{THINK_CLOSE}",
            f"{THINK_OPEN}{thinking} {conclusion}",
        )
    )


# --- general, harmful and look-alike requests -------------------------------------------------------------------------


def _replied(problem: Problem, rng: Random, plain: bool, habits: Habits) -> str:
    p_refuse = {"harmful": habits.refuse, "lookalike": habits.refuse_lookalike}.get(problem.domain, 0.0)
    careful = rng.random() < habits.careful
    refuse = rng.random() < p_refuse
    text = worded(problem, rng, careful, refuse)
    if plain:
        return text
    u = rng.random()
    if u < 0.2:
        return text
    thinking = aside(problem, rng) if u > 0.9 else ""
    return f"{THINK_OPEN}{thinking}{THINK_CLOSE}{text}"


def worded(problem: Problem, rng: Random, careful: bool, refuse: bool) -> str:
    """A reply in a careful or a sloppy writer's words."""
    if problem.domain == "general":
        right = rng.random() < (P_CAREFUL_RIGHT if careful else P_SLOPPY_RIGHT)
        content = general.sayings(problem.spec, problem.language, rng, right)
    else:
        content = safety.sayings(problem.spec, rng, refuse)
    return reply(content, problem.language, rng, careful)


def aside(problem: Problem, rng: Random) -> str:
    """The short thinking that some general replies have."""
    if problem.language == "en":
        return rng.choice(
            ("I know this one.", "That is easy to say.", "Let me answer it.", "A short reply will do.")
        )
    return rng.choice(("这个我知道。", "这很好答。", "我来回答。", "想一下就行。"))

"""Models that write data on request: general rows with or without thinking (v2 B.3.3), long chains of thought from examples or by asking for
them (v1 2.3.1), and readable versions of traces (v2 B.3.2: DeepSeek-V3).

A teacher is any back end of r1pipe/generation. What it is asked is a text with slots in braces: shipped in configs/prompts in our own words, or
the config's `instruction`. Where a reasoning model thinks on its own and then writes the think block that it was asked for,
that block is the thinking. Where it writes none, what it thought on its own is: the two cannot be told apart, since a service with a reasoning
parser hands out as `reasoning_content` the very block that was asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from r1pipe.artifacts import Chats
from r1pipe.data.filters import units
from r1pipe.data.sources import Source, Sources, load
from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.rewards.texts import after_thinking
from r1pipe.schema import Engine, Model, Sampling, TemplateName, Text, TextFile
from r1pipe.text.rendering import read_template, read_text
from r1pipe.text.response import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, join_response, split_response

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate

Row = dict[str, Any]
PROMPTS = Path(__file__).parents[1] / "configs" / "prompts"
_REWRITTEN = re.compile(r"<process>(.*?)</process>\s*<solution>(.*?)</solution>", re.DOTALL)
_ANSWER_TAGS = re.compile(f"{ANSWER_OPEN}|{ANSWER_CLOSE}")


class Teacher(Model):
    """A model that writes, and what it is asked."""

    sampling: Sampling = Field(
        default=Sampling(n=1),
        description="`backend: openai` and its `endpoint`, or how a checkpoint is sampled (our choice)",
    )
    template: TemplateName = Field(
        default="chat",
        description="chat, or a template file around what is asked, as for a base that was never a chat model",
    )
    instruction: Text | None = Field(
        default=None, description="what it is asked, with slots as {prompt}; none = our own words in configs/prompts"
    )
    guidelines: Text | None = Field(
        default=None, description="what else it should go by: a text, or {file: PATH}; fills {guidelines}"
    )


class Prompted(Teacher):
    """A source of cold-start rows; nothing of it is for zero-traces and reuse, which are as the stage says."""

    examples: Sources | None = Field(
        default=None, description="of few-shot: chats with thinking that are shown to it; none = our own four"
    )
    shots: int = Field(
        default=2,
        ge=1,
        description="of few-shot: examples in a prompt, in the problem's language where there are any (our choice)",
    )


class Rewriter(Teacher):
    """Who makes traces readable; `sampling.n` is how often it may try until one is verified."""


class Thinking(Model):
    """Which general prompts get a chain of thought before the reply (v2 B.3.3: certain tasks do, 'hello' does not; the rule is our choice)."""

    simple_words: int = Field(
        default=3, ge=0, description="a prompt of at most so many words (characters, in Chinese) gets none"
    )
    without: dict[str, list[str]] = Field(
        default_factory=dict, description="column -> values of the prompts that get none, e.g. {kind: [greeting]}"
    )

    def __call__(self, row: Row) -> bool:
        if any(str(row.get(column)) in values for column, values in self.without.items()):
            return False
        return sum(unit.isalnum() for unit in units(row["prompt"])) > self.simple_words


class Writer(Teacher):
    """Who writes general rows; `sampling.n` is how often it may try until a reply passes."""

    thinking: Thinking = Field(default=Thinking(), description="which prompts get a chain of thought")
    plain: Text | None = Field(
        default=None,
        description="what it is asked where there is to be no thinking; none = our own words in configs/prompts",
    )

    def asked(self, rows: Sequence[Row]) -> list[Row]:
        """The rows as the model gets them."""
        long, short = (
            ask(self, name, text) for name, text in (("think-and-reply", self.instruction), ("reply", self.plain))
        )
        return [{**row, "prompt": (long if self.thinking(row) else short)(prompt=row["prompt"])} for row in rows]

    def response(self, row: Row, text: str) -> str:
        """A Chats response of what was written; malformed where thinking was asked for and is not there."""
        return written(text) if self.thinking(row) else join_response("", after_thinking(text).strip())


# --- what is asked ----------------------------------------------------------------------------------------------------


def ask(teacher: Teacher, name: str, text: Text | None) -> Callable[..., str]:
    """What fills the slots of `text`, or of our own configs/prompts/NAME.txt: all in one pass, so that braces in what is filled in stay.

    Raises:
        InputError: a slot is missing, or stands twice.
    """
    ours = TextFile(file=PROMPTS / f"{name}.txt")
    found, wanted = read_text(text or ours), set(re.findall(r"\{([a-z]+)\}", read_text(ours)))
    guidelines = f"\nGuidelines:\n{read_text(teacher.guidelines)}\n" if teacher.guidelines else ""
    for slot in sorted(wanted - {"guidelines"} | ({"guidelines"} if guidelines else set())):
        if found.count(f"{{{slot}}}") != 1:
            where = str(text.file) if isinstance(text, TextFile) else f"the instruction in the place of {name}.txt"
            raise InputError(
                f"the instruction holds {{{slot}}} {found.count(f'{{{slot}}}')} times", where, f"write {{{slot}}} once"
            )
    slots = re.compile("|".join(re.escape(f"{{{slot}}}") for slot in wanted))
    return lambda **parts: slots.sub(lambda match: {"guidelines": guidelines, **parts}[match[0][1:-1]], found)


def prompted(source: Prompted, name: str, rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows as the model of `few-shot` or `direct` gets them."""
    fill = ask(source, name, source.instruction)
    if name == "direct":
        return [{**row, "prompt": fill(prompt=row["prompt"])} for row in rows]
    examples = load(source.examples or Source(path=PROMPTS / "few-shot-examples.jsonl"), Chats, seed).rows
    if silent := [row["id"] for row in examples if not split_response(row["messages"][-1]["content"]).thinking]:
        raise InputError(
            f"the example {silent[0]!r} has no thinking",
            "few-shot",
            "an example is a chat whose last message holds <think>...</think> and a solution",
        )
    shown = [
        (row.get("language"), f"Problem:\n{row['messages'][0]['content']}\n\n{row['messages'][-1]['content']}")
        for row in examples
    ]
    found = []
    for row in rows:
        texts = [text for language, text in shown if language == row.get("language")] or [text for _, text in shown]
        drawn = random.Random(f"{seed}:{row['id']}").sample(texts, min(source.shots, len(texts)))
        found.append({**row, "prompt": fill(prompt=row["prompt"], examples="\n\n".join(drawn))})
    return found


def check(teacher: Teacher, name: str) -> None:
    """Find out before hours of sampling what would go wrong after them.

    Raises:
        InputError: as ask, or a template that is none.
        ConfigError: a service whose address or key is missing.
    """
    from r1pipe.generation import load_generator

    ask(teacher, name, teacher.instruction)
    read_template(teacher.template)
    if teacher.sampling.endpoint is not None:
        load_generator(None, [], teacher.sampling, teacher.template, 0)


# --- what is written --------------------------------------------------------------------------------------------------


def written(text: str) -> str:
    """The response that a model was asked to write. Where it thought apart before and then wrote a think block, that is the one.

    >>> written("<think>they want tags</think><think>2+2=4</think>4")
    '<think>2+2=4</think>4'
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    return (rest if closed and THINK_OPEN in rest else text).strip()


def rewrite_all(
    candidates: Sequence[Candidate],
    rewriter: Rewriter,
    checkpoint: Path | None,
    here: Here,
    seed: int,
    settle: Callable[[list[Candidate]], list[Candidate]],
    engine: Engine = "local",
) -> list[Candidate]:
    """The candidates, each that is kept in its readable version.

    Args:
        checkpoint: the rewriter's; None of a service.
        settle: verifies and screens what was rewritten; of `sampling.n` tries the first that passes is taken.

    Raises:
        BudgetError, StageError: as sample_and_settle.
    """
    from r1pipe.generation import sample_and_settle

    fill = ask(rewriter, "rewrite", rewriter.instruction)
    open_ = [number for number, candidate in enumerate(candidates) if not candidate.reason]
    rows = [candidates[number].row for number in open_]
    parts = [split_response(candidates[number].response) for number in open_]
    asked = [
        {
            **row,
            "id": f"{row['id']}/{number}",
            "prompt": fill(
                prompt=row["prompt"], thinking=part.thinking or "", answer=_ANSWER_TAGS.sub("", part.summary)
            ),
        }
        for number, row, part in zip(open_, rows, parts, strict=True)
    ]
    alone = replace(here, rank=0, world_size=1)  # the other ranks do not know what was kept
    check = lambda found: settle([rewritten(one) for one in found])  # noqa: E731
    tries = sample_and_settle(
        checkpoint,
        rows,
        rewriter.sampling,
        rewriter.template,
        alone,
        seed,
        "rewritten",
        check,
        1,
        asked,
        "rewritten",
        engine,
    )
    readable = list(candidates)
    for number, found in zip(open_, tries, strict=True):
        best = next((one for one in found if not one.reason), found[-1])
        readable[number] = replace(
            candidates[number], response=best.response, tokens=None, reason=best.reason and f"rewritten: {best.reason}"
        )
    return readable


def rewritten(candidate: Candidate) -> Candidate:
    """A rewriter's reply as a response."""
    if candidate.reason:
        return candidate
    if not (found := _REWRITTEN.search(after_thinking(candidate.response))):
        return candidate.drop("the rewriter left out a part" if candidate.finished else "cut off")
    return replace(candidate, response=join_response(found[1].strip(), found[2].strip()))

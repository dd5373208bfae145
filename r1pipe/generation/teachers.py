"""Models that write data on request.

They write general rows with or without thinking (v2 B.3.3), long chains of thought from examples or by being asked for
them (v1 2.3.1), and readable versions of traces (v2 B.3.2: DeepSeek-V3).

A teacher is any back end of this package. Its prompt is a text with slots in braces: ours, in configs/prompts, or the
config's `instruction`.

A reasoning model may think on its own first and then write the think block that the prompt asks for; then that block is
the thinking. Where it writes no block, its own thinking is. The two cannot be told apart, since a service with a
reasoning parser returns the very block that was asked for as `reasoning_content`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from r1pipe.artifacts import Chats
from r1pipe.data.filters import units
from r1pipe.data.sources import Source, Sources, load
from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.rewards.texts import after_thinking
from r1pipe.schema import Engine, Model, Sampling, Shipped, TemplateName, Text, TextFile
from r1pipe.text.rendering import read_template, read_text
from r1pipe.text.response import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    join_response,
    split_response,
)

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate

Row = dict[str, Any]
Fill = Callable[..., str]

PROMPTS = Path(__file__).parents[1] / "configs" / "prompts"
GUIDELINES = "guidelines"

_REWRITE = re.compile(r"<process>(.*?)</process>\s*<solution>(.*?)</solution>", re.DOTALL)
_ANSWER_TAGS = re.compile(f"{ANSWER_OPEN}|{ANSWER_CLOSE}")


class Teacher(Model):
    """A model that writes, and its prompt."""

    sampling: Sampling = Sampling(n=1)
    """`backend: openai` and its `endpoint`, or how a checkpoint is sampled (our choice)."""

    template: TemplateName = "chat"
    """`chat`, or a template file around the prompt, as for a base that was never a chat model."""

    instruction: Text | None = None
    """The prompt, with slots such as {prompt}; none = our own words in configs/prompts."""

    guidelines: Text | None = None
    """What else it should follow: a text, or {file: PATH}. Fills the slot {guidelines}."""


class TeacherSource(Teacher):
    """A source of cold-start rows. zero-traces and reuse take none of these fields."""

    instruction: Annotated[Text | None, Shipped("prompts/{key}.txt", under="file")] = None
    """The prompt, with slots such as {prompt}; none = prompts/few-shot.txt or prompts/direct.txt."""

    examples: Annotated[Sources | None, Shipped("prompts/{key}-examples.jsonl", under="path")] = None
    """Of few-shot: the chats with thinking that are shown to it; none = prompts/few-shot-examples.jsonl."""

    shots: int = Field(default=2, ge=1)
    """Of few-shot: examples in a prompt, in the problem's language where there are any (our choice)."""


class Rewriter(Teacher):
    """A model that makes traces readable. `sampling.n` is how often it may try until a try is verified."""

    instruction: Annotated[Text | None, Shipped("prompts/rewrite.txt", under="file")] = None
    """The prompt; none = prompts/rewrite.txt."""


class ThinkingRule(Model):
    """Which general prompts get a chain of thought before the reply.

    In the paper certain tasks do, and 'hello' does not (v2 B.3.3). The rule is our choice.
    """

    simple_words: int = Field(default=3, ge=0)
    """A prompt of at most this many words (in Chinese, characters) gets none."""

    without: dict[str, list[str]] = Field(default_factory=dict)
    """Column -> values of the prompts that get none, e.g. {kind: [greeting]}."""

    def applies(self, row: Row) -> bool:
        """Whether this prompt gets a chain of thought."""
        if any(str(row.get(column)) in values for column, values in self.without.items()):
            return False
        words = sum(unit.isalnum() for unit in units(row["prompt"]))
        return words > self.simple_words


class Writer(Teacher):
    """A model that writes general rows. `sampling.n` is how often it may try until a reply passes."""

    instruction: Annotated[Text | None, Shipped("prompts/think-and-reply.txt", under="file")] = None
    """The prompt where the reply begins with thinking; none = prompts/think-and-reply.txt."""

    thinking: ThinkingRule = ThinkingRule()
    """Which prompts get a chain of thought."""

    plain: Annotated[Text | None, Shipped("prompts/reply.txt", under="file")] = None
    """The prompt where no thinking is wanted; none = prompts/reply.txt."""

    def prompt_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows as the model reads them."""
        with_thinking = prompt_filler(self, "think-and-reply", self.instruction)
        without_thinking = prompt_filler(self, "reply", self.plain)
        filled = []
        for row in rows:
            fill = with_thinking if self.thinking.applies(row) else without_thinking
            filled.append({**row, "prompt": fill(prompt=row["prompt"])})
        return filled

    def response(self, row: Row, text: str) -> str:
        """Return the model's reply as a response.

        It is malformed where thinking was wanted and is missing.
        """
        if self.thinking.applies(row):
            return written_response(text)
        return join_response("", after_thinking(text).strip())


# --- prompts ----------------------------------------------------------------------------------------------------------


def prompt_filler(teacher: Teacher, name: str, text: Text | None) -> Fill:
    """Return a function that fills the slots of a prompt.

    It fills all slots in one pass, so braces in what is filled in stay.

    Args:
        teacher: whose guidelines fill {guidelines}.
        name: our own prompt, configs/prompts/NAME.txt, which also says which slots there are.
        text: the config's prompt; None = our own.

    Raises:
        InputError: a slot is missing, or is there twice.
    """
    ours = TextFile(file=PROMPTS / f"{name}.txt")
    prompt = read_text(text or ours)
    slots = set(re.findall(r"\{([a-z]+)\}", read_text(ours)))

    # Without guidelines a prompt needs no slot for them.
    required = slots - {GUIDELINES}
    guidelines = ""
    if teacher.guidelines:
        required |= {GUIDELINES}
        guidelines = f"\nGuidelines:\n{read_text(teacher.guidelines)}\n"

    for slot in sorted(required):
        count = prompt.count(f"{{{slot}}}")
        if count != 1:
            where = (
                str(text.file) if isinstance(text, TextFile) else f"the instruction in place of {name}.txt"
            )
            raise InputError(
                f"the instruction holds {{{slot}}} {count} times", where, f"write {{{slot}}} once"
            )

    pattern = re.compile("|".join(re.escape(f"{{{slot}}}") for slot in slots))

    def fill(**parts: str) -> str:
        values = {GUIDELINES: guidelines, **parts}
        return pattern.sub(lambda match: values[match[0][1:-1]], prompt)

    return fill


def prompt_rows(source: TeacherSource, name: str, rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows as the model of the source `few-shot` or `direct` reads them.

    Raises:
        InputError: see prompt_filler, or an example has no thinking.
    """
    fill = prompt_filler(source, name, source.instruction)
    if name == "direct":
        return [{**row, "prompt": fill(prompt=row["prompt"])} for row in rows]

    examples = load(source.examples or Source(path=PROMPTS / "few-shot-examples.jsonl"), Chats, seed).rows
    for example in examples:
        if not split_response(example["messages"][-1]["content"]).thinking:
            raise InputError(
                f"the example {example['id']!r} has no thinking",
                "few-shot",
                "an example is a chat whose last message holds <think>...</think> and a solution",
            )
    texts_of: dict[Any, list[str]] = {}
    all_texts = []
    for example in examples:
        messages = example["messages"]
        text = f"Problem:\n{messages[0]['content']}\n\n{messages[-1]['content']}"
        texts_of.setdefault(example.get("language"), []).append(text)
        all_texts.append(text)

    filled = []
    for row in rows:
        texts = texts_of.get(row.get("language")) or all_texts
        # A generator for each row, so that its examples do not depend on the other rows.
        shown = random.Random(f"{seed}:{row['id']}").sample(texts, min(source.shots, len(texts)))
        filled.append({**row, "prompt": fill(prompt=row["prompt"], examples="\n\n".join(shown))})
    return filled


def check_teacher(teacher: Teacher, name: str) -> None:
    """Find mistakes in a teacher's block before hours of sampling.

    Raises:
        InputError: see prompt_filler, or the template cannot be read.
        ConfigError: a service's address or key is missing.
    """
    from r1pipe.generation.backends import load_generator

    prompt_filler(teacher, name, teacher.instruction)
    read_template(teacher.template)
    if teacher.sampling.endpoint is not None:
        load_generator(None, [], teacher.sampling, teacher.template, seed=0)


# --- replies ----------------------------------------------------------------------------------------------------------


def written_response(text: str) -> str:
    """Return the response that a model was asked to write.

    Where it thought on its own first and then wrote a think block, only the block and what follows count.

    >>> written_response("<think>they want tags</think><think>2+2=4</think>4")
    '<think>2+2=4</think>4'
    """
    _, closed, rest = text.partition(THINK_CLOSE)
    wrote_a_block = closed and THINK_OPEN in rest
    return (rest if wrote_a_block else text).strip()


def rewrite_all(
    candidates: Sequence[Candidate],
    rewriter: Rewriter,
    checkpoint: Path | None,
    *,
    here: Here,
    seed: int,
    verify: Callable[[list[Candidate]], list[Candidate]],
    engine: Engine = "local",
) -> list[Candidate]:
    """Return the candidates, with every one that is kept in its readable version.

    Args:
        candidates: the traces; those that were dropped stay as they are.
        rewriter: the model, and how often it may try.
        checkpoint: the rewriter's; None for a service.
        here: where the stage runs.
        seed: the run's.
        verify: verifies and screens the rewritten candidates. The first try that passes is taken.
        engine: see sample_and_verify.

    Raises:
        BudgetError: see sample_and_verify.
        StageError: see sample_and_verify.
    """
    from r1pipe.generation.sampling import sample_and_verify

    fill = prompt_filler(rewriter, "rewrite", rewriter.instruction)
    kept = [number for number, candidate in enumerate(candidates) if not candidate.reason]
    rows = [candidates[number].row for number in kept]
    prompts = []
    for number, row in zip(kept, rows, strict=True):
        parts = split_response(candidates[number].response)
        answer = _ANSWER_TAGS.sub("", parts.summary)
        prompt = fill(prompt=row["prompt"], thinking=parts.thinking or "", answer=answer)
        # A row may have several candidates, and ids are unique.
        prompts.append({**row, "id": f"{row['id']}/{number}", "prompt": prompt})

    tries_of_kept = sample_and_verify(
        checkpoint,
        rows,
        rewriter.sampling,
        rewriter.template,
        # The other ranks do not know which candidates are kept.
        here=replace(here, rank=0, world_size=1),
        seed=seed,
        source="rewritten",
        verify=lambda replies: verify([parse_rewrite(reply) for reply in replies]),
        stop_after=1,
        prompt_rows=prompts,
        label="rewritten",
        engine=engine,
    )

    readable = list(candidates)
    for number, tries in zip(kept, tries_of_kept, strict=True):
        best = next((attempt for attempt in tries if not attempt.reason), tries[-1])
        reason = f"rewritten: {best.reason}" if best.reason else ""
        readable[number] = replace(candidates[number], response=best.response, tokens=None, reason=reason)
    return readable


def parse_rewrite(candidate: Candidate) -> Candidate:
    """Return a rewriter's reply as a response; it is dropped where a part is missing."""
    if candidate.reason:
        return candidate
    match = _REWRITE.search(after_thinking(candidate.response))
    if match is None:
        return candidate.drop("the rewriter left out a part" if candidate.finished else "cut off")
    thinking, summary = match.groups()
    return replace(candidate, response=join_response(thinking.strip(), summary.strip()))

"""Where rows come from: the embedded world, files of the user's, a dataset on the hub, or reasoning-gym.

source: {world: reasoning, count: 4096}
source: {path: gsm8k_train.jsonl.gz, columns: {prompt: problem}, domain: word-problems}
source: [{path: "chats/*.jsonl.zst", shape: instruction}, {world: general, count: 500}]
source: {hub: openai/gsm8k, config: main, revision: <40 hex digits>, columns: {prompt: question}, answer_after: "####", domain: word-problems}
source: {reasoning_gym: [chain_sum, sudoku], count: 1000}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from r1pipe.artifacts import Artifact, Prompts
from r1pipe.data.io import check_row
from r1pipe.errors import InputError
from r1pipe.schema import Model, Ordered
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN, REASONING_DOMAINS

WORLD_GROUPS: dict[str, tuple[str, ...]] = {
    "reasoning": REASONING_DOMAINS,
    "general": (GENERAL_DOMAIN,),
    "safety": (HARMFUL_DOMAIN, LOOKALIKE_DOMAIN),
    **{name: (name,) for name in (*REASONING_DOMAINS, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)},
}


def _unless(default: Any) -> Any:
    """For a field that came later: its default is left out of the dump, so that older fingerprints stay."""
    return lambda value: value == default


class Source(Model):
    """One place that rows come from: `world`, `path`, `hub` or `reasoning_gym`."""

    world: str | list[str] | None = Field(
        default=None, description=f"kinds of the embedded world: {', '.join(WORLD_GROUPS)}"
    )
    path: Path | list[Path] | None = Field(
        default=None, description="jsonl (.gz, .zst, .xz, .bz2) or parquet files, a dataset folder, or a pattern with *"
    )
    hub: str | None = Field(
        default=None, exclude_if=_unless(None), description="OWNER/NAME of a dataset on the Hugging Face hub"
    )
    revision: str | None = Field(
        default=None,
        exclude_if=_unless(None),
        description="of the hub: the commit's 40 hex digits (`r1pipe data pin OWNER/NAME`)",
    )
    config: str | None = Field(
        default=None,
        exclude_if=_unless(None),
        description="of the hub: the dataset's configuration; none = its only one",
    )
    hub_split: str = Field(
        default="train",
        exclude_if=_unless("train"),
        description="of the hub: the dataset's own split; `split` and `shares` divide it",
    )
    reasoning_gym: Annotated[list[str] | dict[str, dict[str, Any]] | None, Ordered()] = Field(
        default=None,
        exclude_if=_unless(None),
        description="names of tasks, or task -> its settings, e.g. {chain_sum: {max_terms: 8}} (r1pipe/data/gym_source.py)",
    )
    count: int | None = Field(
        default=None,
        ge=1,
        description="rows to take, drawn by the seed; none = all of a file (the world needs a number)",
    )
    split: Literal["train", "dev", "heldout", "all"] = Field(
        default="train", description="which problems: the world's by identity, a file's by the hash of the prompt"
    )
    shares: Annotated[dict[str, float], Ordered()] = Field(
        default_factory=dict,
        description="of a file: split -> share of its problems, e.g. {dev: 0.05, heldout: 0.05}; train gets the rest",
    )
    languages: list[str] = Field(
        default_factory=lambda: ["en", "zh"], description="of the world: ISO 639-1 codes (en and zh, as in v2 B.3.1)"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="of a file: our column -> its column, e.g. {prompt: problem}"
    )
    values: dict[str, dict[str, str | int]] = Field(
        default_factory=dict,
        description="of a file: column -> {its value: our value}, e.g. {domain: {safe: lookalike}}",
    )
    templates: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=_unless({}),
        description="of a file: our column -> a text with {ITS COLUMN}; a list gives its items as lines, {choices:A} as A) ..., B) ...",
    )
    shape: Literal["rows", "instruction", "compared", "chosen-rejected", "reference-tests", "refused"] = Field(
        default="rows", description="of a file: how its columns lie (r1pipe/data/shapes.py)"
    )
    where: dict[str, list[bool | int | str]] = Field(
        default_factory=dict,
        description="of a file: column -> the values of the rows to take, e.g. {lang: [en, zh]}; its own names",
    )
    domain: str | None = Field(default=None, description="of a file: for rows that have no column `domain`")
    language: str | None = Field(
        default=None,
        description="of a file: for rows that have no column `language`; none = a reader takes the question's own",
    )
    answer_after: str | None = Field(
        default=None,
        description="of a file: the answer is what stands after this mark in the column answer ('####' in GSM8K's own files)",
    )
    max_unparseable: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the rows whose gold answer cannot be read; more is refused (our choice)",
    )
    on_bad_row: Literal["refuse", "skip"] = Field(
        default="refuse",
        exclude_if=_unless("refuse"),
        description="of a file: a malformed row stops the stage, or goes to dropped.jsonl with its reason",
    )
    max_bad_rows: float = Field(
        default=0.01,
        ge=0,
        le=1,
        exclude_if=_unless(0.01),
        description="share of malformed rows that `skip` allows (our choice)",
    )

    @field_validator("shares")
    @classmethod
    def _below_one(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := set(value) - {"dev", "heldout"}:
            raise ValueError(
                f"shares has {', '.join(sorted(unknown))}; the splits are dev and heldout, train gets the rest"
            )
        if any(share < 0 for share in value.values()) or sum(value.values()) >= 1:
            raise ValueError("shares must be at least 0 and add up to less than 1")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        places = {name for name in ("world", "path", "hub", "reasoning_gym") if getattr(self, name) is not None}
        if len(places) != 1:
            raise ValueError("give one of `world`, `path`, `hub` and `reasoning_gym`")
        generated = places & {"world", "reasoning_gym"}
        if generated and self.count is None:
            raise ValueError(
                "the world is endless: give a `count`" if self.world else "reasoning-gym is endless: give a `count`"
            )
        if self.world is not None:
            if unknown := [name for name in self.worlds if name not in WORLD_GROUPS]:
                raise ValueError(f"the world has no {unknown[0]!r}; it has {', '.join(WORLD_GROUPS)}")
            if self.split == "all":
                raise ValueError("the world is asked for one split: train, dev or heldout")
        elif self.split not in ("train", "all") and not self.shares.get(self.split):
            raise ValueError(f"split {self.split} is empty: give it a share, e.g. shares: {{{self.split}: 0.05}}")
        of_files = ("columns", "values", "templates", "where", "shape", "language", "answer_after", "on_bad_row")
        ignored = {
            "its rows need no mapping": of_files + (("shares", "domain") if self.world else ()) if generated else (),
            "it is no hub dataset": () if self.hub else ("revision", "config", "hub_split"),
            "the world alone is asked for languages; `where` and `language` are for files": ()
            if self.world
            else ("languages",),
        }
        for why, names in ignored.items():
            if changed := self.changed(names):
                raise ValueError(f"{', '.join(changed)} would be ignored: {why}")
        if self.hub:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub):
                raise ValueError("hub is OWNER/NAME")
            if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
                raise ValueError(
                    f"a dataset on the hub can change: give `revision`, 40 hex digits; `r1pipe data pin {self.hub}` prints today's"
                )
        return self

    @property
    def worlds(self) -> list[str]:
        return [self.world] if isinstance(self.world, str) else list(self.world or ())

    @property
    def paths(self) -> list[Path]:
        return [self.path] if isinstance(self.path, Path) else list(self.path or ())

    @property
    def name(self) -> str:
        return self.hub or "+".join(self.worlds or self.reasoning_gym or [path.name for path in self.paths])


Sources = Annotated[
    Annotated[Source, Tag("one")] | Annotated[list[Source], Tag("several"), Field(min_length=1)],
    Discriminator(
        lambda value: "several" if isinstance(value, list) else "one"
    ),  # a plain union would report the mistakes of both branches
]
"""One source or a list of them."""


@dataclass
class Loaded:
    """Rows of one kind, what was left out (each with a `reason`), and how many came from where."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(row["reason"] for row in self.dropped))


def load(
    sources: Source | Sequence[Source],
    kind: type[Artifact],
    seed: int,
    isolation: bool = True,
    fill: dict[str, str] | None = None,
) -> Loaded:
    """Read rows of `kind` from all sources.

    Args:
        sources: one or several; ids must be unique over all of them.
        kind: Prompts, Chats, Pairs or Labels.
        seed: draws `count` rows of a larger file, and the world's problems.
        isolation: False leaves code rows out, since nothing could run their tests.
        fill: for shape instruction, {{name}} -> value.

    Raises:
        InputError: see r1pipe/data/io.py; also more than `max_unparseable` unreadable gold answers, or nothing left.
    """
    from r1pipe.data.selection import Draw

    loaded = Loaded()
    seen: dict[str, str] = {}
    for source in [sources] if isinstance(sources, Source) else sources:
        before = len(loaded.rows)
        if source.world or source.reasoning_gym:
            found = _generated(source, kind, seed)
            for where, row in found:
                check_row(row, kind, where, seen)
        else:
            found = Draw(source, kind, loaded, fill or {}).rows(seed, seen)
        for _, row in found:
            if not isolation and row["domain"] == "code":
                loaded.dropped.append({**row, "reason": "code without isolation"})
            else:
                loaded.rows.append(row)
        loaded.sources[source.name] = loaded.sources.get(source.name, 0) + len(loaded.rows) - before
    if not loaded.rows:
        raise InputError(
            f"no rows are left of {' and '.join(loaded.sources)}",
            str(loaded.reasons or ""),
            "give another source, or another split",
        )
    return loaded


def _generated(source: Source, kind: type[Artifact], seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Rows of the world, or of reasoning-gym."""
    maker = "the world" if source.world else "reasoning-gym"
    if kind is not Prompts:
        raise InputError(
            f"{maker} gives prompts, not {kind.kind}",
            source.name,
            "let the stage write or judge them, or give a `path`",
        )
    if source.reasoning_gym:
        from r1pipe.data.gym_source import gym_rows

        return [(f"reasoning-gym {row['id']}", row) for row in gym_rows(source, seed)]
    from r1pipe.embedded.world import problems

    domains = tuple(dict.fromkeys(domain for name in source.worlds for domain in WORLD_GROUPS[name]))
    assert source.count is not None
    rows = problems(source.split, domains, source.count, seed, tuple(source.languages))
    return [(f"world {source.name}, row {number}", dict(row)) for number, row in enumerate(rows, 1)]

"""Where rows come from: the embedded world, the user's files, a dataset on the hub, or reasoning-gym.

source: {world: reasoning, count: 4096}
source: {path: gsm8k_train.jsonl.gz, columns: {prompt: problem}, domain: word-problems}
source: [{path: "chats/*.jsonl.zst", shape: instruction}, {world: general, count: 500}]
source: {hub: openai/gsm8k, config: main, revision: <40 hex digits>, columns: {prompt: question}, answer_after: "####"}
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
from r1pipe.data.files import Located, Row
from r1pipe.data.io import check_row
from r1pipe.errors import InputError
from r1pipe.schema import Model, Ordered
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN, REASONING_DOMAINS

# What `world` may name -> the domains that it stands for.
WORLD_GROUPS: dict[str, tuple[str, ...]] = {
    "reasoning": REASONING_DOMAINS,
    "general": (GENERAL_DOMAIN,),
    "safety": (HARMFUL_DOMAIN, LOOKALIKE_DOMAIN),
    **{name: (name,) for name in (*REASONING_DOMAINS, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)},
}

# A source states exactly one of these.
_PLACES = ("world", "path", "hub", "reasoning_gym")

# Fields that describe the columns of a file; generated rows have our columns already.
_OF_FILES = ("columns", "values", "templates", "where", "shape", "language", "answer_after", "on_bad_row")


class Between(Model):
    """Whole numbers, both ends among them."""

    least: int
    most: int


class Source(Model):
    """One place that rows come from: `world`, `path`, `hub` or `reasoning_gym`."""

    world: str | list[str] | None = Field(
        default=None,
        description=f"kinds of the embedded world: {', '.join(WORLD_GROUPS)}",
    )

    path: Path | list[Path] | None = None
    """jsonl (.gz, .zst, .xz, .bz2), json or parquet files, a dataset folder, or a pattern with *"""

    hub: str | None = None
    """OWNER/NAME of a dataset on the Hugging Face hub"""

    revision: str | None = None
    """of the hub: the commit's 40 hex digits (`r1pipe data pin OWNER/NAME`); none or a branch = the newest"""

    config: str | None = None
    """of the hub: the dataset's configuration; none = its only one"""

    hub_split: str = "train"
    """of the hub: the dataset's own split; `split` and `shares` divide it"""

    reasoning_gym: Annotated[list[str] | dict[str, dict[str, Any]] | None, Ordered()] = None
    """names of tasks, or task -> its settings, e.g. {chain_sum: {max_terms: 8}} (r1pipe/data/gym_source.py)"""

    count: int | None = Field(default=None, ge=1, le=10**9)
    """rows to take, drawn by the seed; none = all of a file (the world needs a number)"""

    split: Literal["train", "dev", "heldout", "all"] = "train"
    """which problems: the world's by identity, a file's by the hash of the prompt"""

    shares: Annotated[dict[str, float], Ordered()] = Field(default_factory=dict)
    """of a file: split -> share of its problems, e.g. {dev: 0.05, heldout: 0.05}; train gets the rest"""

    languages: list[str] = Field(default_factory=lambda: ["en", "zh"])
    """of the world: ISO 639-1 codes (en and zh, as in v2 B.3.1)"""

    columns: dict[str, str] = Field(default_factory=dict)
    """of a file: our column -> its column, e.g. {prompt: problem}"""

    values: dict[str, dict[str, str | int]] = Field(default_factory=dict)
    """of a file: column -> {its value: our value}, e.g. {domain: {safe: lookalike}}"""

    templates: dict[str, str] = Field(default_factory=dict)
    """of a file: our column -> a text with {ITS COLUMN}; a list gives its items as lines, with {choices:A} as lines
    A) ..., B) ..."""

    shape: Literal[
        "rows",
        "instruction",
        "compared",
        "chosen-rejected",
        "reference-tests",
        "refused",
        "trl",
        "alpaca",
        "sharegpt",
        "axolotl",
        "verl",
        "open-r1",
        "openthoughts",
    ] = "rows"
    """of a file: the arrangement of its columns (r1pipe/data/shapes.py); rows = ours, or any other tool's"""

    where: dict[str, list[bool | int | str] | Between] = Field(default_factory=dict)
    """of a file: column -> the values of the rows to take, e.g. {lang: [en, zh], task_id: {least: 11, most: 510}}; in
    the file's own names"""

    domain: str | None = None
    """of a file: for rows that have no column `domain`"""

    language: str | None = None
    """of a file: for rows that have no column `language`; none = a reader takes the question's own"""

    answer_after: str | None = None
    """of a file: the mark in the column `answer` after which the answer comes ('####' in GSM8K's own files)"""

    max_unparseable: float = Field(default=0.05, ge=0, le=1)
    """share of the rows whose gold answer cannot be read; more is refused (our choice)"""

    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """of a file: a malformed row stops the stage, or goes to dropped.jsonl with its reason"""

    max_bad_rows: float = Field(default=0.01, ge=0, le=1)
    """share of malformed rows that `skip` allows, of empty replies, and of rows whose messages have keys that nothing
    reads (our choice)"""

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        unknown = set(shares) - {"dev", "heldout"}
        if unknown:
            raise ValueError(
                f"shares has {', '.join(sorted(unknown))}; the splits are dev and heldout, train gets the rest"
            )
        if any(share < 0 for share in shares.values()) or sum(shares.values()) >= 1:
            raise ValueError("shares must be at least 0 and add up to less than 1")
        return shares

    @model_validator(mode="after")
    def _check_place(self) -> Source:
        places = [name for name in _PLACES if getattr(self, name) is not None]
        if len(places) != 1:
            raise ValueError("give one of `world`, `path`, `hub` and `reasoning_gym`")
        if not getattr(self, places[0]):
            raise ValueError(f"`{places[0]}` is empty: name at least one")
        if self.generated and self.count is None:
            name = "the world" if self.world else "reasoning-gym"
            raise ValueError(f"{name} is endless: give a `count`")
        return self

    @model_validator(mode="after")
    def _check_split(self) -> Source:
        if self.world is not None:
            unknown = [name for name in self.worlds if name not in WORLD_GROUPS]
            if unknown:
                raise ValueError(f"the world has no {unknown[0]!r}; it has {', '.join(WORLD_GROUPS)}")
            if self.split == "all":
                raise ValueError("the world gives one split: train, dev or heldout")
        elif self.split not in ("train", "all") and not self.shares.get(self.split):
            raise ValueError(
                f"split {self.split} is empty: give it a share, e.g. shares: {{{self.split}: 0.05}}"
            )
        return self

    @model_validator(mode="after")
    def _refuse_ignored_fields(self) -> Source:
        if self.world:
            self._refuse_changed((*_OF_FILES, "shares", "domain"), "its rows need no mapping")
        if self.reasoning_gym:
            self._refuse_changed(_OF_FILES, "its rows need no mapping")
        if not self.hub:
            self._refuse_changed(("revision", "config", "hub_split"), "the source is not a hub dataset")
        if not self.world:
            self._refuse_changed(
                ("languages",),
                "only the world has languages to choose; `where` and `language` are for files",
            )
        return self

    def _refuse_changed(self, names: Sequence[str], why: str) -> None:
        # The config that a worker reads states every default, so a stated field need not be the user's.
        changed = self.changed(names)
        if changed:
            raise ValueError(f"{', '.join(changed)} would be ignored: {why}")

    @model_validator(mode="after")
    def _check_hub(self) -> Source:
        if not self.hub:
            return self
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub):
            raise ValueError(f"hub is {self.hub!r}; write OWNER/NAME")
        return self

    @property
    def pinned(self) -> bool:
        """Whether it reads the same rows tomorrow: a branch, a tag or no revision at all can move; a commit cannot."""
        return not self.hub or re.fullmatch(r"[0-9a-f]{40}", self.revision or "") is not None

    @property
    def generated(self) -> bool:
        """Whether a program makes the rows: the world, or reasoning-gym."""
        return self.world is not None or self.reasoning_gym is not None

    @property
    def worlds(self) -> list[str]:
        """The names under `world`."""
        return [self.world] if isinstance(self.world, str) else list(self.world or ())

    @property
    def paths(self) -> list[Path]:
        """The paths and patterns under `path`."""
        return [self.path] if isinstance(self.path, Path) else list(self.path or ())

    @property
    def name(self) -> str:
        """A short name for messages and cards."""
        if self.hub:
            return self.hub
        return "+".join(self.worlds or self.reasoning_gym or [path.name for path in self.paths])


Sources = Annotated[
    Annotated[Source, Tag("one")] | Annotated[list[Source], Tag("several"), Field(min_length=1)],
    # Without a discriminator, pydantic would report the mistakes of both branches.
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]
"""One source or a list of them."""


@dataclass
class Loaded:
    """Rows of one kind."""

    rows: list[Row] = field(default_factory=list)

    dropped: list[Row] = field(default_factory=list)
    """The rows that were left out, each with a `reason`."""

    sources: dict[str, int] = field(default_factory=dict)
    """Name of a source -> the number of its rows."""

    prompts: set[str] = field(default_factory=set, repr=False)
    """The contents of the prompts that were taken of files (splits.content_key); none is taken twice."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> the number of dropped rows."""
        return dict(Counter(row["reason"] for row in self.dropped))


def load(
    sources: Source | Sequence[Source],
    kind: type[Artifact],
    seed: int,
    *,
    isolation: bool = True,
    fill: dict[str, str] | None = None,
) -> Loaded:
    """Read rows of `kind` from all sources.

    Args:
        sources: one or several; ids must be unique over all of them.
        kind: Prompts, Chats, Pairs or Labels.
        seed: draws `count` rows of a larger file, and the world's problems.
        isolation: False leaves code rows out, since their tests could not be run.
        fill: for shape instruction, {{name}} -> value.

    Raises:
        InputError: see r1pipe/data/io.py; also if more gold answers than `max_unparseable` are unreadable, or no row
            is left.
    """
    from r1pipe.data.selection import SourceReader

    loaded = Loaded()
    seen: dict[str, str] = {}
    for source in [sources] if isinstance(sources, Source) else sources:
        if source.generated:
            located = _generate(source, kind, seed)
            for where, row in located:
                check_row(row, kind, where, seen)
        else:
            located = SourceReader(source, kind, loaded, fill or {}).rows(seed, seen)

        before = len(loaded.rows)
        for _, row in located:
            if row["domain"] == "code" and not isolation:
                loaded.dropped.append({**row, "reason": "code without isolation"})
            else:
                loaded.rows.append(row)
        count = len(loaded.rows) - before
        loaded.sources[source.name] = loaded.sources.get(source.name, 0) + count

    if not loaded.rows:
        raise InputError(
            f"no rows are left of {' and '.join(loaded.sources)}",
            str(loaded.reasons or ""),
            "give another source, or another split",
        )
    return loaded


def _generate(source: Source, kind: type[Artifact], seed: int) -> list[Located]:
    """Rows of the world, or of reasoning-gym."""
    if kind is not Prompts:
        maker = "the world" if source.world else "reasoning-gym"
        raise InputError(
            f"{maker} gives prompts, not {kind.kind}",
            source.name,
            "let the stage write or judge them, or give a `path`",
        )

    if source.reasoning_gym:
        from r1pipe.data.gym_source import gym_rows

        return [(f"reasoning-gym {row['id']}", row) for row in gym_rows(source, seed)]

    from r1pipe.embedded.world import problems

    domains = [domain for name in source.worlds for domain in WORLD_GROUPS[name]]
    # `world: [reasoning, math]` names math twice.
    unique_domains = tuple(dict.fromkeys(domains))
    assert source.count is not None
    rows = problems(source.split, unique_domains, source.count, seed, tuple(source.languages))
    return [(f"world {source.name}, row {number}", dict(row)) for number, row in enumerate(rows, 1)]

"""Where rows come from: the embedded world, or files of the user's in one of five shapes.

source: {world: reasoning, count: 4096}
source: {path: gsm8k_train.jsonl.gz, columns: {prompt: problem}, domain: word-problems}
source: [{path: "chats/*.jsonl", shape: instruction}, {world: general, count: 500}]
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from r1pipe.artifacts import Artifact, Prompts
from r1pipe.data.io import check_row, read_raw
from r1pipe.data.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN, REASONING_DOMAINS
from r1pipe.data.splits import content_key, split_of
from r1pipe.errors import InputError
from r1pipe.schema import Model

WORLD_GROUPS: dict[str, tuple[str, ...]] = {
    "reasoning": REASONING_DOMAINS,
    "general": (GENERAL_DOMAIN,),
    "safety": (HARMFUL_DOMAIN, LOOKALIKE_DOMAIN),
    **{name: (name,) for name in (*REASONING_DOMAINS, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)},
}


class Source(Model):
    """One place that rows come from: `world` or `path`."""

    world: str | list[str] | None = Field(default=None, description=f"kinds of the embedded world: {', '.join(WORLD_GROUPS)}")
    path: Path | list[Path] | None = Field(default=None, description="jsonl, jsonl.gz or parquet files, a dataset folder, or a pattern with *")
    count: int | None = Field(default=None, ge=1, description="rows to take, drawn by the seed; none = all of a file (the world needs a number)")
    split: Literal["train", "dev", "heldout", "all"] = Field(
        default="train", description="which problems: the world's by identity, a file's by the hash of the prompt"
    )
    shares: dict[str, float] = Field(
        default_factory=dict, description="of a file: split -> share of its problems, e.g. {dev: 0.05, heldout: 0.05}; train gets the rest"
    )
    languages: list[str] = Field(default_factory=lambda: ["en", "zh"], description="of the world: ISO 639-1 codes (en and zh, as in v2 B.3.1)")
    columns: dict[str, str] = Field(default_factory=dict, description="of a file: our column -> its column, e.g. {prompt: problem}")
    values: dict[str, dict[str, str | int]] = Field(
        default_factory=dict, description="of a file: column -> {its value: our value}, e.g. {domain: {safe: lookalike}}"
    )
    shape: Literal["rows", "instruction", "compared", "chosen-rejected", "refused"] = Field(
        default="rows", description="of a file: how its columns lie (r1pipe/data/shapes.py)"
    )
    where: dict[str, list[str]] = Field(
        default_factory=dict, description="of a file: column -> the values of the rows to take, e.g. {lang: [en, zh]}; its own names"
    )
    domain: str | None = Field(default=None, description="of a file: for rows that have no column `domain`")
    language: str | None = Field(default=None, description="of a file: for rows that have no column `language`; none = a reader takes the question's own")
    answer_after: str | None = Field(
        default=None, description="of a file: the answer is what stands after this mark in the column answer ('####' in GSM8K's own files)"
    )
    max_unparseable: float = Field(default=0.05, ge=0, le=1, description="share of the rows whose gold answer cannot be read; more is refused (our choice)")

    @field_validator("shares")
    @classmethod
    def _below_one(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := set(value) - {"dev", "heldout"}:
            raise ValueError(f"shares has {', '.join(sorted(unknown))}; the splits are dev and heldout, train gets the rest")
        if any(share < 0 for share in value.values()) or sum(value.values()) >= 1:
            raise ValueError("shares must be at least 0 and add up to less than 1")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.world is None) == (self.path is None):
            raise ValueError("give either `world` or `path`")
        if self.world is not None:
            if unknown := [name for name in self.worlds if name not in WORLD_GROUPS]:
                raise ValueError(f"the world has no {unknown[0]!r}; it has {', '.join(WORLD_GROUPS)}")
            if self.count is None:
                raise ValueError("the world is endless: give a `count`")
            if self.split == "all":
                raise ValueError("the world is asked for one split: train, dev or heldout")
            # By value and not by what was stated: a resolved config states every default.
            names = ("shares", "columns", "values", "where", "shape", "domain", "language", "answer_after")
            of_files = [name for name in names if getattr(self, name) not in ({}, None, "rows")]
            if of_files:
                raise ValueError(f"{', '.join(of_files)} would be ignored: the world's rows need no mapping")
        elif self.split not in ("train", "all") and not self.shares.get(self.split):
            raise ValueError(f"split {self.split} is empty: give it a share, e.g. shares: {{{self.split}: 0.05}}")
        return self

    @property
    def worlds(self) -> list[str]:
        return [self.world] if isinstance(self.world, str) else list(self.world or ())

    @property
    def paths(self) -> list[Path]:
        return [self.path] if isinstance(self.path, Path) else list(self.path or ())

    @property
    def name(self) -> str:
        return "+".join(self.worlds) if self.world else "+".join(path.name for path in self.paths)


Sources = Annotated[
    Annotated[Source, Tag("one")] | Annotated[list[Source], Tag("several"), Field(min_length=1)],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),  # a plain union would report the mistakes of both branches
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


def load(sources: Source | Sequence[Source], kind: type[Artifact], seed: int, isolation: bool = True, fill: dict[str, str] | None = None) -> Loaded:
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
    loaded = Loaded()
    seen: dict[str, str] = {}
    for source in [sources] if isinstance(sources, Source) else sources:
        before = len(loaded.rows)
        found = _from_world(source, kind, seed) if source.world else _from_files(source, kind, seed, loaded, fill or {})
        for where, row in found:
            check_row(row, kind, where, seen)
            if not isolation and row["domain"] == "code":
                loaded.dropped.append({**row, "reason": "code without isolation"})
            else:
                loaded.rows.append(row)
        loaded.sources[source.name] = loaded.sources.get(source.name, 0) + len(loaded.rows) - before
    if not loaded.rows:
        raise InputError(f"no rows are left of {' and '.join(loaded.sources)}", str(loaded.reasons or ""), "give another source, or another split")
    return loaded


def _from_world(source: Source, kind: type[Artifact], seed: int) -> list[tuple[str, dict[str, Any]]]:
    from r1pipe.embedded.world import problems

    if kind is not Prompts:
        raise InputError(f"the world gives prompts, not {kind.kind}", source.name, "let the stage write or judge them, or give a `path`")
    domains = tuple(dict.fromkeys(domain for name in source.worlds for domain in WORLD_GROUPS[name]))
    assert source.count is not None
    rows = problems(source.split, domains, source.count, seed, tuple(source.languages))
    return [(f"world {source.name}, row {number}", dict(row)) for number, row in enumerate(rows, 1)]


def _from_files(source: Source, kind: type[Artifact], seed: int, loaded: Loaded, fill: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    from r1pipe.data.shapes import SHAPES, Skip, finish

    found: list[tuple[str, dict[str, Any]]] = []
    total = 0
    for path in _expand(source.paths):
        for where, raw in read_raw(path):
            total += 1
            if any(str(raw.get(column)) not in values for column, values in source.where.items()):
                continue
            try:
                shaped = SHAPES[source.shape](raw, source, where)
            except Skip as skip:
                loaded.dropped.append({"id": str(raw.get("id", where)), "where": where, "reason": str(skip)})
                continue
            for row in (made for one in shaped for made in finish(one, kind, source, where, fill)):
                if source.split == "all" or split_of(_question(row), source.shares) == source.split:
                    found.append((where, row))
    if not total:
        raise InputError("the dataset is empty", source.name, "give at least one row")
    # By content, so that neither file order nor file names matter; then by the seed.
    found.sort(key=lambda item: (content_key(_question(item[1])), str(item[1]["id"])))
    random.Random(seed).shuffle(found)
    if kind is Prompts:
        found = _parseable(found, source, loaded)
    elif source.count:
        found = found[: source.count]
    if source.count and len(found) < source.count:
        warnings.warn(f"{source.name}: {source.count} rows were asked for and {len(found)} are there", stacklevel=2)
    return found


def _question(row: dict[str, Any]) -> str:
    return row["prompt"] if "prompt" in row else row["messages"][0]["content"]


def _expand(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        path = path.expanduser()
        if any(mark in str(path) for mark in "*?["):
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor) if path.anchor else path)))
            if not matches:
                raise InputError("no file matches", str(path), "check the pattern; a relative path counts from the YAML that states it")
            files.extend(matches)
        else:
            files.append(path)
    return files


def _parseable(found: list[tuple[str, dict[str, Any]]], source: Source, loaded: Loaded) -> list[tuple[str, dict[str, Any]]]:
    """The first `count` rows whose gold answer the verifier itself can read; the others are counted, and too many are refused."""
    from r1pipe.data.shapes import unreadable_gold

    kept: list[tuple[str, dict[str, Any]]] = []
    wanted = source.count or len(found)
    bad: list[str] = []
    checked = 0
    while len(kept) < wanted and checked < len(found):
        chunk = found[checked : checked + max(256, wanted - len(kept))]
        for (where, row), reason in zip(chunk, unreadable_gold([row for _, row in chunk]), strict=True):
            if len(kept) == wanted:
                break
            checked += 1
            if reason:
                bad.append(f"{where} ({row.get('answer')!r})")
                loaded.dropped.append({**row, "reason": reason})
            else:
                kept.append((where, row))
    if bad and len(bad) > source.max_unparseable * checked:
        raise InputError(
            f"{len(bad)} of {checked} rows have an answer that cannot be read; {source.max_unparseable:.0%} may",
            "; ".join(bad[:3]),
            "correct or remove them, map another column with `columns: {answer: ...}`, use `answer_after`, or raise `max_unparseable`",
        )
    if bad:
        warnings.warn(f"{source.name}: {len(bad)} of {checked} rows skipped, their answer cannot be read, e.g. {bad[0]}", stacklevel=2)
    return kept

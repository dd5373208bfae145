"""Samples of the evaluated checkpoints, side by side by problem: a part of them, of all domains alike."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from r1pipe.data.files import read_raw
from r1pipe.errors import InputError
from r1pipe.run.records import read_object
from r1pipe.run.report.figure import kind_of, texts
from r1pipe.run.store import RunFolder, outputs_of
from r1pipe.text.regular_files import open_regular

# In the page. All of them are in samples.parquet, and in the stages' folders.
MOST_SAMPLES = 2000
MOST_CHARACTERS = 3000

# The beginning of a line of a report's rows.jsonl. Thousands of lines are passed over by it, which is much cheaper than
# reading each as JSON.
_LINE = re.compile(rb'\{"pass": [^,]*, "id": "([^"\\]*)", "domain": "([^"\\]*)", "sample": 0,')

# Suites in whose scores a response is right or wrong, where its domain has none of its own.
_INSTEAD = ("reasoning", "harmless", "general")
# The same where a high score is bad.
_REVERSED = "over-refusal"


def samples(stages: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> dict[str, Any]:
    """One response of each checkpoint to each of some problems.

    Returns:
        checkpoints: their names, in the order of the stages.
        total: all samples that were drawn.
        problems: [{id, domain, prompt, answer, replies: {checkpoint: {text, right, tokens, finished}}}], where `right`
        is None if nothing judges it.
    """
    reports = reports_of(stages, folder)
    if not reports:
        return {"checkpoints": [], "total": 0, "problems": []}
    # A checkpoint that was evaluated on other problems still gets its own.
    total = 0
    indices: dict[str, dict[str, Place]] = {}
    domains: dict[str, str] = {}
    for checkpoint, path in reports.items():
        places, lines = index(path)
        indices[checkpoint] = places
        total += lines
        for name, place in places.items():
            domains.setdefault(name, place.domain)

    problems: dict[str, dict[str, Any]] = {}
    for name in _some_of(domains, MOST_SAMPLES // len(reports)):
        problems[name] = {"id": name, "domain": domains[name], "replies": {}}
    for checkpoint, path in reports.items():
        for name, line in _lines_at(path, indices[checkpoint], problems):
            problems[name]["replies"][checkpoint] = _reply(line)
    _add_prompts(problems, stages, folder)
    return {
        "checkpoints": list(reports),
        "total": total,
        "problems": list(problems.values()),
    }


class Place(NamedTuple):
    """Where the first sample of a problem stands: the byte of its line."""

    domain: str
    offset: int


def index(path: Path) -> tuple[dict[str, Place], int]:
    """The places of the problems in a report's rows by id, and the number of lines; once while the file stays."""
    state = path.stat()
    return _index(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _index(path: Path, _size: int, _time: int) -> tuple[dict[str, Place], int]:
    places: dict[str, Place] = {}
    offset = 0
    count = 0
    for line in _lines(path):
        match = _LINE.match(line)
        if match:
            name, domain = match[1].decode(), match[2].decode()
            places.setdefault(name, Place(domain, offset))
        offset += len(line)
        count += 1
    return places, count


def _lines_at(
    path: Path,
    places: Mapping[str, Place],
    wanted: Iterable[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, line) of each problem that is wanted."""
    with open_regular(path) as stream:
        for name in wanted:
            if name not in places:
                continue
            # A report of many gigabytes is not read for a hundred of its lines.
            stream.seek(places[name].offset)
            yield name, json.loads(stream.readline())


def reports_of(stages: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> dict[str, Path]:
    """checkpoint -> rows.jsonl of each evaluation that is done."""
    reports: dict[str, Path] = {}
    for name in stages:
        for output, path in outputs_of(folder.stage(name)):
            if output["type"] != "report":
                continue
            rows = path / "rows.jsonl"
            first = next(_lines(rows), b"")
            if _LINE.match(first):
                scores = read_object(path / "scores.json")
                reports[next(iter(scores), output["name"])] = rows
    return reports


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as stream:
            yield from stream
    except OSError:
        return


def _some_of(domains: Mapping[str, str], most: int) -> list[str]:
    """Problems of all domains by turns, in an order that their names alone decide."""
    by_domain: dict[str, list[str]] = {}
    for name in sorted(domains, key=_hash):
        by_domain.setdefault(domains[name], []).append(name)
    # A domain with few problems would not be seen in a plain draw.
    by_turns: list[str | None] = []
    for turn in zip_longest(*by_domain.values()):
        by_turns += turn
    return [name for name in by_turns if name is not None][:most]


# Python's own hash of a text is another one in each process, and the page would change with it.
def _hash(name: str) -> int:
    return zlib.crc32(name.encode())


def _reply(line: dict[str, Any]) -> dict[str, Any]:
    # A response of 32,768 tokens is 100 KB, and there are two thousand.
    text = str(line.get("response", ""))
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]} [... {len(text)} characters]"
    return {
        "text": text,
        "right": verdict(line.get("scores") or {}, line.get("domain", "")),
        "tokens": line.get("tokens"),
        "finished": line.get("finished", True),
    }


def verdict(scores: Mapping[str, float | None], domain: str) -> bool | None:
    """Whether a response is right; None where nothing judges it."""
    refused = scores.get(_REVERSED)
    if refused is not None:
        return refused < 0.5
    values = [scores.get(suite) for suite in (domain, *_INSTEAD)]
    judged = [value for value in values if value is not None]
    return judged[0] >= 0.5 if judged else None


def _add_prompts(
    problems: dict[str, dict[str, Any]],
    stages: Mapping[str, Mapping[str, Any]],
    folder: RunFolder,
) -> None:
    """The questions and gold answers, from the prompts that evaluations read, as far as they are at hand."""
    wanted: set[str] = set()
    for name, block in stages.items():
        inputs = block.get("inputs")
        if kind_of(name, block) == "evaluate" and isinstance(inputs, Mapping):
            wanted.update(texts(inputs.get("prompts")))
    for name in stages:
        for output, path in outputs_of(folder.stage(name)):
            if output["name"] in wanted:
                _read_prompts(path, problems)


def _read_prompts(path: Path, problems: dict[str, dict[str, Any]]) -> None:
    try:
        for _, row in read_raw(path):
            if row.get("id") in problems:
                problem = problems[row["id"]]
                problem["prompt"] = str(row.get("prompt", ""))
                problem["answer"] = row.get("answer")
    except InputError:
        # A page without the questions is better than none.
        return

"""Path fields wherever they stand in a Config, and whose words are heard of a union's branches."""

from pathlib import Path
from typing import Annotated, Any

import pytest

from r1pipe.config.mistakes import Mistakes
from r1pipe.config.paths import resolve_paths
from r1pipe.config.validation import validate
from r1pipe.config.yamltree import Keys, read
from r1pipe.schema import Model, PathOr, StageConfig, TemplateName


class FromFile(Model):
    path: Path
    columns: dict[str, str] = {}


class FromWorld(Model):
    world: str
    count: int = 1


class Config(StageConfig):
    source: FromWorld | FromFile | list[FromFile] | None = None
    form: Annotated[str, PathOr("chat")] = "chat"
    template: TemplateName = "chat"
    many: dict[str, Path] = {}
    note: str = ""


def resolved(folder: Path, text: str) -> tuple[dict[str, Any], dict[Keys, Path], Mistakes, Any]:
    (folder / "t.yaml").write_text(text)
    node, files, problems = read(folder / "t.yaml"), {}, Mistakes()
    values = resolve_paths(Config, node, files, problems)
    return values, files, problems, node


@pytest.fixture(autouse=True)
def _files(tmp_path: Path):
    for name in ("a.jsonl", "b.jsonl", "form.txt"):
        (tmp_path / name).write_text("x")


def test_path_fields_are_found_through_unions_lists_mappings_and_marked_words(tmp_path: Path):
    text = (
        "source: [{path: a.jsonl, columns: {prompt: a.jsonl}}, {path: b.jsonl}]\n"
        "form: form.txt\n"
        "template: form.txt\n"
        "many: {x: a.jsonl}\n"
        "note: a.jsonl\n"
    )
    values, files, problems, node = resolved(tmp_path, text)
    assert not problems
    assert {".".join(map(str, keys)) for keys in files} == {
        "source.0.path",
        "source.1.path",
        "form",
        "template",
        "many.x",
    }
    config = validate(Config, node, values, "a", problems)
    assert isinstance(config, Config) and not problems
    assert config.form == str(tmp_path / "form.txt") and config.note == "a.jsonl"
    assert (
        isinstance(config.source, list)
        and config.source[0].path == tmp_path / "a.jsonl"
        and config.source[0].columns == {"prompt": "a.jsonl"}
    )


def test_marked_words_are_no_paths(tmp_path: Path):
    values, files, problems, _ = resolved(
        tmp_path, "form: chat\ntemplate: r1-zero\nsource: {path: 'embedded:x'}\n"
    )
    assert values["form"] == "chat" and not files and not problems


def test_a_pattern_must_match_something(tmp_path: Path):
    assert not resolved(tmp_path, "source: {path: '*.jsonl'}\n")[2]
    (problem,) = resolved(tmp_path, "source: {path: '*.parquet'}\n")[2]
    assert "nothing is at '*.parquet'" in problem.what


def test_of_a_union_only_the_branch_that_fits_best_is_heard(tmp_path: Path):
    """pydantic reports every branch; three lines about FromFile would hide the typing mistake in FromWorld."""
    values, _, problems, node = resolved(tmp_path, "source: {world: reasoning, cuont: 3}\n")
    assert validate(Config, node, values, "a", problems) is None
    assert [p.what for p in problems] == ["unknown key 'cuont' in stages.a.source"]
    assert problems[0].fix == "did you mean 'count'?" and problems[0].where.endswith("t.yaml:1")


def test_a_missing_key_is_named_at_its_parent_s_line(tmp_path: Path):
    values, _, problems, node = resolved(tmp_path, "note: x\nsource:\n  columns: {}\n")
    validate(Config, node, values, "a", problems)
    assert any("'path' is missing" in p.what and p.where.endswith("t.yaml:2") for p in problems), problems

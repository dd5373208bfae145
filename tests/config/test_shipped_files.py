"""What stands in accelerate/, prompts/ or templates/ beside the config is read in place of the file that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import ROOT, config, r1pipe

from r1pipe.config.loader import Pipeline, load
from r1pipe.config.profiles import deepspeed_config, profile_environment
from r1pipe.config.shipped_files import SHIPPED
from r1pipe.run.digests import Digests
from r1pipe.run.fingerprints import Fingerprints
from r1pipe.run.store import RunFolder

SERVICE = "{backend: openai, endpoint: {base_url: 'http://x/v1', model: m}}"
STAGES = f"""
stages:
  r1-zero:
    inputs: {{model: 'embedded:base', prompts: ./p.jsonl}}
    outputs: {{checkpoint: zero}}
    launch: {{profile: zero3, num_processes: 2}}
    grpo: {{phases: [{{steps: 1, rewards: [{{name: accuracy}}]}}]}}
  general-data:
    inputs: {{prompts: ./p.jsonl}}
    outputs: {{chats: general}}
    writer: {{sampling: {SERVICE}}}
  cold-start-data:
    inputs: {{prompts: ./p.jsonl}}
    outputs: {{chats: cold}}
    sampling: {SERVICE}
    sources: {{zero-traces: {{}}, few-shot: {{sampling: {SERVICE}}}, direct: {{sampling: {SERVICE}}}}}
    rewriter: {{sampling: {SERVICE}}}
"""
KIND = """
from r1pipe.artifacts import Prompts
from r1pipe.schema import Ports, StageConfig, TemplateName
from r1pipe.text.rendering import read_template

class Inputs(Ports): ...

class Outputs(Ports):
    rows: Prompts

class Config(StageConfig):
    template: TemplateName = "r1-zero"

def run(config, inputs, outputs, here):
    here.note(read_template(config.template))
    row = '{"id": "0", "prompt": "1+1", "domain": "math", "answer": "2"}'
    (outputs.rows.path / "rows.jsonl").write_text(row)
    return {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p.jsonl").write_text('{"id": "0", "prompt": "1+1", "domain": "math", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf8")
    return path


def files(pipeline: Pipeline) -> dict[str, Path]:
    """What the resolved configs name."""
    zero = pipeline.stages["r1-zero"].config.model_dump()
    writer = pipeline.stages["general-data"].config.model_dump()["writer"]
    cold = pipeline.stages["cold-start-data"].config.model_dump()
    return {
        "templates/r1-zero.txt": Path(zero["template"]),
        "accelerate/zero3.yaml": zero["launch"]["accelerate_file"],
        "accelerate/zero3.json": zero["launch"]["deepspeed_file"],
        "prompts/think-and-reply.txt": writer["instruction"]["file"],
        "prompts/reply.txt": writer["plain"]["file"],
        "prompts/few-shot.txt": cold["sources"]["few-shot"]["instruction"]["file"],
        "prompts/few-shot-examples.jsonl": cold["sources"]["few-shot"]["examples"]["path"],
        "prompts/direct.txt": cold["sources"]["direct"]["instruction"]["file"],
        "prompts/rewrite.txt": cold["rewriter"]["instruction"]["file"],
    }


def test_the_resolved_config_names_the_files_that_ship(folder: Path) -> None:
    pipeline = load(config(folder, STAGES))
    assert files(pipeline) == {name: SHIPPED / name for name in files(pipeline)}
    assert not any(stage.own_files for stage in pipeline.stages.values())


def test_every_editable_file_is_named_by_some_field(folder: Path) -> None:
    """Except those that a config names by path, and the settings of the other profiles."""
    shipped = {
        f"{name}/{path.name}" for name in ("prompts", "templates") for path in (SHIPPED / name).iterdir()
    }
    assert shipped - set(files(load(config(folder, STAGES)))) == {
        "templates/embedded-zero.txt",
        "templates/r1-zero-example.txt",
    }


@pytest.mark.parametrize(
    "name", ["templates/r1-zero.txt", "prompts/reply.txt", "prompts/few-shot-examples.jsonl"]
)
def test_a_file_beside_the_config_wins(folder: Path, name: str) -> None:
    own = write(folder / name, (SHIPPED / name).read_text())
    pipeline = load(config(folder, STAGES))
    assert files(pipeline) == {other: own if other == name else SHIPPED / other for other in files(pipeline)}
    assert [stage.own_files for stage in pipeline.stages.values() if stage.own_files] == [{name: own}]


def test_what_the_config_states_wins_over_both(folder: Path) -> None:
    write(folder / "templates/r1-zero.txt", "own {prompt}")
    stated = write(folder / "mine.txt", "mine {prompt}")
    pipeline = load(config(folder, STAGES), ["stages.r1-zero.template=./mine.txt"])
    assert files(pipeline)["templates/r1-zero.txt"] == stated
    assert not pipeline.stages["r1-zero"].own_files


def test_configs_in_a_checkout_use_the_files_that_ship() -> None:
    """configs/ is r1pipe/configs by another name there, so nothing is replaced."""
    pipeline = load(ROOT / "configs/r1.yaml", ["stages.r1-zero.template=r1-zero"])
    assert pipeline.stages["r1-zero"].config.model_dump()["template"] == str(
        SHIPPED / "templates/r1-zero.txt"
    )
    assert not any(stage.own_files for stage in pipeline.stages.values())


@pytest.mark.parametrize("name", ["templates/r1-zero.txt", "prompts/reply.txt"])
def test_an_edit_changes_the_fingerprint_of_its_readers(folder: Path, name: str) -> None:
    def fingerprints() -> dict[str, str]:
        pipeline = load(config(folder, STAGES))
        prints = Fingerprints(pipeline, Digests(RunFolder("t", folder)))
        return {stage: prints.of(stage) for stage in pipeline.stages}

    shipped = fingerprints()
    write(folder / name, (SHIPPED / name).read_text())
    assert fingerprints() == shipped, "the same text in another place"
    write(folder / name, (SHIPPED / name).read_text() + "\nPlease.")
    changed = [stage for stage, fingerprint in fingerprints().items() if fingerprint != shipped[stage]]
    assert changed == [{"templates": "r1-zero", "prompts": "general-data"}[name.split("/")[0]]]


def test_profiles_beside_the_config_are_launched_with(folder: Path) -> None:
    zero3 = (SHIPPED / "accelerate/zero3.json").read_text()
    write(folder / "accelerate/zero3.json", zero3.replace("200000000", "7"))
    write(
        folder / "accelerate/zero3.yaml", "mixed_precision: fp8\ndeepspeed_config: {zero3_init_flag: false}\n"
    )
    launch = load(config(folder, STAGES)).stages["r1-zero"].config.launch
    assert deepspeed_config(launch)["zero_optimization"]["reduce_bucket_size"] == 7
    environment = profile_environment(launch, folder)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "fp8"
    assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "false"


def test_a_worker_reads_the_file_and_a_note_names_it(folder: Path) -> None:
    write(folder / "own/kind.py", KIND)
    own = write(folder / "templates/r1-zero.txt", "my own words: {prompt}")
    config(folder, "stages: {a: {kind: own.kind, outputs: {rows: first}}}")
    done = r1pipe(folder, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    assert "my own words: {prompt}" in done.stdout
    assert (
        f"a: reads {own.relative_to(folder)} in place of the templates/r1-zero.txt that ships" in done.stdout
    )

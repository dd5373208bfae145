"""YAML -> Pipeline: joins, paths, and every mistake with its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from engine import CHAIN, FIXTURES, config

from r1pipe.config.loader import Pipeline, load
from r1pipe.errors import ConfigError


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(FIXTURES))
    monkeypatch.chdir(tmp_path)


def mistakes(folder: Path, text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config(folder, text), sets)
    return str(caught.value)


def one(block: str) -> str:
    return f"stages:\n  a: {{kind: r1pipe_fakes.rows, outputs: {{rows: first}}, {block}}}\n"


def test_stages_are_joined_by_name(tmp_path: Path):
    pipeline = load(config(tmp_path))
    assert list(pipeline.stages) == ["rows", "more", "score"]
    source = pipeline.stages["more"].inputs["source"]
    assert (source.origin, source.stage, source.port) == ("stage", "rows", "rows")  # type: ignore[union-attr]
    assert pipeline.ancestors(["score"]) == ["rows", "more"]
    assert pipeline.descendants(["rows"]) == ["more", "score"]
    assert pipeline.run == "t"
    assert load(tmp_path / "t.yaml", run="other").run == "other"


LACKING = """stages:
  have: {kind: r1pipe_fakes.rows, outputs: {rows: some}}
  lack: {kind: r1pipe_fakes.rows, inputs: {source: ./gone.jsonl}, outputs: {rows: none}}
  unset: {kind: r1pipe_fakes.rows, inputs: {source: "${R1PIPE_NO_SUCH}"}, outputs: {rows: others}}
  below: {kind: r1pipe_fakes.rows, inputs: {source: none}, outputs: {rows: fewer}}
  use: {kind: r1pipe_fakes.rows, inputs: {source: some}, outputs: {rows: more}}
"""


def test_stages_that_lack_a_file_are_left_out_where_they_are_not_needed(tmp_path: Path):
    pipeline = load(config(tmp_path, LACKING), needed=lambda _: ["have", "use"])
    assert list(pipeline.stages) == ["have", "use"]
    assert pipeline.left_out == ("lack", "unset", "below")


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        (["lack", "below"], "nothing is at"),
        (["have", "unset"], "R1PIPE_NO_SUCH is not set"),
    ],
)
def test_what_a_needed_stage_lacks_is_a_mistake_and_that_of_the_others_is_not_told(
    tmp_path: Path, needed: list[str], says: str
):
    with pytest.raises(ConfigError, match=says) as caught:
        load(config(tmp_path, LACKING), needed=lambda _: needed)
    assert "mistakes" not in str(caught.value)
    assert "2 mistakes" in mistakes(tmp_path, LACKING)


def test_other_mistakes_are_told_whichever_stage_is_needed(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown key 'cuont'"):
        load(
            config(tmp_path, LACKING + "  bad: {kind: r1pipe_fakes.rows, cuont: 1, outputs: {rows: z}}\n"),
            needed=lambda _: ["have"],
        )


def test_all_mistakes_come_at_once_each_with_its_line_and_the_nearest_key(tmp_path: Path):
    text = (
        "stagez: 1\n"
        + one("cuont: 3, count: many,\n   inner: {dpeth: 2, rate: -1}")
        + "  b: {kind: cold-strat}\n"
    )
    said = mistakes(tmp_path, text)
    for expected in (
        "t.yaml:1: unknown key 'stagez'; did you mean 'stages'?",
        "t.yaml:3: unknown key 'cuont' in stages.a; did you mean 'count'?",
        "t.yaml:3: stages.a.count: should be a valid integer",
        "t.yaml:4: unknown key 'dpeth' in stages.a.inner; did you mean 'depth'?",
        "t.yaml:4: stages.a.inner.rate: should be greater than 0; it is -1",
        "t.yaml:5: there is no kind 'cold-strat'; did you mean 'cold-start'?",
    ):
        assert expected in said, said


def test_a_variable_may_have_a_default_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`${VAR:-DEFAULT}`, as in a shell: a model of the hub unless a folder is named."""
    block = one("inputs: {model: '${R1PIPE_MODEL:-hub:owner/name}'}")
    edge: Any = load(config(tmp_path, block)).stages["a"].inputs["model"]
    assert (edge.origin, edge.name) == ("hub", "name")
    monkeypatch.setenv("R1PIPE_MODEL", "./gone")
    assert "nothing is at" in mistakes(tmp_path, block)


def test_a_mistake_in_a_set_names_the_set(tmp_path: Path):
    assert "--set stages.more.count=-1" in mistakes(tmp_path, CHAIN, "stages.more.count=-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (one("inputs: {source: frist}"), "nothing is called 'frist'"),
        (one("inputs: {source: first}"), "reads 'first', which a itself makes"),
        (one("inputs: {sorce: ./x.jsonl}"), "no input 'sorce'"),
        (one("inputs: {source: ./x.jsonl}"), "nothing is at"),
        (one("inputs: {model: embedded:none}"), "does not ship"),
        (one("inputs: {model: 'hub:justaname'}"), "not a hub id"),
        (one("inputs: {extra: first}"), "a mapping of names"),
        (one("inputs: {source: '${R1PIPE_NO_SUCH}/x'}"), "R1PIPE_NO_SUCH is not set"),
        (one("template: ./gone.txt"), "nothing is at './gone.txt'"),
        (one("launch: {profile: zero4}"), "'zero3'"),
        (one("launch: {num_processes: lots}"), "'auto'"),
        (one("launch: {nodes: 2}"), "one machine"),
        (one("use: ./gone"), "nothing is at"),
        ("stages: {}\n", "no stages"),
        ("isolation: maybe\n" + CHAIN, "'auto' or 'required'"),
        ("run: a/b\n" + CHAIN, "not a name for a run"),
        ("seed: x\n" + CHAIN, "seed should be a int"),
        ("stages:\n  a: {kind: r1pipe_fakes.rows}\n", "outputs: name the prompts it makes"),
        ("stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: first, rosw: x}}\n", "no output 'rosw'"),
        (
            "stages:\n  a: {kind: r1pipe_fakes.nothing, outputs: {rows: first}}\n",
            "no module r1pipe_fakes.nothing",
        ),
        (
            "stages:\n  a: {kind: r1pipe.errors, outputs: {rows: first}}\n",
            "r1pipe.errors.Inputs is not a subclass of",
        ),
        (
            CHAIN + "  again: {kind: r1pipe_fakes.rows, outputs: {rows: first}}\n",
            "'first' is made twice\nwhere: t.yaml:6\nfix: rows makes it already",
        ),
        (
            CHAIN + "  wrong: {kind: r1pipe_fakes.rows, inputs: {source: scores-base}, outputs: {rows: z}}\n",
            "needs dataset; 'scores-base' is report",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str):
    assert expected in mistakes(tmp_path, text)
    assert not (tmp_path / "runs").exists()


def test_a_name_read_before_it_is_made_says_where_it_is_made(tmp_path: Path):
    text = (
        "stages:\n"
        "  b: {kind: r1pipe_fakes.rows, inputs: {source: first}, outputs: {rows: z}}\n"
        "  a: {kind: r1pipe_fakes.rows, outputs: {rows: first}}\n"
    )
    said = mistakes(tmp_path, text)
    assert "reads 'first' before it is made" in said and "t.yaml:3" in said


def test_one_mistake_is_not_repeated_for_its_readers(tmp_path: Path):
    text = (
        "stages:\n"
        "  a: {kind: no-kind, outputs: {rows: first}}\n"
        "  b: {kind: r1pipe_fakes.rows, inputs: {source: first}, outputs: {rows: z}}\n"
    )
    assert "mistakes" not in mistakes(tmp_path, text)


def test_trl_may_not_shadow_a_typed_field(tmp_path: Path):
    text = """
stages:
  a:
    kind: r1pipe_fakes.train
    outputs: {checkpoint: z}
    sft: {trl: {learning_rate: 1, max_length: 5, packing: true, neftune_noise_alpha: 5, per_device_train_batch_size: 2}}
"""
    said = mistakes(tmp_path, text)
    assert "trl.learning_rate shadows a field of ours; set sft.lr instead" in said
    assert "trl.max_length shadows" in said and "sft.microbatch" in said
    assert "set sft.packing instead" in said
    assert "neftune" not in said


def test_a_training_stage_on_several_ranks_needs_a_profile(tmp_path: Path):
    text = "stages:\n  a: {kind: r1pipe_fakes.train, outputs: {checkpoint: z}, launch: {num_processes: 2}}\n"
    assert "needs a profile" in mistakes(tmp_path, text)
    load(config(tmp_path, text.replace("{num_processes: 2}", "{num_processes: 2, profile: zero2}")))


def test_paths_start_from_the_yaml_that_states_them_and_expand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    row = json.dumps({"id": "1", "prompt": "p", "domain": "math"}) + "\n"
    for folder in ("base", "child", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(row)
        (tmp_path / folder / "t.txt").write_text(folder)
    monkeypatch.setenv("R1PIPE_TEST_DATA", str(tmp_path / "data"))
    (tmp_path / "base/base.yaml").write_text(
        one("inputs: {source: ./rows.jsonl}, template: t.txt, text: ~/not/a/path")
    )

    def used(*sets: str) -> tuple[Path, Path, Pipeline]:
        pipeline = load(tmp_path / "child/child.yaml", sets)
        return pipeline.stages["a"].inputs["source"].path, pipeline.stages["a"].config.template, pipeline  # type: ignore[union-attr,attr-defined]

    (tmp_path / "child/child.yaml").write_text("extends: ../base/base.yaml\n")
    source, template, pipeline = used()
    assert (source, template) == (tmp_path / "base/rows.jsonl", tmp_path / "base/t.txt")
    assert pipeline.stages["a"].config.text == "~/not/a/path"  # type: ignore[attr-defined]  # not a path field
    (tmp_path / "child/child.yaml").write_text("extends: ../base/base.yaml\nstages: {a: {template: t.txt}}\n")
    assert used()[1] == tmp_path / "child/t.txt"
    monkeypatch.chdir(tmp_path / "data")
    source, template, _ = used(
        "stages.a.template=t.txt", "stages.a.inputs.source=${R1PIPE_TEST_DATA}/rows.jsonl"
    )
    assert (source, template) == (tmp_path / "data/rows.jsonl", tmp_path / "data/t.txt")


def test_an_empty_dataset_is_refused(tmp_path: Path):
    """What its rows hold is looked at in a plan: tests/run/test_first_rows.py."""
    (tmp_path / "rows.jsonl").write_text("")
    said = mistakes(
        tmp_path,
        "stages:\n  a: {kind: r1pipe_fakes.score, inputs: {prompts: ./rows.jsonl}, outputs: {report: r}}\n",
    )
    assert "is empty" in said


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    assert "lacks a tokenizer" in mistakes(tmp_path, one("inputs: {model: ./model}"))
    (tmp_path / "model/tokenizer.json").write_text("{}")
    load(config(tmp_path, one("inputs: {model: ./model}")))


def test_use_names_its_output_after_the_stage(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "prompt": "p", "domain": "math"}\n')
    text = (
        "stages:\n"
        "  mine: {kind: r1pipe_fakes.rows, use: ./rows.jsonl}\n"
        "  b: {kind: r1pipe_fakes.score, inputs: {prompts: mine}, outputs: {report: r}}\n"
    )
    pipeline = load(config(tmp_path, text))
    assert pipeline.stages["mine"].use == {"rows": tmp_path / "rows.jsonl"}
    assert pipeline.stages["b"].makers == ["mine"]


def test_the_top_level_seed_is_every_stage_s_default(tmp_path: Path):
    pipeline = load(config(tmp_path, "seed: 7\n" + CHAIN), ["stages.more.seed=1"])
    assert [stage.config.seed for stage in pipeline.stages.values()] == [7, 1, 7]


def test_a_stages_folder_of_the_user_s_does_not_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").write_text("")
    (tmp_path / "stages/prompts.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.syspath_prepend(str(tmp_path))
    from r1pipe.config.registry import STAGES, load_kind

    assert load_kind("prompts").source == STAGES / "prompts.py"


@pytest.mark.parametrize(
    "kind", __import__("r1pipe.config.registry", fromlist=["builtin_kinds"]).builtin_kinds()
)
def test_every_kind_that_ships_has_the_four_names_and_a_docstring(kind: str):
    from r1pipe.config.registry import load_kind

    loaded = load_kind(kind)
    assert loaded.outputs, "a stage makes something"
    assert loaded.module.__doc__


PORTS = """
from pathlib import Path

from r1pipe.artifacts import Dataset
from r1pipe.schema import Ports, StageConfig


class Inputs(Ports):
    pass


class Outputs(Ports):
    rows: %s


class Config(StageConfig):
    pass


def run(config, inputs, outputs, here):
    return {}
"""


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        ("Path", "is not an artifact"),
        ("str", "is not an artifact"),
        ("dict[str, Dataset]", "only an input may be many"),
    ],
)
def test_a_port_that_is_not_an_artifact_is_a_mistake_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotation: str, what: str
) -> None:
    module = f"ports_{annotation.partition('[')[0].lower()}"
    (tmp_path / f"{module}_kinds").mkdir()
    (tmp_path / f"{module}_kinds" / "__init__.py").touch()
    (tmp_path / f"{module}_kinds" / "box.py").write_text(PORTS % annotation)
    path = tmp_path / "t.yaml"
    path.write_text(f"stages:\n  a: {{kind: {module}_kinds.box, outputs: {{rows: z}}}}\n")
    with pytest.raises(ConfigError, match=what) as refused:
        load(path)
    assert "t.yaml:2" in str(refused.value)


def test_a_reward_that_does_not_exist_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        "stages:\n"
        "  p: {kind: prompts, source: [{world: math, count: 8}], outputs: {prompts: train}}\n"
        "  r1-zero:\n"
        "    inputs: {model: embedded:base, prompts: train}\n"
        "    outputs: {checkpoint: zero}\n"
        "    grpo: {phases: [{steps: 1, rewards: [{name: format}, {name: acuracy}]}]}\n"
    )
    with pytest.raises(ConfigError, match="there is no reward 'acuracy'") as refused:
        load(path)
    assert "t.yaml:6" in str(refused.value) and "did you mean 'accuracy'?" in str(refused.value)

"""The shipped configs: they load, they are the figure, and a child says only what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import ROOT, finished_run

from r1pipe.config.loader import Pipeline, load
from r1pipe.config.registry import load_kind
from r1pipe.config.yamltree import plain, read
from r1pipe.schema import GRPOParams, RewardModelParams, Sampling, SFTParams
from r1pipe.schema.grpo import LossParams

CONFIGS = ROOT / "configs"
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name not in ("accelerate", "suites")
)
FIGURE = {
    "prompts", "r1-zero", "cold-start-data", "cold-start", "reasoning-rl", "rejection-sampling", "general-data", "mix",
    "second-sft", "preference-data", "helpful-rm", "safety-rm", "alignment-rl", "distill", "evaluate", "compare",
}  # fmt: skip
STUDENTS = {
    "qwen-1.5b": 1e-4,
    "qwen-7b": 8e-5,
    "qwen-14b": 7e-5,
    "qwen-32b": 6e-5,
    "llama-8b": 5e-5,
    "llama-70b": 2e-5,
}  # v2 Table 6


@pytest.fixture
def brought(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What paper.yaml and gsm8k.yaml ask a user for: a base, and files that need only be there."""
    monkeypatch.setenv("R1_BASE", str(tiny_checkpoint))
    monkeypatch.setenv("R1_DATA", str(tmp_path))
    monkeypatch.setenv("R1_STUDENT", str(tiny_checkpoint))
    monkeypatch.setenv("R1_PROBLEMS", str(tmp_path / "reasoning.jsonl"))
    names = ["reasoning", "general", "exam", "general-chats", "pairs", "labels"]
    files = [f"{name}.jsonl" for name in names]
    files += [
        f"{name}.jsonl.gz"
        for name in (
            "gsm8k_train",
            "gsm8k_test",
            "seed_tasks",
            "user_instructions",
            "pandalm_pairs",
            "xstest",
            "hh_harmless",
        )
    ]
    for file in files:
        (tmp_path / file).touch()
    monkeypatch.setenv("R1_RUN", str(finished_run(tmp_path / "r1", tiny_checkpoint)))
    return tmp_path


@pytest.fixture
def paper(brought: Path) -> Pipeline:
    return load(CONFIGS / "paper.yaml")


@pytest.mark.parametrize("name", ALL)
def test_loads(name: str, brought: Path) -> None:
    assert load(CONFIGS / name).stages


@pytest.mark.parametrize("name", ["r1.yaml", "paper.yaml", "smoke.yaml", "gsm8k.yaml"])
def test_is_the_whole_figure(name: str, brought: Path) -> None:
    stages = load(CONFIGS / name).stages
    kinds = {stage.kind.name for stage in stages.values()}
    assert kinds == FIGURE
    evaluated = {
        source.text
        for stage in stages.values()
        if stage.kind.name == "evaluate"
        for port, source in stage.edges()
        if port == "model"
    }
    made = {name for stage in stages.values() for port, name in stage.outputs.items() if port == "checkpoint"}
    assert made <= evaluated, "every checkpoint is evaluated"


@pytest.mark.parametrize(
    "name", [name for name in ALL if "extends" in yaml.safe_load((CONFIGS / name).read_text())]
)
def test_a_child_says_only_what_differs(name: str) -> None:
    child = yaml.safe_load((CONFIGS / name).read_text())
    parent = plain(read((CONFIGS / name).parent / child.pop("extends")))
    assert not list(restated(child, parent)), "these stand in the parent already"


def restated(child: Any, parent: Any, at: str = "") -> Any:
    if isinstance(child, dict) and isinstance(parent, dict):
        for key, value in child.items():
            if key in parent:
                yield from restated(value, parent[key], f"{at}.{key}")
    elif child == parent:
        yield at


def test_restated_values_are_found() -> None:
    assert list(restated({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})) == [".a.b"]


def test_ablations_change_one_thing() -> None:
    """Lists are replaced whole, so an ablation states its phases again; they must follow r1.yaml's."""

    def phases(name: str, stage: str) -> Any:
        return load(CONFIGS / name).stages[stage].config.grpo.phases  # type: ignore[attr-defined]

    ours, without = (
        phases("r1.yaml", "reasoning-rl"),
        phases("ablations/no-language-reward.yaml", "reasoning-rl"),
    )
    assert without == [
        phase.model_copy(update={"rewards": [r for r in phase.rewards if r.name != "language"]})
        for phase in ours
    ]
    ours, longer = phases("r1.yaml", "student-rl"), phases("ablations/distill-vs-rl.yaml", "student-rl")
    assert longer == [phase.model_copy(update={"steps": 3 * phase.steps}) for phase in ours]


@pytest.mark.parametrize("name", ["rloo", "dr-grpo", "dapo", "gspo"])
def test_another_objective_changes_only_that(name: str) -> None:
    ours = load(CONFIGS / "r1.yaml").stages
    theirs = load(CONFIGS / "ablations" / f"{name}.yaml").stages
    assert [stage for stage in ours if theirs[stage].config != ours[stage].config] == ["reasoning-rl"]
    ours_grpo, theirs_grpo = (stages["reasoning-rl"].config.grpo for stages in (ours, theirs))  # type: ignore[attr-defined]
    differ = {
        field
        for field in type(ours_grpo).model_fields
        if getattr(theirs_grpo, field) != getattr(ours_grpo, field)
    }
    assert differ and differ <= {*LossParams.model_fields, "resample"}


def test_dpo_stands_in_the_place_of_reward_models_and_rl() -> None:
    pipeline = load(CONFIGS / "ablations" / "dpo.yaml")
    needed = ["evaluate-r1"]
    for name in needed:
        for _, edge in pipeline.stages[name].edges():
            if edge.origin == "stage" and edge.stage not in needed:
                needed.append(edge.stage)
    assert "dpo" in needed
    assert not set(needed) & {"helpful-rm", "safety-rm", "alignment-rl"}


def test_another_round_has_the_settings_of_the_first(brought: Path) -> None:
    """What differs is who samples, and what it is asked for."""
    first, second = load(CONFIGS / "r1.yaml").stages, load(CONFIGS / "continue.yaml").stages
    differ = [name for name, stage in second.items() if stage.config != first[name].config]
    assert differ == ["general-data", "evaluate-dev3", "evaluate-r1", "compare"]
    for name in ("evaluate-dev3", "evaluate-r1"):
        relabelled = second[name].config.model_copy(update={"checkpoint": first[name].config.checkpoint})  # type: ignore[attr-defined]
        assert relabelled == first[name].config


# --- the paper's numbers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """The YAML block of section 0.3 of the facts."""
    facts = ROOT.parent / "shared" / "r1-facts.md"
    if not facts.is_file():
        pytest.skip("the published facts are not beside this checkout (../shared/r1-facts.md)")
    text = facts.read_text(encoding="utf8").split("### 0.3", 1)[1]
    return yaml.safe_load(text.split("```yaml", 1)[1].split("```", 1)[0])


def default(model: type, field: str) -> Any:
    return model.model_fields[field].default


def stage_default(kind: str) -> Any:
    Config = load_kind(kind).Config
    return {name: getattr(Config(), name) for name in Config.model_fields}


def test_rl_defaults_are_the_published(published: dict[str, Any]) -> None:
    common = published["grpo_common"]
    assert default(GRPOParams, "lr") == common["lr"]
    assert default(GRPOParams, "beta") == common["kl_coef"]
    assert default(GRPOParams, "num_generations") == common["group_size"]
    assert (
        default(GRPOParams, "batch_size")
        == common["train_batch_outputs"]
        == common["questions_per_step"] * common["group_size"]
    )
    assert default(GRPOParams, "minibatches_per_rollout") == common["minibatches_per_rollout"]
    assert (
        default(GRPOParams, "batch_size") * default(GRPOParams, "minibatches_per_rollout")
        == common["rollout_outputs"]
    )
    assert default(GRPOParams, "inner_epochs") == common["inner_epochs"]
    assert default(GRPOParams, "ref_replace_every") == common["ref_update_every_steps"]

    zero = stage_default("r1-zero")["grpo"]
    assert zero.steps == published["r1_zero"]["steps"]
    starts = [sum(phase.steps for phase in zero.phases[:i]) for i in range(len(zero.phases))]
    assert [[start, phase.max_tokens] for start, phase in zip(starts, zero.phases, strict=True)] == published[
        "r1_zero"
    ]["max_len"]
    assert {phase.temperature for phase in zero.phases} == {published["r1_zero"]["temperature"]}
    assert {reward.weight for phase in zero.phases for reward in phase.rewards} == {1.0}

    first, facts = stage_default("reasoning-rl")["grpo"], published["rl_stage1"]
    assert first.epsilon == facts["clip_eps"]
    assert {(phase.temperature, phase.max_tokens) for phase in first.phases} == {
        (facts["temperature"], facts["max_len"])
    }
    assert "language" in {reward.name for reward in first.phases[0].rewards}

    second, facts = stage_default("alignment-rl")["grpo"], published["rl_stage2"]
    assert second.epsilon == facts["clip_eps"] and second.steps == facts["steps"]
    assert {(phase.temperature, phase.max_tokens) for phase in second.phases} == {
        (facts["temperature"], facts["max_len"])
    }
    preferring = [
        phase
        for phase in second.phases
        if {"helpful", "harmless"} & {reward.name for reward in phase.rewards}
    ]
    assert preferring == [second.phases[-1]] and preferring[0].steps == facts["preference_reward_last_steps"]


def test_sft_and_reward_model_defaults_are_the_published(published: dict[str, Any]) -> None:
    facts = published["sft_cold_start_and_800k"]
    low, high = map(float, facts["epochs"].split("-"))
    for kind in ("cold-start", "second-sft"):
        sft = stage_default(kind)["sft"]
        assert (sft.lr, sft.lr * sft.lr_end_ratio, sft.max_length, sft.batch_size) == pytest.approx(
            (facts["lr"], facts["lr_end"], facts["max_len"], facts["batch"])
        )
        assert low <= sft.epochs <= high
    student, facts = stage_default("distill")["sft"], published["distill"]
    assert (student.lr_end_ratio, student.max_length, student.batch_size) == (
        float(facts["lr_end"].rstrip("x")),
        facts["max_len"],
        facts["batch"],
    )
    assert isinstance(student, SFTParams)
    for name in ("helpful_rm", "safety_rm"):
        facts = published[name]
        rm = stage_default(name.replace("_", "-"))["rm"]
        assert isinstance(rm, RewardModelParams)
        assert (rm.lr, rm.batch_size, rm.epochs, rm.max_length) == (
            facts["lr"],
            facts["batch"],
            facts["epochs"],
            facts["max_len"],
        )
    facts = published["eval"]
    assert (Sampling().temperature, Sampling().top_p, Sampling().max_tokens) == (
        facts["temperature"],
        facts["top_p"],
        facts["max_len"],
    )
    assert (
        stage_default("cold-start-data")["sampling"].temperature
        == published["rollout_cold_start"]["temperature"]
    )


def test_the_students_and_their_learning_rates(paper: Pipeline, published: dict[str, Any]) -> None:
    rates = {
        stage.name.removeprefix("distill-"): stage.config.sft.lr
        for stage in paper.stages.values()
        if stage.kind.name == "distill"
    }  # type: ignore[attr-defined]
    assert rates == STUDENTS
    zero, facts = paper.stages["zero-qwen-32b"].config.grpo, published["zero_qwen32b"]  # type: ignore[attr-defined]
    assert (zero.lr, zero.beta, zero.phases[0].temperature, zero.phases[0].max_tokens) == (
        facts["lr"],
        facts["kl_coef"],
        facts["temperature"],
        facts["max_len"],
    )


def test_the_paper_config_overrides_nothing_else(paper: Pipeline) -> None:
    """Beside files, templates and the students' rates, every value is its field's default."""
    for stage in paper.stages.values():
        if (
            stage.kind.name in ("prompts", "distill", "compare", "general-data", "preference-data")
            or stage.name == "zero-qwen-32b"
        ):
            continue
        changed = set(stage.config.changed(stage.kind.Config.model_fields))
        assert changed <= {"template", "checkpoint"}, stage.name


# --- what the trainers get --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["r1-zero", "reasoning-rl", "alignment-rl", "zero-qwen-32b"])
@pytest.mark.parametrize("ranks", [1, 8])
def test_grpo_config_of_the_paper(
    paper: Pipeline, here: Any, monkeypatch: pytest.MonkeyPatch, stage: str, ranks: int
) -> None:
    """TRL's defaults are not R1's, so each value is looked at where TRL reads it."""
    from trl import GRPOConfig

    from r1pipe.training.grpo.arguments import grpo_arguments

    params = paper.stages[stage].config.grpo  # type: ignore[attr-defined]
    here.world_size = ranks
    monkeypatch.setenv("WORLD_SIZE", "1")  # TRL divides by the ranks that are really there
    arguments = grpo_arguments(params, here, seed=0)
    config = GRPOConfig(**arguments | {"ddp_backend": None})  # no process group is set up here
    assert config.loss_type == "grpo" and config.scale_rewards == "group"
    assert config.beta == 0.001 and config.epsilon == 10.0 and config.epsilon_high in (None, 10.0)
    assert config.learning_rate == (2e-6 if stage == "zero-qwen-32b" else 3e-6)
    assert config.use_bias_correction_kl is False
    assert (
        config.sync_ref_model and config.ref_model_mixup_alpha == 1.0 and config.ref_model_sync_steps == 400
    )
    assert config.num_generations == 16 and config.num_iterations == 1
    update = config.per_device_train_batch_size * config.gradient_accumulation_steps * ranks
    assert update == 512
    assert config.steps_per_generation == 16 * config.gradient_accumulation_steps
    assert config.per_device_train_batch_size * config.steps_per_generation * ranks == 8192
    assert config.temperature == (0.7 if stage == "alignment-rl" else 1.0) and config.top_p == 1.0
    assert config.max_completion_length == 32768
    assert (
        config.max_steps
        == {"r1-zero": 10400, "reasoning-rl": 2000, "alignment-rl": 1700, "zero-qwen-32b": 10000}[stage]
    )
    assert config.lr_scheduler_type == "constant_with_warmup" and not config.gradient_checkpointing
    assert config.mask_truncated_completions is False
    import torch

    assert config.bf16 is torch.cuda.is_available(), "on a CPU bf16 is slower and coarser"


def test_sft_config_of_the_paper(
    paper: Pipeline, here: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments that SFTTrainer is given, caught where it is built."""
    from r1pipe.training.sft import sft_trainer
    from r1pipe.training.sft.sft_training import train_sft

    class Built(Exception):
        pass

    caught: dict[str, Any] = {}

    def catch(sampler: Any, **arguments: Any) -> None:
        caught.update(arguments, batch=sampler.batch_size_global)
        raise Built

    monkeypatch.setattr(sft_trainer, "PackedSFTTrainer", catch)
    chats = [
        {"role": "user", "content": "what is 1 + 2 ?"},
        {"role": "assistant", "content": "<think>1 + 2 = 3</think>3"},
    ]
    rows = [{"id": str(i), "domain": "math", "messages": chats} for i in range(640)]
    for stage, rate, batch in (
        ("cold-start", 5e-5, 128),
        ("second-sft", 5e-5, 128),
        ("distill-llama-70b", 2e-5, 64),
    ):
        with pytest.raises(Built):
            train_sft(
                tiny_checkpoint, rows, paper.stages[stage].config.sft, out=here.workdir, here=here, seed=0
            )  # type: ignore[attr-defined]
        args = caught["args"]
        assert args.learning_rate == rate and caught["batch"] == batch
        assert str(args.lr_scheduler_type).endswith(
            ("cosine_with_min_lr", "COSINE_WITH_MIN_LR")
        ) and args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
        assert (
            args.max_steps == 640 * 2 // batch
            and args.loss_type == "nll"
            and args.completion_only_loss
            and not args.packing
        )


def test_init_copies_them(tmp_path: Path) -> None:
    from engine import r1pipe

    done = r1pipe(tmp_path, "init")
    assert done.returncode == 0, done.stderr
    copied = {path.name for path in tmp_path.rglob("*.yaml")}
    assert {"r1.yaml", "smoke.yaml", "paper.yaml"} <= copied
    assert json.loads(r1pipe(tmp_path, "plan", str(next(tmp_path.rglob("smoke.yaml"))), "--json").stdout)[
        "stages"
    ]

"""A stage's block of YAML becomes that stage's Config; what cannot work together is refused, with file and line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from r1pipe.config.library_options import LORA, options
from r1pipe.config.mistakes import Mistakes
from r1pipe.config.profiles import launch_mistakes
from r1pipe.config.pydantic_errors import explain
from r1pipe.config.yamltree import Node, Origin, find, nearest
from r1pipe.schema import GRPOParams, Launch, StageConfig, Training

# Names that TRL and transformers have for what our fields set. `trl:` may not set them behind a field's back.
TRL_ALIASES: dict[str, str] = {
    "learning_rate": "lr",
    "warmup_steps": "warmup_ratio",
    "adam_beta1": "adam_betas",
    "adam_beta2": "adam_betas",
    "per_device_train_batch_size": "microbatch",
    "gradient_accumulation_steps": "batch_size",
    "generation_batch_size": "minibatches_per_rollout",
    "steps_per_generation": "minibatches_per_rollout",
    "save_steps": "save_every",
    "save_strategy": "save_every",
    "save_total_limit": "keep_checkpoints",
    "num_train_epochs": "epochs",
    "num_iterations": "inner_epochs",
    "max_completion_length": "phases",
    "temperature": "phases",
    "reward_weights": "phases",
    "reward_funcs": "phases",
    "importance_sampling_level": "importance_level",
    "mask_truncated_completions": "mask_truncated",
    "use_vllm": "rollout",
    "vllm_mode": "rollout",
    "vllm_gpu_memory_utilization": "vllm",
    "vllm_tensor_parallel_size": "vllm",
    "vllm_enable_sleep_mode": "vllm",
    "vllm_max_model_length": "vllm",
    "vllm_server_base_url": "vllm",
    "vllm_server_host": "vllm",
    "vllm_server_port": "vllm",
    "vllm_server_timeout": "vllm",
    "vllm_group_port": "vllm",
    "vllm_importance_sampling_correction": "vllm",
    "vllm_importance_sampling_mode": "vllm",
    "vllm_importance_sampling_clip_max": "vllm",
    "vllm_importance_sampling_clip_min": "vllm",
    "vllm_importance_sampling_cap": "vllm",
    "sync_ref_model": "ref_replace_every",
    "ref_model_sync_steps": "ref_replace_every",
    "ref_model_mixup_alpha": "ref_replace_every",
    "eval_steps": "eval_every",
    "peft_config": "lora",
    "padding_free": "packing",
    "torch_compile": "compile",
    "output_dir": "outputs",
    "seed": "seed",
    "data_seed": "seed",
}

# The same of keys at the top of a config.
TOP_ALIASES: dict[str, str] = {
    "report_to": "track",
    "run_name": "run",
}

T = TypeVar("T")


def validate(
    model: type[StageConfig], block: Node, values: dict[str, Any], stage: str, problems: Mistakes
) -> StageConfig | None:
    """Build a stage's Config.

    Args:
        model: the Config of its kind.
        block: the values as the YAML states them, for their lines.
        values: the same with absolute paths.
        stage: its name.
        problems: gets what is wrong.

    Returns:
        The config; None where pydantic refuses it.
    """
    try:
        config = model.model_validate(values)
        # the worker reads the dumped config, maybe hours from now
        worker_config = model.model_validate(config.model_dump(mode="json"))
    except ValidationError as error:
        problems.extend(explain(model, block, stage, error))
        return None
    assert worker_config == config, f"the config of {stage} reads back differently"

    def origin(*keys: str | int) -> Origin:
        node, _ = find(block, keys)
        return node.origin

    for keys, training in trainings(config):
        for option, field in _shadowed_fields(training):
            problems.add(
                f"{_dotted(stage, *keys, 'trl', option)} shadows a field of ours",
                origin(*keys, "trl", option),
                f"set {'.'.join((*keys, field))} instead",
            )
        for option in sorted(TOP_ALIASES.keys() & training.trl.keys()):
            problems.add(
                f"{_dotted(stage, *keys, 'trl', option)} shadows a key of the config",
                origin(*keys, "trl", option),
                f"set {TOP_ALIASES[option]} at the top of the config instead",
            )
        epsilon = training.trl.get("adam_epsilon", 1e-8)
        if not isinstance(epsilon, int | float) or not 0 < epsilon <= 1:
            problems.add(
                f"{_dotted(stage, *keys, 'trl.adam_epsilon')} should be above 0 and at most 1; it is {epsilon!r}",
                origin(*keys, "trl", "adam_epsilon"),
            )
        for holder, option, fix in _unknown_options(training):
            problems.add(
                f"{_dotted(stage, *keys, holder)} has no option '{option}'",
                origin(*keys, holder, option),
                fix,
            )
        for field, what, fix in _training_mistakes(config.launch, training):
            problems.add(f"{_dotted(stage, *keys, field)}: {what}", origin(*keys, field), fix)
        for place, name, fix in _unknown_rewards(training):
            field = ".".join(map(str, place))
            what = f"{_dotted(stage, *keys, field)}: there is no reward '{name}'"
            problems.add(what, origin(*keys, *place), fix)

    launch = config.launch
    several_processes = launch.profile == "process" and launch.nodes == 1 and launch.num_processes != 1
    if several_processes and list(trainings(config)):
        problems.add(
            f"{_dotted(stage, 'launch')}: a training stage on several ranks needs a profile",
            origin("launch", "num_processes"),
            "profile: ddp, zero1, zero2, zero3 or fsdp2",
        )
    for field, what, fix in launch_mistakes(launch):
        problems.add(f"{_dotted(stage, 'launch')}: {what}", origin("launch", field), fix)
    return config


def _dotted(stage: str, *keys: str) -> str:
    return ".".join(("stages", stage, *keys))


def _shadowed_fields(training: Training) -> Iterator[tuple[str, str]]:
    """Options of `trl:` that a typed field sets: (option, field)."""
    fields = type(training).model_fields
    for option in training.trl:
        field = option if option in fields else TRL_ALIASES.get(option)
        if field is not None and (field in fields or field in ("outputs", "seed")):
            yield option, field


def _unknown_options(training: Training) -> Iterator[tuple[str, str, str]]:
    """Options that TRL or peft does not have: (field, option, fix). They themselves refuse them when a stage starts."""
    taken = {"trl": training.trl_config, "lora": LORA}
    # What a field of ours sets is reported as such.
    shadowed = {option for option, _ in _shadowed_fields(training)}
    for field, config in taken.items():
        stated: dict[str, Any] | None = getattr(training, field, None)
        if not stated:
            continue
        known = options(config)
        for option in stated:
            if known and option not in known and not (field == "trl" and option in shadowed):
                yield field, option, nearest(option, sorted(known))


def _unknown_rewards(training: Training) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Names that no reward has: (place, name, fix). A function of the user's is imported when its stage starts."""
    if not isinstance(training, GRPOParams):
        return
    # imported here: a config without RL does not wait for it (0.06 s)
    from r1pipe.rewards import MODEL_REWARDS, REWARDS

    known = [*REWARDS, *MODEL_REWARDS]
    for p, phase in enumerate(training.phases):
        for r, spec in enumerate(phase.rewards):
            if ":" not in spec.name and spec.name not in known:
                fix = f"{nearest(spec.name, known)} (or package.module:function)"
                yield ("phases", p, "rewards", r, "name"), spec.name, fix


def _training_mistakes(launch: Launch, training: Training) -> Iterator[tuple[str, str, str]]:
    """What a kind of training cannot do under a profile: (field, what, fix)."""
    if not isinstance(training, GRPOParams):
        return

    several_ranks = launch.nodes > 1 or launch.num_processes not in (1, "auto")
    rollbacks = [name for name, guard in training.guards.rules().items() if guard.action == "rollback"]
    if rollbacks and several_ranks:
        yield (
            "guards",
            f"{rollbacks[0]} rolls back, which works in one process so far",
            "action: pause, and start again by hand; or launch: {num_processes: 1}",
        )

    if launch.profile == "fsdp2" and training.rollout == "hf":
        yield (
            "rollout",
            "profile fsdp2 cannot sample in the trainer: "
            "ranks whose responses differ in length would wait for each other",
            "profile: zero2 or zero3; or rollout: vllm",
        )
    elif launch.profile == "fsdp2" and training.lora is not None:
        yield (
            "lora",
            "under fsdp2 an adapter cannot be merged into the shards that vLLM receives",
            "profile: zero2 or zero3; or lora: null",
        )


def trainings(config: StageConfig) -> Iterator[tuple[tuple[str, ...], Training]]:
    """The training blocks of a config, each with the keys that lead to it."""
    return blocks(config, Training)


def blocks(value: Any, kind: type[T], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], T]]:
    """The outermost blocks of one class in a config, in lists and mappings too, each with the keys that lead to it."""
    if isinstance(value, kind):
        yield keys, value
        return
    if isinstance(value, BaseModel):
        items = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        items = []
    for key, item in items:
        yield from blocks(item, kind, (*keys, key))

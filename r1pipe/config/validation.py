"""One stage's block of YAML against that stage's Config: paths made absolute, every mistake with its line.

Nothing stops at the first mistake: functions here append to a list of Problems, and `raise_all` makes one ConfigError of it.
"""

from __future__ import annotations

import glob
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from r1pipe.config.profiles import mistakes
from r1pipe.config.yamltree import Keys, Node, find, nearest, plain
from r1pipe.errors import ConfigError
from r1pipe.schema import GRPOParams, Launch, PathOr, StageConfig, Training
from r1pipe.schema.names import UNKNOWN_NAME

# TRL's and transformers' names of what our typed fields set; `trl:` may not set them behind the field's back.
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


@dataclass(frozen=True)
class Problem:
    what: str
    where: str = ""
    fix: str = ""


def raise_all(problems: Sequence[Problem], config: str) -> None:
    """One ConfigError for all problems; nothing if there are none."""
    problems = list(dict.fromkeys(problems))  # a value that YAML anchors share is wrong once
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(problems[0].what, problems[0].where, problems[0].fix)
    lines = [f"{p.where}: {p.what}" + (f"; {p.fix}" if p.fix else "") for p in problems]
    raise ConfigError(
        f"{len(problems)} mistakes:\n" + "\n".join(lines), config, "each line says where and what; nothing was started"
    )


# --- path fields ------------------------------------------------------------------------------------------------------


def expand(text: str, base: Path) -> Path:
    """`~` and `${VAR}` expanded, relative to base.

    Raises:
        KeyError: a variable is not set; its name is the argument.
    """
    text = re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], text)
    return Path(os.path.normpath(base / Path(text).expanduser()))


def resolve_paths(
    annotation: Any, node: Node, files: dict[Keys, Path], problems: list[Problem], keys: Keys = ()
) -> Any:
    """The bare values below a node, with path fields absolute; what they point at is collected in `files`."""
    metadata: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, metadata = typing.get_args(annotation)[0], annotation.__metadata__
    members = _members(annotation)
    if isinstance(node.value, str):
        marks = [m for m in metadata if isinstance(m, PathOr)]
        marked = bool(marks) and node.value not in marks[0].words
        if (marked or Path in members) and not re.match(r"(embedded|hub):", node.value):
            return _resolve(node, files, problems, keys)
        return node.value
    if isinstance(node.value, list):
        inner = next((typing.get_args(m) for m in members if typing.get_origin(m) in (list, tuple)), (Any,))
        return [resolve_paths(inner[0], child, files, problems, (*keys, i)) for i, child in enumerate(node.value)]
    if isinstance(node.value, dict):
        models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        values = next((typing.get_args(m)[1] for m in members if typing.get_origin(m) is dict), Any)
        result = {}
        for key, child in node.value.items():
            fields = [m.model_fields[key] for m in models if key in m.model_fields]
            inner = (
                typing.Annotated[fields[0].annotation, *fields[0].metadata]
                if fields and fields[0].metadata
                else fields[0].annotation
                if fields
                else values
            )
            result[key] = resolve_paths(inner, child, files, problems, (*keys, key))
        return result
    return node.value


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(inner for member in typing.get_args(annotation) for inner in _members(member))
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return (annotation,)


def _resolve(node: Node, files: dict[Keys, Path], problems: list[Problem], keys: Keys) -> str:
    try:
        path = expand(node.value, node.origin.base)
    except KeyError as error:
        problems.append(
            Problem(
                f"the environment variable {error.args[0]} is not set", str(node.origin), f"export {error.args[0]}=..."
            )
        )
        return node.value
    if not path.exists() and not (glob.has_magic(str(path)) and glob.glob(str(path), recursive=True)):
        problems.append(
            Problem(f"{'.'.join(map(str, keys))}: nothing is at '{node.value}'", str(node.origin), f"looked for {path}")
        )
    files[keys] = path
    return str(path)


# --- pydantic ---------------------------------------------------------------------------------------------------------


def validate(
    model: type[StageConfig], block: Node, values: dict[str, Any], stage: str, problems: list[Problem]
) -> StageConfig | None:
    """Build a Config; None, and Problems with file:line, where that fails."""
    try:
        config = model.model_validate(values)
        read = model.model_validate(config.model_dump(mode="json"))  # by the worker, hours from now
    except ValidationError as error:
        problems.extend(_explain(model, block, stage, error))
        return None
    assert read == config, f"the config of {stage} reads back as another"
    for keys, training in trainings(config):
        where, _ = find(block, (*keys, "trl"))
        typed = type(training).model_fields
        for name in training.trl:
            field = name if name in typed else TRL_ALIASES.get(name)
            if field in typed or field in ("outputs", "seed"):
                at = str(find(where, (name,))[0].origin)
                problems.append(
                    Problem(
                        f"stages.{stage}.{'.'.join((*keys, 'trl', name))} shadows a field of ours",
                        at,
                        f"set {'.'.join((*keys, str(field)))} instead",
                    )
                )
    if (
        config.launch.profile == "process"
        and config.launch.nodes == 1
        and config.launch.num_processes != 1
        and any(True for _ in trainings(config))
    ):
        at = str(find(block, ("launch", "num_processes"))[0].origin)
        problems.append(
            Problem(
                f"stages.{stage}.launch: a training stage on several ranks needs a profile",
                at,
                "profile: ddp, zero1, zero2, zero3 or fsdp2",
            )
        )
    for keys, training in trainings(config):
        for field, what, fix in _alone(config.launch, training):
            problems.append(
                Problem(
                    f"stages.{stage}.{'.'.join((*keys, field))}: {what}",
                    str(find(block, (*keys, field))[0].origin),
                    fix,
                )
            )
    for name, what, fix in mistakes(config.launch):
        problems.append(Problem(f"stages.{stage}.launch: {what}", str(find(block, ("launch", name))[0].origin), fix))
    return config


def _alone(launch: Launch, training: Training) -> Iterator[tuple[str, str, str]]:
    """What a kind of training cannot do under a profile: (field, what, fix)."""
    if not isinstance(training, GRPOParams):
        return
    several = launch.nodes > 1 or launch.num_processes not in (1, "auto")
    rolls = [name for name, guard in training.guards.rules().items() if guard.action == "rollback"]
    if rolls and several:
        yield (
            "guards",
            f"{rolls[0]} rolls back, which works in one process so far",
            "action: pause, and start again by hand; or launch: {num_processes: 1}",
        )
    if launch.profile == "fsdp2" and training.rollout == "hf":
        what = "profile fsdp2 cannot sample in the trainer: ranks whose responses differ in length would wait for each other"
        yield "rollout", what, "profile: zero2 or zero3; or rollout: vllm"
    elif launch.profile == "fsdp2" and training.lora is not None:
        yield (
            "lora",
            "under fsdp2 an adapter cannot be merged into the shards that vLLM is given",
            "profile: zero2 or zero3; or lora: null",
        )


def trainings(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Training]]:
    """The training blocks of a config, with the keys that lead to them."""
    if isinstance(value, Training):
        yield keys, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from trainings(getattr(value, name), (*keys, name))


Error = tuple[Keys, dict[str, Any]]  # pydantic's loc and the error itself


def _explain(model: type[BaseModel], block: Node, stage: str, error: ValidationError) -> list[Problem]:
    """pydantic's errors in our words. Of a union's branches, only the one that fits best is heard."""
    plainly: list[Error] = []
    unions: dict[Keys, dict[str, list[Error]]] = {}  # place of the union -> branch -> its errors
    for item in error.errors(include_url=False):
        loc = tuple(item["loc"])
        place, branch = _branch(block, loc[:-1] if item["type"] == "missing" else loc)
        if branch is None:
            plainly.append((loc, dict(item)))
        else:
            unions.setdefault(place, {}).setdefault(branch, []).append((loc, dict(item)))
    for place, branches in unions.items():
        plainly += _heard(find(block, place)[0], list(branches.values()))
    problems = []
    for loc, item in plainly:
        node, walked = find(block, loc)
        problems.append(_problem(model, loc, item, node, ".".join(["stages", stage, *map(str, walked)])))
    return problems


def _branch(block: Node, loc: Keys) -> tuple[Keys, str | None]:
    """How far a loc follows the data, and the first step that does not: pydantic's name of a union's branch."""
    for end in range(len(loc)):
        if len(find(block, loc[: end + 1])[1]) <= end:
            return loc[:end], str(loc[end])
    return loc, None


def _heard(given: Node, branches: list[list[Error]]) -> list[Error]:
    shapes = [
        branch
        for branch in branches
        if len(branch) == 1 and str(branch[0][1]["type"]).endswith(("_type", "_parsing", "literal_error"))
    ]
    if not isinstance(given.value, dict | list) and len(shapes) == len(branches):
        loc, item = branches[0][0]  # a scalar that fits no branch: say what each would take
        others = [str(branch[0][1]["msg"]).removeprefix("Input ") for branch in branches[1:]]
        return [(loc, item | {"msg": ", or ".join([item["msg"], *others])})]
    return min(branches, key=lambda branch: (branch in shapes, len(branch)))


def _problem(model: type[BaseModel], loc: Keys, item: dict[str, Any], node: Node, dotted: str) -> Problem:
    where, kind = str(node.origin), item["type"]
    if kind == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        return Problem(f"unknown key '{loc[-1]}' in {dotted.rsplit('.', 1)[0]}", where, nearest(str(loc[-1]), known))
    if kind == "missing":
        return Problem(f"{dotted}: '{loc[-1]}' is missing", where, f"add {loc[-1]}: ...")
    if kind == UNKNOWN_NAME:
        return Problem(f"{dotted}: {item['msg']}", where, nearest(item["ctx"]["name"], item["ctx"]["names"]))
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = plain(node)
    shown = f"; it is {given!r}" if not isinstance(given, dict | list) else ""
    return Problem(f"{dotted}: {message}{shown}", where)


def _fields_at(model: type[BaseModel], loc: Keys) -> list[str]:
    """The keys that may stand at a place, over all branches of unions."""
    level: list[Any] = [model]
    for key in loc:
        following: list[Any] = []
        for member in level:
            if isinstance(member, type) and issubclass(member, BaseModel):
                if key in member.model_fields:
                    following += _members(member.model_fields[str(key)].annotation)
                elif key == member.__name__:
                    following.append(member)
            elif typing.get_origin(member) in (list, tuple, dict):
                following += _members(typing.get_args(member)[-1])
        level = following or level
    return sorted(
        {
            name
            for member in level
            if isinstance(member, type) and issubclass(member, BaseModel)
            for name in member.model_fields
        }
    )

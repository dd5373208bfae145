"""pydantic's errors as problems with a file, a line and the nearest key."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from r1pipe.config.mistakes import Mistake
from r1pipe.config.paths import union_members
from r1pipe.config.yamltree import Keys, Node, find, nearest, plain
from r1pipe.schema.names import UNKNOWN_NAME
from r1pipe.schema.secrets import SECRET

Error = tuple[Keys, dict[str, Any]]  # where pydantic found it, and what it says


def explain(model: type[BaseModel], block: Node, stage: str, error: ValidationError) -> list[Mistake]:
    """The errors of a stage's block. Of a union's branches only the one that fits best is reported."""
    errors: list[Error] = []
    unions: dict[Keys, dict[str, list[Error]]] = {}  # where the union stands -> branch -> its errors
    for item in error.errors(include_url=False):
        loc = tuple(item["loc"])
        missing = item["type"] == "missing"
        place, branch = _branch(block, loc[:-1] if missing else loc)
        if branch is None:
            errors.append((loc, dict(item)))
        else:
            unions.setdefault(place, {}).setdefault(branch, []).append((loc, dict(item)))
    for place, branches in unions.items():
        value, _ = find(block, place)
        errors += _best_branch(value, list(branches.values()))

    problems = []
    for loc, item in errors:
        node, walked = find(block, loc)
        dotted = ".".join(["stages", stage, *map(str, walked)])
        problems.append(_problem(model, loc, item, node, dotted))
    return problems


def _branch(block: Node, loc: Keys) -> tuple[Keys, str | None]:
    """How far pydantic's loc follows the data, and its first step that does not: the name of a union's branch."""
    for end in range(len(loc)):
        _, walked = find(block, loc[: end + 1])
        if len(walked) <= end:
            return loc[:end], str(loc[end])
    return loc, None


def _best_branch(value: Node, branches: list[list[Error]]) -> list[Error]:
    """The errors of the branch that the user most probably meant.

    A branch whose only error is the type of the whole value was not meant, if there are others.
    """

    def has_wrong_type(errors: list[Error]) -> bool:
        return len(errors) == 1 and str(errors[0][1]["type"]).endswith(("_type", "_parsing", "literal_error"))

    scalar = not isinstance(value.value, dict | list)
    if scalar and all(map(has_wrong_type, branches)):
        # nothing fits: say what each branch takes
        loc, item = branches[0][0]
        others = [str(errors[0][1]["msg"]).removeprefix("Input ") for errors in branches[1:]]
        return [(loc, item | {"msg": ", or ".join([item["msg"], *others])})]
    return min(branches, key=lambda errors: (has_wrong_type(errors), len(errors)))


def _problem(model: type[BaseModel], loc: Keys, item: dict[str, Any], node: Node, dotted: str) -> Mistake:
    where = str(node.origin)
    match item["type"]:
        case "extra_forbidden":
            parent = dotted.rsplit(".", 1)[0]
            return Mistake(
                f"unknown key '{loc[-1]}' in {parent}",
                where,
                nearest(str(loc[-1]), _fields_at(model, loc[:-1])),
            )
        case "missing":
            return Mistake(f"{dotted}: '{loc[-1]}' is missing", where, f"add {loc[-1]}: ...")
        case type_ if type_ == UNKNOWN_NAME:
            return Mistake(
                f"{dotted}: {item['msg']}", where, nearest(item["ctx"]["name"], item["ctx"]["names"])
            )

        case type_ if type_ == SECRET:
            # Neither the value nor the argument of --set that states it.
            return Mistake(f"{dotted}: {item['msg']}", where.partition("=")[0])

    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    value = plain(node)
    shown = "" if isinstance(value, dict | list) else f"; it is {value!r}"
    return Mistake(f"{dotted}: {message}{shown}", where)


def _fields_at(model: type[BaseModel], loc: Keys) -> list[str]:
    """The keys that may stand at a place, over all branches of unions."""
    level: list[Any] = [model]
    for key in loc:
        following: list[Any] = []
        for member in level:
            if _is_model(member):
                if key in member.model_fields:
                    following += union_members(member.model_fields[str(key)].annotation)
                elif key == member.__name__:
                    # pydantic names the branch of a union by its model
                    following.append(member)
            elif typing.get_origin(member) in (list, tuple, dict):
                following += union_members(typing.get_args(member)[-1])
        level = following or level
    return sorted({name for member in level if _is_model(member) for name in member.model_fields})


def _is_model(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseModel)

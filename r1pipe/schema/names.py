"""Fields whose value is a name out of a registry, such as the judges and the writers."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

UNKNOWN_NAME = "unknown_name"  # the type of the error below


def name_of(what: str, names: Collection[str]) -> AfterValidator:
    """Restrict a str field to the names of a registry: `Annotated[str, name_of("judge", JUDGES)]`.

    The error carries `names`, so that whoever reads the YAML can suggest the nearest one.

    Args:
        what: what the names are names of, for the error message.
        names: the valid names.
    """

    def check(value: str) -> str:
        if value not in names:
            raise PydanticCustomError(
                UNKNOWN_NAME,
                "there is no {what} '{name}'",
                {"what": what, "name": value, "names": list(names)},
            )
        return value

    return AfterValidator(check)

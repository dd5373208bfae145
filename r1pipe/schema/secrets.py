"""Values that must not hold a secret: they are written into config.json, and shown in messages."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

# The type of the error; whoever shows it leaves the value out.
SECRET = "secret"
URL_FIELDS = ("base_url", "url", "server_url")


def check_url(url: str) -> str:
    """The address of a service, where it has no user, password, query or fragment.

    Raises:
        PydanticCustomError: it has one, or is no address.
    """
    try:
        parts = urlsplit(url)
        more = "@" in parts.netloc or parts.query or parts.fragment
    except ValueError:
        raise PydanticCustomError(SECRET, "this is not the address of a service") from None
    if more:
        raise PydanticCustomError(
            SECRET,
            "an address may have no user, password or query, which would be written down and shown: "
            "put the key into an environment variable and name that in api_key_env",
        )
    return url


def check_variable(name: str) -> str:
    """The name of an environment variable; a key in its place is refused, and not shown.

    Raises:
        PydanticCustomError: it is no name of a variable.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise PydanticCustomError(
            SECRET, "this takes the name of an environment variable, such as API_KEY, and not the key itself"
        )
    return name


def check_params(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a reward that asks a service; a plain mapping, whose keys are known by name.

    Raises:
        PydanticCustomError: one of them holds a secret.
    """
    for name in URL_FIELDS:
        if isinstance(params.get(name), str):
            check_url(params[name])
    if isinstance(params.get("api_key_env"), str):
        check_variable(params["api_key_env"])
    return params


ServiceURL = Annotated[str, AfterValidator(check_url)]
VariableName = Annotated[str, AfterValidator(check_variable)]

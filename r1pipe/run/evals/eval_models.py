"""The model that `r1pipe eval` asks: a checkpoint wherever it lies, a service, or a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.artifacts import Checkpoint
from r1pipe.config.artifact_checks import missing_parts
from r1pipe.errors import ConfigError, InputError, MissingToolError
from r1pipe.run.artifact_lookup import find_artifact
from r1pipe.text.regular_files import in_home


@dataclass(frozen=True)
class AskedModel:
    """A model and how a stage reaches it: by an input, or by an endpoint.

    Attributes:
        label: the name under which its scores stand.
        edge: what `inputs.model` of a stage says; None for a service.
        endpoint: the block `sampling.endpoint`; None for a checkpoint.
    """

    label: str
    edge: str | None = None
    endpoint: dict[str, Any] | None = None


@contextmanager
def asked_model(text: str, served_name: str | None, key_variable: str | None) -> Iterator[AskedModel]:
    """The model that a user names, while it can be asked.

    Args:
        text: a checkpoint's folder, RUN/CHECKPOINT, embedded:NAME, hub:OWNER/NAME, an address http://..., FILE.gguf.
        served_name: of a service, the model's name; None = its only one.
        key_variable: of a service, the environment variable that holds the key.

    Raises:
        InputError: there is no such model.
        ConfigError: the service does not say which model it has.
        MissingToolError: a GGUF file, and llama.cpp is not installed.
    """
    if text.startswith(("http://", "https://")):
        name = served_name or _only_model(text, key_variable)
        yield AskedModel(name, endpoint=_endpoint(text, name, key_variable))
        return
    if served_name or key_variable:
        raise ConfigError(f"--served-name and --api-key-env are for services, and {text} is none")
    if text.startswith(("embedded:", "hub:")):
        yield AskedModel(re.split("[:/]", text.partition("@")[0])[-1], edge=text)
        return
    if text.endswith(".gguf"):
        with _llama_cpp(in_home(Path(text))) as endpoint:
            yield AskedModel(Path(text).stem, endpoint=endpoint)
        return

    path = find_artifact(text, Checkpoint.kind).absolute()
    lacks = missing_parts(Checkpoint, path)
    if lacks:
        raise InputError(lacks, text, "give a checkpoint's folder, RUN/CHECKPOINT, or FILE.gguf")
    # The folders of a run are called after ports; what the figure calls it stands in what the user wrote.
    yield AskedModel(Path(text).name or path.name, edge=str(path))


def _endpoint(base_url: str, name: str, key_variable: str | None) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"base_url": base_url, "model": name}
    if key_variable:
        endpoint["api_key_env"] = key_variable
    return endpoint


def _only_model(base_url: str, key_variable: str | None) -> str:
    from r1pipe.text.endpoint import models_of

    names = models_of(base_url, key_variable)
    if len(names) == 1:
        return names[0]
    has = f"has {', '.join(names[:12])}" if names else "does not say which models it has"
    raise ConfigError(f"the service {has}", base_url, "name one: --served-name NAME")


@contextmanager
def _llama_cpp(file: Path) -> Iterator[dict[str, Any]]:
    from importlib.util import find_spec

    if not file.is_file():
        raise InputError(f"nothing is at {file}")
    if find_spec("xllamacpp") is None:
        raise MissingToolError(
            "a GGUF file is run by llama.cpp, and xllamacpp is not installed",
            str(file),
            'pip install "r1pipe[gguf]"',
        )
    from r1pipe.run.evals.llama_server import AT_ONCE, served

    with served(file) as (base_url, name):
        yield _endpoint(base_url, name, None) | {"max_in_flight": AT_ONCE}

"""hub:OWNER/NAME[@REVISION]: which commit it is, and its folder on this machine. huggingface_hub does the work."""

from __future__ import annotations

import re
from pathlib import Path

from r1pipe.artifacts import Dataset
from r1pipe.config.loader import Edge
from r1pipe.errors import InputError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_pinned(edge: Edge) -> bool:
    """Whether it names a commit. A branch or a tag does not pin: its owner may move it."""
    return _COMMIT.fullmatch(edge.text.partition("@")[2]) is not None


def repo_type(edge: Edge) -> str:
    return "dataset" if issubclass(edge.type, Dataset) else "model"


def repo_name(edge: Edge) -> str:
    """OWNER/NAME."""
    return edge.text.removeprefix("hub:").partition("@")[0]


def hub_commit(edge: Edge) -> str:
    """OWNER/NAME@COMMIT where the cache knows the commit, else the id as written; the stage will fetch it."""
    folder = cached(edge)
    if folder is None:
        return edge.text.removeprefix("hub:")
    return f"{repo_name(edge)}@{folder.name}"


def cached(edge: Edge) -> Path | None:
    """The folder of a repository in the cache; None where it is not there. No network is asked."""
    from huggingface_hub import constants

    # What downloads takes a quarter of a second to import; a plan of models that are not here needs none of it.
    owner, _, name = repo_name(edge).partition("/")
    if not (Path(constants.HF_HUB_CACHE) / f"{repo_type(edge)}s--{owner}--{name}").is_dir():
        return None
    try:
        return _snapshot(edge, local=True)
    except Exception:
        # huggingface_hub's own exceptions differ between its versions.
        return None


def fetch(edge: Edge) -> Path:
    """The folder of a repository, downloaded if the cache does not have it.

    Raises:
        InputError: the hub does not give it.
    """
    # The cache first: where it has everything, no network is needed.
    folder = cached(edge)
    if folder is not None:
        return folder
    try:
        return _snapshot(edge, local=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what = f"{edge.text} cannot be downloaded: {lines[0]}"
        raise InputError(what, fix="check the id, the network and HF_TOKEN; or give a path") from None


def newest_commit(repo: str, kind: str) -> str:
    """The 40 hex digits of the newest commit of a repository.

    Args:
        kind: model or dataset.

    Raises:
        InputError: the hub does not answer, or has no such repository.
    """
    from huggingface_hub import HfApi

    try:
        commit = HfApi().repo_info(repo, repo_type=kind).sha
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what = f"the hub does not give the {kind} {repo}: {lines[0]}"
        raise InputError(what, fix="check the id, the network and HF_TOKEN; a model needs --model") from None
    assert commit
    return commit


def _snapshot(edge: Edge, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    revision = edge.text.partition("@")[2] or None
    kind = repo_type(edge)
    folder = snapshot_download(
        repo_name(edge),
        repo_type=kind,
        revision=revision,
        local_files_only=local,
    )
    return Path(folder)

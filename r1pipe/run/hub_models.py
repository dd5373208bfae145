"""hub:OWNER/NAME[@REVISION]: which commit that is, and its folder on this machine. huggingface_hub does the work."""

from __future__ import annotations

from pathlib import Path

from r1pipe.artifacts import Dataset
from r1pipe.config.loader import Edge
from r1pipe.errors import InputError


def _snapshot(source: Edge, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = source.text.removeprefix("hub:").partition("@")
    kind = "dataset" if issubclass(source.type, Dataset) else "model"
    return Path(snapshot_download(repo, repo_type=kind, revision=revision or None, local_files_only=local))


def hub_commit(source: Edge) -> str:
    """OWNER/NAME@COMMIT where the cache knows the commit, else the id as written (it is fetched before the stage starts)."""
    try:
        folder = _snapshot(source, local=True)
    except Exception:  # not in the cache: huggingface_hub's own exceptions differ between its versions
        return source.text.removeprefix("hub:")
    return f"{source.text.removeprefix('hub:').partition('@')[0]}@{folder.name}"


def fetch(source: Edge) -> Path:
    """The folder, downloaded if need be.

    Raises:
        InputError: it cannot be had.
    """
    try:
        return _snapshot(source, local=True)
    except Exception:
        pass
    try:
        return _snapshot(source, local=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"'{source.text}' cannot be fetched: {first}", fix="check the id, the network and HF_TOKEN; or give a path"
        ) from None

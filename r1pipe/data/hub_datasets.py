"""Hub datasets, through `datasets`: fetched once, then memory-mapped. The commit is pinned, so the same config gives the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from r1pipe.data.files import Bad, Located, batch_rows, json_columns
from r1pipe.errors import InputError

if TYPE_CHECKING:
    from r1pipe.data.sources import Source


def read_hub(source: Source, bad: Bad) -> Iterator[Located]:
    """The rows of a split; `where` is OWNER/NAME:SPLIT:ROW.

    Raises:
        InputError: it cannot be fetched, has no such split, or only another commit of it is in the cache.
    """
    import datasets

    assert source.hub and source.revision
    label = f"{source.hub}@{source.revision[:8]}"
    try:
        builder = datasets.load_dataset_builder(source.hub, name=source.config, revision=source.revision)
    except Exception as error:
        raise _unreachable(error, label) from None
    # Without a network `datasets` takes whatever commit its cache holds. The folder is named after it.
    if source.revision not in (builder.hash, *builder.cache_dir.split("/")):
        raise InputError(
            f"the hub does not answer, and the cache holds another revision ({builder.hash})",
            label,
            "connect, or name the one that is there",
        )
    try:
        builder.download_and_prepare()
        table: Any = builder.as_dataset(split=source.hub_split)
    except Exception as error:
        raise _unreachable(error, label) from None
    assert isinstance(table, datasets.Dataset)
    where, number = f"{source.hub}:{source.hub_split}", 0
    table = table.select_columns(json_columns(table.data.schema, where)).with_format("arrow")
    for batch in table.iter(batch_size=4096):
        yield from batch_rows(batch, where, number, bad)
        number += batch.num_rows


def newest_commit(repo: str) -> str:
    """The 40 hex digits of a dataset's newest commit, to be written as `revision`.

    Raises:
        InputError: the hub does not answer, or has no such dataset.
    """
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(repo).sha
    except Exception as error:  # huggingface_hub's own exceptions differ between its versions
        raise _unreachable(error, repo) from None
    assert commit
    return commit


def _unreachable(error: Exception, label: str) -> InputError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"the hub dataset cannot be had: {first}",
        label,
        "check the id, `config`, `hub_split`, the network and HF_TOKEN; or give a `path`",
    )

"""Datasets on the hub, through `datasets`: fetched once, then memory-mapped.

A pinned commit gives the same rows with the same config; without one, a warning names the commit that was read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from r1pipe.data.files import PARQUET_BATCH_ROWS, Bad, Located, batch_rows, json_columns
from r1pipe.errors import InputError

if TYPE_CHECKING:
    from r1pipe.data.sources import Source


def read_hub(source: Source, on_bad: Bad) -> Iterator[Located]:
    """The rows of a split; `where` is OWNER/NAME:SPLIT:ROW.

    Raises:
        InputError: the dataset cannot be fetched, has no such split, or only another commit of it is in the cache.
    """
    import datasets

    assert source.hub
    label = f"{source.hub}@{(source.revision or 'newest')[:8]}"
    try:
        builder = datasets.load_dataset_builder(source.hub, name=source.config, revision=source.revision)
    except Exception as error:
        raise _unreachable(error, label) from None

    # Without a network, `datasets` takes whatever commit its cache has. The cache folder is named after the commit.
    if not source.pinned:
        what = f"{source.hub} is not pinned; these rows are of commit {builder.hash}"
        warnings.warn(f"{what} (write `revision: {builder.hash}` to keep it)", stacklevel=2)
    elif source.revision not in (builder.hash, *builder.cache_dir.split("/")):
        raise InputError(
            f"the hub does not answer, and the cache holds another revision ({builder.hash})",
            label,
            "connect to the network, or name the revision in the cache",
        )
    try:
        builder.download_and_prepare()
        dataset: Any = builder.as_dataset(split=source.hub_split)
    except Exception as error:
        raise _unreachable(error, label) from None
    assert isinstance(dataset, datasets.Dataset)

    name = f"{source.hub}:{source.hub_split}"
    columns = json_columns(dataset.data.schema, name)
    tables: Any = dataset.select_columns(columns).with_format("arrow")
    number = 0
    for batch in tables.iter(batch_size=PARQUET_BATCH_ROWS):
        yield from batch_rows(batch, name, number, on_bad)
        number += batch.num_rows


def _unreachable(error: Exception, label: str) -> InputError:
    message = str(error).strip()
    first_line = message.splitlines()[0] if message else type(error).__name__
    return InputError(
        f"the hub dataset cannot be read: {first_line}",
        label,
        "check the id, `config`, `hub_split`, the network and HF_TOKEN; or give a `path`",
    )

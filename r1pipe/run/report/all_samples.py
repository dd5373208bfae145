"""samples.parquet: every sample of every evaluated checkpoint, for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from r1pipe.run.report.curves import read_lines
from r1pipe.run.report.samples import verdict

FILE = "samples.parquet"
ROWS_AT_ONCE = 4096


def write_all_samples(reports: Mapping[str, Path], file: Path) -> None:
    """Write the samples of these reports, all or nothing, unless the file is newer than they are.

    Columns: checkpoint, pass, id, domain, sample, right (none where nothing judges it), tokens, finished, response.
    """
    if not reports:
        return
    newest = max(path.stat().st_mtime_ns for path in reports.values())
    if file.is_file() and file.stat().st_mtime_ns > newest:
        return
    # Imported here: most commands read no Parquet.
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    text = pyarrow.string()
    schema = pyarrow.schema(
        {
            "checkpoint": text,
            "pass": text,
            "id": text,
            "domain": text,
            "sample": pyarrow.int64(),
            "right": pyarrow.bool_(),
            "tokens": pyarrow.int64(),
            "finished": pyarrow.bool_(),
            "response": text,
        }
    )
    partial = file.with_name(f".{FILE}")
    rows = _rows(reports)
    with ParquetWriter(partial, schema, compression="zstd") as writer:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
    partial.replace(file)


def _rows(reports: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    for checkpoint, path in reports.items():
        for line in read_lines(path):
            # `pass` names the way of sampling where there are several.
            yield {
                "checkpoint": checkpoint,
                "pass": line.get("pass"),
                "id": line.get("id"),
                "domain": line.get("domain"),
                "sample": line.get("sample"),
                "right": verdict(line.get("scores") or {}, line.get("domain", "")),
                "tokens": line.get("tokens"),
                "finished": line.get("finished"),
                "response": line.get("response"),
            }

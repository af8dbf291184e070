"""Arrow tables as Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write `table` to the file `path`, replacing it; its metadata goes along. Raises OSError."""
    pq.write_table(table, path, compression="zstd")

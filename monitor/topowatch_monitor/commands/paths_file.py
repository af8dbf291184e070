"""Reads anyone's paths from a Parquet file; whatever is wrong with it is said in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS = ("path", "t", "vector")
FORM = "a row a point is needed, with the columns path (a name), t (its order) and vector (a list of numbers)"


class PathsFileError(ValueError):
    """The file cannot be read as paths; the message says why."""


def read_paths(file: Path, check: Callable[[int, int], object] | None = None) -> dict[str, NDArray[np.float64]]:
    """Return the points of each path, T × d in the order of t; equal t keep the order of the file.

    Args:
        file: columns `path` (text or integers), `t` (numbers or times) and `vector` (lists of d numbers, also of a
            fixed size); others are ignored.
        check: called with the number of points and d before the points are read, to raise if they are too many.

    Raises:
        PathsFileError: it is no such file, or has nulls, numbers that are not finite, or a path of one point.
    """
    try:
        with pq.ParquetFile(file) as opened:
            _check_columns(file, opened)
            if check is not None:
                check(opened.metadata.num_rows, _width(opened))
            table = opened.read(columns=list(COLUMNS))
    except UnicodeEncodeError:
        raise PathsFileError(f"the name of {file} is not UTF-8: rename it") from None
    except FileNotFoundError:
        raise PathsFileError(f"there is no file {file}") from None
    except IsADirectoryError:
        raise PathsFileError(f"{file} is a directory: name one Parquet file") from None
    except pa.ArrowException as error:
        raise PathsFileError(f"{file} cannot be read as Parquet: {_first_line(error)}") from None
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise PathsFileError(
            f"{file} is a directory: name one Parquet file" if _is_directory(file) else f"cannot read {file}: {reason}"
        ) from None
    return _paths(file, table)


def _is_directory(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # of a name that is too long
        return False


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(". ")


def _check_columns(file: Path, opened: pq.ParquetFile) -> None:
    schema = opened.schema_arrow
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise PathsFileError(
            f"{file} has no column{plural} {', '.join(missing)} among {', '.join(schema.names)}: {FORM}"
        )
    for name, fits, wanted in (
        ("path", _is_name, "text"),
        ("t", _is_order, "a number or time"),
        ("vector", _is_list, "a list of numbers"),
    ):
        if schema.names.count(name) > 1:
            raise PathsFileError(f"{file} has several columns {name}")
        kind = schema.field(name).type
        if not fits(kind):
            raise PathsFileError(f"column {name} of {file} is {kind}, not {wanted}")
    if opened.metadata.num_rows == 0:
        raise PathsFileError(f"{file} has no rows: {FORM}")


def _is_name(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _is_order(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    )


def _is_list(kind: Any) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _width(opened: pq.ParquetFile) -> int:
    """Return how many numbers a vector has on average, rounded up, from the file's footer alone."""
    footer = opened.metadata
    numbers: int = 0
    for group in range(footer.num_row_groups):
        columns = (footer.row_group(group).column(place) for place in range(footer.num_columns))
        numbers += sum(column.num_values for column in columns if column.path_in_schema.partition(".")[0] == "vector")
    rows: int = footer.num_rows
    return -(-numbers // rows)


def _paths(file: Path, table: pa.Table) -> dict[str, NDArray[np.float64]]:
    for name in COLUMNS:
        if table[name].null_count:
            row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise PathsFileError(f"column {name} of {file} is null in row {row}")
    named = table["path"]
    if pa.types.is_dictionary(named.type):
        named = named.cast(named.type.value_type)
    coded = pc.dictionary_encode(named.cast(pa.large_string())).combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    names = [str(name) for name in coded.dictionary.to_pylist()]
    which = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    points = _points(file, table["vector"], lambda row: names[which[row]])
    order = np.lexsort((_order(file, table["t"]), which))  # stable
    counts = np.bincount(which, minlength=len(names))
    if counts.min() < 2:
        lone = names[int(counts.argmin())]
        raise PathsFileError(f"path {lone!r} of {file} has one point: a path needs at least two, so leave it out")
    parts = np.split(points[order], np.cumsum(counts)[:-1])
    return dict(zip(names, parts, strict=True))


def _order(file: Path, column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise PathsFileError(f"column t of {file} is NaN in row {int(np.flatnonzero(np.isnan(values))[0])}")
    return values


def _points(file: Path, column: pa.ChunkedArray, name: Callable[[int], str]) -> NDArray[np.float64]:
    dimension, row, parts = -1, 0, []
    for chunk in column.chunks:
        if not len(chunk):
            continue
        lengths = pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
        dimension = int(lengths[0]) if dimension < 0 else dimension
        if (lengths != dimension).any():
            other = int(np.flatnonzero(lengths != dimension)[0])
            raise PathsFileError(
                f"row {row + other} of {file} (path {name(row + other)!r}) has a vector of {lengths[other]} numbers, "
                f"those before it have {dimension}: paths are compared in one space"
            )
        if dimension == 0:
            raise PathsFileError(f"row {row} of {file} (path {name(row)!r}) has an empty vector")
        flat = chunk.flatten()
        if flat.null_count:
            other = row + int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // dimension
            raise PathsFileError(f"row {other} of {file} (path {name(other)!r}) has a null in its vector")
        numbers = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, dimension)
        wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(wrong):
            other = row + int(wrong[0])
            raise PathsFileError(
                f"row {other} of {file} (path {name(other)!r}) has NaN or an infinity in its vector: cut the path "
                "before it, or leave the path out"
            )
        parts.append(numbers)
        row += len(chunk)
    return np.concatenate(parts)

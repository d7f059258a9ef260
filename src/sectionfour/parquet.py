"""The one way in which a parquet file of somebody else's is read. Needs the `training` extra."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sectionfour.errors import HistoryError

if TYPE_CHECKING:
    import pandas as pd


def table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Return the table in a file. Raises HistoryError where it is no parquet file, or lacks any of
    `columns`."""
    import pyarrow as pa  # what reads tables here may be opened by what serves, and reads none
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise HistoryError(f"{path.name} cannot be read as a parquet file") from error
    missing = [name for name in columns if name not in found.column_names]
    if missing:
        raise HistoryError(f"{path.name} lacks the columns {', '.join(missing)}")
    rows: pd.DataFrame = found.to_pandas()
    return rows

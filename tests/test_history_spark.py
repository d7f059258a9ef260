"""The past on Spark: the same columns as on DuckDB, to the bit.

Runs where `sectionfour[spark]` and Java 17 are; that all is in Spark's dialect is looked at always.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.sql.compilers import pyspark as dialect

from sectionfour.domain import KNOWN
from sectionfour.features import history, windows
from sectionfour.features.catalog import ENTITIES, NAMES, WINDOWS

from .test_features import ONE_THREAD, a_busy_past, as_table, assert_same


def in_sparks_sql(table: ibis.Table) -> str:
    return str(dialect.PySparkCompiler().to_sqlglot(table).sql("spark"))


def test_every_window_is_said_in_sparks_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one setting that the dialect asks for; as it is by default, where pyspark is installed.
    settings = SimpleNamespace(pyspark=SimpleNamespace(treat_nan_as_null=False))
    monkeypatch.setattr(dialect, "options", settings)
    table = ibis.table(
        {"at": "int64", "type": "string", "amount": "int64"} | dict.fromkeys(ENTITIES, "binary"),
        name="events",
    )
    for window in WINDOWS:
        if window.agg == "distinct":
            found = windows.distinct(table, window)
        else:
            found = windows.of_entity(table, window.by, [window])
        assert window.name in in_sparks_sql(found)
    assert "ORDER BY" in in_sparks_sql(history._given(table))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="sectionfour[spark] is not installed")
    if not shutil.which("java"):
        pytest.skip("no java is found")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.pyspark.python": sys.executable,
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    builder = sql.SparkSession.builder.master("local[1]").appName("sectionfour tests")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield ibis.pyspark.connect(session)
    session.stop()


def there(backend: Any, folder: Path, name: str, data: pa.Table) -> ibis.Table:
    """Put `data` where Spark reads it, without the columns that nobody has."""
    kept = [n for n in data.column_names if not pa.types.is_null(data[n].type)]
    pq.write_table(data.select(kept), folder / f"{name}.parquet")
    return backend.read_parquet(folder / f"{name}.parquet", table_name=name)


@pytest.mark.filterwarnings("ignore")  # what pyspark says of itself
def test_the_past_on_spark_is_the_past_on_duckdb_to_the_bit(spark: Any, tmp_path: Path) -> None:
    events = a_busy_past(300)
    scored = as_table([e for e in events if e.type not in KNOWN])
    known = as_table([e for e in events if e.type in KNOWN])
    found = scored.select(["member", "at"]).filter(scored["member"].is_valid())
    found = found.take(list(range(0, len(found), 7)))
    places = pa.array(range(len(found)), type=pa.int64())
    found = found.append_column("size", places).append_column("frauds", places)
    wanted, at = history.compute(scored, known, clusters=found, duckdb=ONE_THREAD)
    tables = [
        there(spark, tmp_path, name, data)
        for name, data in (("events", scored), ("known", known), ("found", found))
    ]
    got, their_at = history.compute(tables[0], tables[1], clusters=tables[2])
    assert their_at.tolist() == at.tolist()
    assert_same(got, wanted)
    various = [len(np.unique(column[~np.isnan(column)])) > 1 for column in wanted.T]
    assert sum(various) > 0.9 * len(NAMES), [
        n for n, v in zip(NAMES, various, strict=True) if not v
    ]

"""Where the search runs: on this machine, on Dask or on Spark, all through joblib.

A backend is `loky` (processes here), `threading`, `dask` or `spark`; after a colon the last two
take the address of a scheduler that is there already (`dask:tcp://HOST:8786`,
`spark:spark://HOST:7077`), whose workers must have this package in the same version. Without one
they start workers on this machine, and end them when the search is over. What is for one worker,
or one job, joblib runs in this process.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from joblib import Parallel, effective_n_jobs, parallel_config

from sectionfour.errors import SettingsError

#: Each backend, and the modules that it needs beside joblib; the extra has the backend's name.
NEEDS: dict[str, tuple[str, ...]] = {
    "loky": (),
    "threading": (),
    "dask": ("dask", "distributed"),
    "spark": ("pyspark", "joblibspark"),
}


def check(backend: str) -> None:
    """Raise SettingsError for a backend that is unknown or cannot run here."""
    name, colon, address = backend.partition(":")
    if name not in NEEDS:
        raise SettingsError(f"backends are {', '.join(NEEDS)}; got {backend!r}")
    if colon and not (NEEDS[name] and address):
        raise SettingsError(f"dask and spark take an address after the colon; got {backend!r}")
    if any(find_spec(module) is None for module in NEEDS[name]):
        raise SettingsError(
            f"the backend {name} needs {' and '.join(NEEDS[name])}: install sectionfour[{name}]"
        )
    if name == "spark" and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise SettingsError("the backend spark needs Java 17, as `java` or under JAVA_HOME")


def run(calls: Iterable[Any], *, jobs: int, backend: str) -> Iterator[Any]:
    """Yield the result of each of joblib's delayed `calls`, in their order.

    Raises SettingsError, as `check` does, before anything runs.
    """
    check(backend)
    return _run(calls, effective_n_jobs(jobs), *backend.partition(":")[::2])


def _run(calls: Iterable[Any], jobs: int, name: str, address: str) -> Iterator[Any]:
    if name == "dask":
        with _dask(address, jobs) as client, parallel_config("dask", client=client):
            yield from Parallel(jobs, return_as="generator")(calls)
    elif name == "spark":
        with _spark(address, jobs):
            yield from Parallel(jobs, backend="spark")(calls)  # which cannot give one at a time
    else:
        yield from Parallel(jobs, backend=name, return_as="generator")(calls)


@contextmanager
def _dask(address: str, jobs: int) -> Iterator[Any]:
    distributed = import_module("distributed")
    if address:
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            yield client
        return
    here = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**here) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def _spark(address: str, jobs: int) -> Iterator[None]:
    """Have a Spark session: one that is there already is used, and left as it is."""
    session = import_module("pyspark.sql").SparkSession
    import_module("joblibspark").register_spark()
    if session.getActiveSession():
        yield
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = session.builder.appName("sectionfour").master(address or f"local[{jobs}]")
    started = builder.config("spark.ui.enabled", "false").getOrCreate()
    try:
        yield
    finally:
        started.stop()

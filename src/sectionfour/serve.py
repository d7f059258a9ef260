"""`sectionfour serve`: worker processes on one port, their upkeep, and a clean end.

The process that starts the workers opens no store and loads no model. What has to be right before
they start is looked at in a short-lived process of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sectionfour.errors import NotReady, SectionFourError, SettingsError
from sectionfour.settings import Settings

if TYPE_CHECKING:
    from sectionfour.parts import Parts

#: A checkout's row is too small to share out: numpy and onnxruntime get one thread each.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Threads a worker: while one waits for the disk, others go on and share its commit. Batches may
#: have some of them (`web.routes.BATCHES`).
THREADS = 4
#: Seconds after which a thread that computes lets another go on.
SWITCH = 0.0005
#: Objects after which Python looks for unused cycles: a call makes some hundreds, and few cycles.
GARBAGE = 20_000
#: Seconds that a worker has to finish what it is about.
PATIENCE = 20
#: What tells a process to end.
ENDS = (signal.SIGTERM, signal.SIGINT)


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int,
    pin: bool = True,
    older_ledger: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError where it cannot start.

    With `pin`, and a worker or more for each CPU, each keeps to one. A ledger that lacks entries
    which were witnessed is served with `older_ledger` alone: it may lack a withdrawal.
    """
    for name in _ONE_THREAD:
        os.environ[name] = "1"
    for number in ENDS:  # what was begun by then is ended, too
        signal.signal(number, _end)
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    _prepared(settings, older_ledger)
    counters = _counters(settings.home / "metrics")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(counters)
    server = Granian(
        target="sectionfour",
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=workers,
        blocking_threads=THREADS,
        backlog=1024,
        backpressure=256,
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=PATIENCE,
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
    )
    noun = "worker" if workers == 1 else "workers"
    where = f"[{host}]" if ":" in host else host
    click.echo(f"listening at http://{where}:{port} with {workers} {noun}", err=True)
    cpus = _usable_cpus()
    own = counters if pin and workers >= len(cpus) > 1 else None
    _listen()
    try:
        server.serve(target_loader=functools.partial(_worker, settings, own), wrap_loader=False)
    finally:
        shutil.rmtree(counters, ignore_errors=True)


# --- being told to end


def _end(number: int, _frame: Any) -> None:
    raise SystemExit(0)


def _listen(*, once: bool = False) -> None:
    """Take what tells this process to end in a thread of its own, and hand it on to the server as
    soon as that is there; a worker's server can be told `once`: the next time it would hang.

    The kernel gives a signal to any thread of a process that was stopped, Python sees to it in the
    main one alone, and that may be asleep. And whoever has just been forked has the handlers of its
    parent: so what this process forks keeps signals waiting, until it listens itself.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    before = signal.getsignal(signal.SIGTERM)

    def listen() -> None:
        while True:
            number = signal.sigwait(ENDS)
            while (handler := signal.getsignal(signal.SIGTERM)) == before:
                time.sleep(0.01)
            if callable(handler):
                handler(number, None)
            if once:
                return

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _end_with(parent: int) -> None:
    """End when whoever started this process has ended: workers that were left alone would keep the
    port from those of the next start."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


# --- before the workers


def _prepared(settings: Settings, older_ledger: bool = False) -> None:
    """Open everything once, elsewhere; the windows are made anew where they are not fresh."""
    process = multiprocessing.get_context("spawn").Process(
        target=_prepare, args=(settings, older_ledger), daemon=True
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SettingsError("the service cannot start: see above")


def _prepare(settings: Settings, older_ledger: bool = False) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    from sectionfour.bootstrap import open_parts

    try:
        with contextlib.closing(open_parts(settings)) as parts:
            with parts.keys.ring.steady:
                _look_over(parts, settings, older_ledger)
            _made_whole(parts)
    except SectionFourError as error:
        click.echo(f"{error.code}: {error.detail}", err=True)
        raise SystemExit(1) from None


def _look_over(parts: Parts, settings: Settings, older_ledger: bool) -> None:
    from sectionfour.bootstrap import open_notary
    from sectionfour.learning import registry
    from sectionfour.privacy import erasure

    for name in registry.NAMES:
        parts.models.get(name)
    lacking = open_notary(settings, parts).lacking()
    if lacking:
        said = f"the ledger is an older one: {lacking:,} witnessed entries are not in it"
        if not older_ledger:
            raise NotReady(
                f"{said}. Withdrawals, revocations and holds among them would not count;"
                " `serve --older-ledger` goes on without them"
            )
        click.echo(f"{said}, and do not count", err=True)
    again = erasure.redo(parts, parts.clock())
    if again:
        click.echo(f"erasures that it lacks are done again: {again:,}", err=True)


def _made_whole(parts: Parts) -> None:
    from sectionfour.jobs.upkeep import anew, fresh

    if not fresh(parts):
        from tqdm import tqdm

        click.echo("the windows are not those of the ledger: they are made anew", err=True)
        with tqdm(unit="event", unit_scale=True, file=sys.stderr) as bar:
            anew(parts, bar.update)


def _counters(folder: Path) -> Path:
    """Return a new folder for what the workers of this run count; those of dead runs go."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.iterdir():
        if not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)
    new = folder / str(os.getpid())
    new.mkdir()
    return new


# --- in a worker


def _worker(settings: Settings, own: Path | None) -> Callable[..., Any]:
    """Return the application, in the process that will serve it.

    `own` is the folder in which the workers of a run agree on a CPU for each.
    """
    threading.excepthook = _thread_failed
    _listen(once=True)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if own is not None:
        _keep_to_one_cpu(own)
    # A thread back from the disk would else wait 5 ms for its turn, several times a request.
    sys.setswitchinterval(SWITCH)
    from sectionfour.web import create_app

    app = create_app(settings, upkeep=True)
    # What is there by now stays: to look through it again and again cost a tenth of every call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 10, 10)

    def end() -> None:
        app.extensions["sectionfour.jobs.upkeep"].stop()
        app.extensions["sectionfour"].close()

    Finalize(None, end, exitpriority=10)  # a worker process runs no atexit functions
    return app


def _usable_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _keep_to_one_cpu(folder: Path) -> None:
    """Keep to a CPU that no other worker has. One thread of a worker computes at a time, and to
    hand over to the next is much dearer where that one sits on another CPU.

    Who holds the lock of a CPU's file has it; with the process the lock goes.
    """
    for cpu in _usable_cpus():
        file = os.open(folder / f"cpu_{cpu}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {cpu})
        return


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    from sectionfour.web.problems import fault

    if args.exc_value is not None:
        fault(args.exc_value)


class Plain(logging.Formatter):
    """One line a record, and of an exception where it was, never its message: that may be raw."""

    def formatException(self, ei: Any) -> str:
        from sectionfour.web.problems import where

        return where(ei[1]) if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        # What the server says of an exception that escaped holds its message, after the first line.
        return super().format(record).partition("\n")[0]


_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"()": Plain, "fmt": "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"}
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "stream": "ext://sys.stderr",
        }
    },
    "loggers": {
        "_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "granian.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}

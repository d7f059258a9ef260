"""The one way in which we open Redis or Valkey: what is demanded of a server, how it is asked.

With each new connection, and so after each of its restarts, the server is asked how it keeps what
it has acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from sectionfour.errors import FailClosed, NotReady, SettingsError

#: Unless the URL says otherwise: who does not answer for so many seconds is not there.
USUAL = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
#: Else it lets go of what nobody has taken back.
DEMANDED = {"maxmemory-policy": "noeviction"}
#: What is acknowledged is on the server's disk; and what makes it less sure.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}

Command = tuple[bytes | str | int, ...]
#: Sends commands all at once; returns the answer to each.
Ask = Callable[..., list[Any]]


class Server:
    """The server that `url` names: redis, rediss (TLS) or unix.

    FULL demands of it that what it acknowledges is on its disk. With NORMAL that need not be: it
    may come back from a restart with less than it had, and `run` tells which one this is.

    Raises SettingsError for a URL that is none; nothing is sent yet.
    """

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        self._full = synchronous == "FULL"
        self.run = ""  # of a server that keeps all, it does not matter which one
        try:
            self._pool: Any = ConnectionPool.from_url(
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=self._connected,
                **USUAL,
            )
        except (ValueError, TypeError):
            raise SettingsError("the URL of the windows is not one that Redis knows") from None

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        """Give what asks, over one connection: what it watches is watched until EXEC or UNWATCH.

        Raises FailClosed where the server cannot be reached, does not answer in time or refuses,
        NotReady where it may lose or evict what it has acknowledged.
        """
        try:
            connection = self._pool.get_connection()

            def ask(*commands: Command) -> list[Any]:
                connection.send_packed_command(connection.pack_commands(commands))
                answers = [connection.read_response() for _ in commands]
                if answers and isinstance(answers[-1], list):  # of EXEC: one may have failed alone
                    for one in answers[-1]:
                        if isinstance(one, RedisError):
                            raise one
                return answers

            try:
                yield ask
            except BaseException:
                connection.disconnect()  # with what it watches, and what is still to be read
                raise
            finally:
                self._pool.release(connection)
        except RedisError as error:
            raise FailClosed("the velocity store cannot be used") from error

    def close(self) -> None:
        self._pool.disconnect()

    def _connected(self, connection: Any) -> None:
        connection.on_connect()
        run = ""
        for name, wanted in (DEMANDED | DURABLE).items():
            found = _answer(connection, "CONFIG", "GET", name)
            if found == [name.encode(), wanted.encode()]:
                continue
            if self._full or name in DEMANDED:
                connection.disconnect()
                told = found[1].decode() if found else "not told"
                raise NotReady(
                    f"the windows need a server with {name} {wanted}, and its is {told}: else it"
                    " may lose what it has acknowledged"
                )
            lines = _answer(connection, "INFO", "server").splitlines()
            run = next(x.decode() for x in lines if x.startswith(b"run_id:"))
        self.run = run


def _answer(connection: Any, *command: str) -> Any:
    connection.send_command(*command)
    return connection.read_response()

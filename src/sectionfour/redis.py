"""The one way in which we open Redis or Valkey: what is demanded of a server, how it is asked.

The server has to keep what it has acknowledged, and to evict nothing: it is asked so with each new
connection, and so after each of its restarts.
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
#: The configuration in which an acknowledged command is on the server's disk, and stays.
DEMANDED = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}

Command = tuple[bytes | str | int, ...]
#: Sends commands all at once; returns the answer to each.
Ask = Callable[..., list[Any]]


class Server:
    """The server that `url` names: redis, rediss (TLS) or unix.

    Raises SettingsError for a URL that is none; nothing is sent yet.
    """

    def __init__(self, url: str) -> None:
        try:
            self._pool: Any = ConnectionPool.from_url(
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=_connected,
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


def _connected(connection: Any) -> None:
    connection.on_connect()
    for name, wanted in DEMANDED.items():
        connection.send_command("CONFIG", "GET", name)
        found = connection.read_response()
        if found != [name.encode(), wanted.encode()]:
            connection.disconnect()
            told = found[1].decode() if found else "not told"
            raise NotReady(
                f"the windows need a server with {name} {wanted}, and its is {told}: else it may"
                " lose what it has acknowledged"
            )

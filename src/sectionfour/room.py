"""The one way in which room on a disk is taken ahead, for files that are written through memory.

Such a file has holes. A page of a hole gets its room when it is first written to, and where there
is none the kernel has no way to say so but to kill the process.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sectionfour.errors import FailClosed

#: With fewer bytes left on the disk nobody should be sent to us: the windows take half of these at
#: once.
SPARE = 1 << 24
#: macOS has no such call: there a full disk still kills the process.
_take = getattr(os, "posix_fallocate", None)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def take(file: int, start: int, end: int) -> None:
    """Let every byte of an open file from `start` to before `end` have its place on the disk.

    The file grows where it is shorter; what it holds stays. FailClosed where there is no room.
    """
    if _take is None:
        return
    try:
        _take(file, start, end - start)
    except OSError as error:
        said = "the disk is full" if error.errno in _FULL else "the disk gives no room"
        raise FailClosed(said) from error


def look(folder: Path, wanted: int = SPARE) -> None:
    """FailClosed where fewer bytes than are `wanted` are left on the disk that `folder` is on."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < wanted:
        raise FailClosed("the disk is full")


def make(path: Path, length: int) -> None:
    """Let the file at `path` be there, for nobody else to read, with room for `length` bytes."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take(file, 0, length)
    finally:
        os.close(file)

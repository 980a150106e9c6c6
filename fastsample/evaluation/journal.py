"""A file of whole lines that is only appended to, and the lock that keeps a second writer away from it.

A write that fails or is interrupted takes back what it wrote of its line. Where it cannot, nothing more is appended: a
line behind half a line would be lost with it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from .dataset import RunError

BLOCK = 1 << 16
# What systems say of locks that they do not have: NFS without a lock service, some network and user-space systems.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def open_own(path: Path, flags: int) -> int:
    """A file descriptor of a plain file, made where there is none; raises RunError for a link or anything else."""
    sentence = (
        f"{path} must be a plain file, and is {{}}; a run writes into its own folder only, link the folder instead"
    )
    if path.is_symlink():
        raise RunError(sentence.format("a link"))
    if path.exists() and not path.is_file():  # opening a pipe would wait
        raise RunError(sentence.format("something else"))
    try:
        number = os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunError(sentence.format("a link")) from None
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise RunError(sentence.format("something else"))
    return number


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some network systems do not sync them
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class Journal:
    """One such file, open for appending. `repair` first, under the lock: the end may be half a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_broken = False
        # Unbuffered: a line is the system's as soon as `append` returns, whatever becomes of the process.
        self._file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND), "rb+", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size  # behind the last whole line

    def repair(self) -> None:
        """Cut off a line that was never finished; one that only lacks its line break gets it."""
        end = start = self.size
        tail = b""
        while start and b"\n" not in tail:
            start = max(0, start - BLOCK)
            tail = self._read(start, end)
        tail = tail[tail.rfind(b"\n") + 1 :]
        if not tail:
            return
        if is_whole(tail):
            self.append(b"\n")
        else:
            self.size = end - len(tail)
            self._file.truncate(self.size)

    def append(self, line: bytes) -> None:
        """Write a line with its line break, all of it or nothing; raises OSError where it cannot be written."""
        if self.is_broken:
            raise OSError(
                errno.EIO, f"nothing more is appended to {self.path}: a write to it failed; --resume mends it"
            )
        left = line
        try:
            while left:
                taken = self._file.write(left)
                if not taken:
                    raise OSError(errno.EIO, "nothing could be written")
                left = left[taken:]
            self.size += len(line)
        except BaseException:
            self._take_back(line)
            raise

    def sync(self) -> None:
        """Force all lines to the disk; after an error nobody knows what arrived, and nothing more is appended."""
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self.is_broken = True
            raise

    def close(self) -> None:
        """Close the file; nothing is forced to the disk."""
        self._file.close()

    def _take_back(self, line: bytes) -> None:
        """Cut off what was written of a line, if it is that: without a lock it may be another process's."""
        self.is_broken = True
        with suppress(OSError):
            end = os.fstat(self._file.fileno()).st_size
            written = self._read(self.size, end) if self.size < end <= self.size + len(line) else b""
            if end == self.size + len(written) and line.startswith(written):
                self._file.truncate(self.size)
                self.is_broken = False

    def _read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        parts = []
        while start < end and (part := self._file.read(end - start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)


def is_whole(line: bytes) -> bool:
    """Whether a line without a line break is a whole JSON object all the same; what is cut off anywhere is none."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class Lock:
    """One writer a folder, kept by a file of its own that is never cut or replaced.

    why_not: why the system keeps no lock here, in one sentence, or None

    raises: RunError where another process holds it
    """

    def __init__(self, path: Path) -> None:
        self.why_not: str | None = None
        self._number = open_own(path, os.O_RDWR)
        try:
            self._take(path)
        except BaseException:
            os.close(self._number)
            raise

    def _take(self, path: Path) -> None:
        busy = f"another process is writing to {path.parent}; wait for it, or choose another folder"
        rest = f"do not let two processes write to {path.parent} at once, their samples would be mixed"
        try:
            import fcntl
        except ImportError:
            self.why_not = f"this system has no file locks of the kind that is needed; {rest}"
            return
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(busy) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.why_not = f"{path} cannot be locked ({error.strerror}); {rest}"
        try:
            is_there = os.path.samestat(os.fstat(self._number), os.stat(path))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise RunError(f"{path.parent} was replaced while it was opened; try again")

    def release(self) -> None:
        """Let others write, once. Said outright: a child process that inherited the file would keep the lock."""
        if self._number < 0:
            return
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(self._number, fcntl.LOCK_UN)
        os.close(self._number)
        self._number = -1

"""Files that are either whole or absent, and content hashes that are computed once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp"  # in the name of a file that is not whole yet
LONGEST = 200  # bytes of a name to which suffixes are added: file systems take 255


def fitting(name: str) -> str:
    """NAME where files may be called so with whatever suffix, else a digest of it and its end: as short, and no other's."""
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST:
        return name
    mark = hashlib.sha256(content).hexdigest()[:12]
    return f"{mark}-{content[len(mark) + 1 - LONGEST :].decode(errors='ignore')}"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let WRITE fill a temporary file beside PATH, then rename it: a reader sees the whole file or none.

    The temporary name keeps PATH's suffix (writers choose their format by it) and is unique to this process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{fitting(path.stem)}.{os.getpid()}{TEMPORARY}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in FOLDER and below; the caller knows that no other one writes there."""
    for path in folder.rglob(f".*{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write TEXT as UTF-8, atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write VALUE as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any | None:
    """The value in PATH, or None when the file is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def link(source: Path | str, target: Path | str) -> None:
    """Make TARGET another name of the file SOURCE, or its copy on a file system without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def digest(value: Any) -> str:
    """A short content digest of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    value = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def own(path: Path) -> IO[str]:
    """Hold the empty file PATH for this process alone, as long as what is returned is open; the system lets go when the
    process ends, however it ends. Raises BlockingIOError when another process holds it.

    Processes that this one starts do not inherit the hold. Where a file system knows no locks, nothing is held.
    """
    import fcntl

    file = path.open("a", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise BlockingIOError(error.errno, "another process is at work in it", str(path)) from error
    return file


def held(path: Path) -> bool:
    """Whether another process holds PATH by `own`. Not for the process that holds it: looking would let go."""
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


class HashCache:
    """sha256 of files, computed once and kept with (size, modification time); hashed again only where those differ."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = read_json(path) or {}
        self._changed = False

    def of(self, file: Path | str) -> str:
        """The sha256 of FILE. Raises OSError when it cannot be read, or is a pipe or device, which may never end."""
        key = os.fspath(file)
        status = os.stat(key)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", key)
        known = self._known.get(key)
        if known is not None and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known[2]
        value = sha256(Path(key))
        self._known[key] = [status.st_size, status.st_mtime_ns, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Keep what was learned; a run that changed nothing writes nothing. Where it cannot be kept, it is learned again."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_text(self._path, json.dumps(self._known))
            self._changed = False

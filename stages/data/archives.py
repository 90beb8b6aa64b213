"""Archives of other people: what they hold, whether they are the published ones, and their files on disk.

Nothing but regular files is ever taken out, by our own writer and under names that cannot leave the folder; a file is there
whole or not at all, so that unpacking goes on where a kill stopped it.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

from stages.core import interrupt
from stages.core.errors import StageError
from stages.core.files import write_atomic

if TYPE_CHECKING:
    from stages.core.stage import Meter, Reporter

T = TypeVar("T")
BLOCK = 1 << 20  # bytes read at a time; progress over an archive counts these
LARGEST = 64 << 20  # bytes of a member that is read at once
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Published:
    """An archive as its makers publish it; without a URL it must be on disk, without an md5 it is taken as it is."""

    file: str
    url: str | None
    md5: str | None
    size: int  # bytes


@dataclass(frozen=True)
class Member:
    """A regular file in an archive or a folder, `name` relative to it."""

    name: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]

    def read(self) -> bytes:
        """Its content. Raises StageError where it would not fit into memory."""
        if self.size > LARGEST:
            raise StageError(f"Refused '{self.name}'", f"it holds {self.size:,} bytes", "Get the archive from its makers")
        with self.open() as stream:
            return stream.read(self.size)


class Readable(Protocol):
    """What is walked through for its members, and how far that has come."""

    def __iter__(self) -> Iterator[Member]: ...

    @property
    def blocks(self) -> int: ...

    @property
    def passed(self) -> int: ...


class Archive:
    """An open tar or zip file: walk through it for its members, in the order in which they lie there."""

    def __init__(self, stream: IO[bytes], members: Iterator[Member], size: int) -> None:
        self._stream, self._members, self._size = stream, members, size

    def __iter__(self) -> Iterator[Member]:
        return self._members

    @property
    def blocks(self) -> int:
        """Blocks of the whole file."""
        return -(-self._size // BLOCK)

    @property
    def passed(self) -> int:
        """Blocks of the file that have been read so far."""
        return min(self._stream.tell() // BLOCK, self.blocks)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The tar or zip file PATH. Raises StageError where it is damaged, also while it is read, or names leave its folder."""
    try:
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as packed:
                    yield Archive(stream, _of_zip(packed, path), path.stat().st_size)
            else:
                stream.seek(0)
                with tarfile.open(fileobj=stream) as taped:
                    yield Archive(stream, _of_tar(taped, path), path.stat().st_size)
    except DAMAGE as error:
        why = str(error) or "it ends early"
        raise StageError(f"Cannot read archive {path}", why, "Delete it and fetch it again") from error
    except FileNotFoundError as error:
        raise StageError(f"Cannot read archive {path}", "no such file", "Name an archive that is there") from error


def _of_tar(taped: tarfile.TarFile, path: Path) -> Iterator[Member]:
    for info in taped:
        if info.isreg():  # folders are made as they are needed; links and devices are passed over
            yield Member(_inner(info.name, path), info.size, lambda info=info: _content(taped, info))


def _content(taped: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = taped.extractfile(info)
    assert stream is not None  # it is a regular file
    return stream


def _of_zip(packed: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    for info in packed.infolist():
        if info.flag_bits & 1:
            raise StageError(f"Cannot read archive {path}", "it is encrypted", "Unpack it yourself and name its folder")
        if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
            yield Member(_inner(info.filename, path), info.file_size, lambda info=info: packed.open(info))


def _inner(name: str, path: Path) -> PurePosixPath:
    """A member's name as a path below the archive's folder. Raises StageError where it would lead out of it."""
    inner = PurePosixPath(name.replace("\\", "/"))
    if inner.is_absolute() or ".." in inner.parts or not inner.parts or ":" in inner.parts[0] or "\0" in name:
        raise StageError(f"Refused archive {path}", f"it names a file outside its folder: {name!r}", "Get it from its makers")
    return inner


def verify(path: Path, published: Published, reporter: Reporter) -> None:
    """Raise StageError where PATH is not the archive that was PUBLISHED, by its md5."""
    if published.md5 is None:
        return
    found = hashlib.md5(usedforsecurity=False)
    blocks = -(-path.stat().st_size // BLOCK)
    with path.open("rb") as stream, reporter.track(f"checking {published.file} (MB)", blocks) as meter:
        while block := stream.read(BLOCK):
            interrupt.check()
            found.update(block)
            meter.advance()
    if found.hexdigest() != published.md5:
        raise StageError(
            f"{path} is not the published archive",
            f"its md5 is {found.hexdigest()}, not {published.md5}",
            "Delete it and fetch it again, or take it as it is with --unchecked",
        )


def unpack(path: Path, root: Path, place: Callable[[PurePosixPath], PurePosixPath | None], reporter: Reporter) -> int:
    """Write the files of the archive PATH that PLACE gives a place below ROOT; returns how many were written.

    Files that are there with the size they have in the archive are kept. Raises StageError, before anything is written,
    where the disk has no room for the others.
    """
    with opened(path) as archive:
        with reporter.track(f"looking into {path.name} (MB)", archive.blocks) as meter:
            placed = [(member, place(member.name)) for member in follow(archive, archive, meter)]
        wanted = [(member, root / target) for member, target in placed if target is not None]
        todo = [(member, target) for member, target in wanted if not _there(target, member.size)]
        require_space(root, sum(member.size for member, _ in todo))
        with reporter.track(f"unpacking {path.name}", len(wanted), len(wanted) - len(todo)) as meter:
            for member, target in todo:
                interrupt.check()
                write_atomic(target, lambda temporary, member=member: _copy(member, temporary, path))
                meter.advance()
    return len(todo)


def follow(items: Iterable[T], archive: Readable, meter: Meter) -> Iterator[T]:
    """ITEMS, made while ARCHIVE is read, as they come; METER shows how far it has been read."""
    seen = 0
    for item in items:
        interrupt.check()
        yield item
        if archive.passed > seen:
            meter.advance(archive.passed - seen)
            seen = archive.passed
    if archive.blocks > seen:
        meter.advance(archive.blocks - seen)


def _there(target: Path, size: int) -> bool:
    try:
        return target.stat().st_size == size
    except OSError:
        return False


def _copy(member: Member, target: Path, path: Path) -> None:
    with member.open() as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, BLOCK)
        written = out.tell()
    if written != member.size:
        raise StageError(f"Cannot read archive {path}", f"'{member.name}' ends early", "Delete it and fetch it again")


def require_space(folder: Path, needed: int) -> None:
    """Raise StageError where the disk of FOLDER, which need not be there yet, has fewer than NEEDED bytes free."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise StageError(
            f"Not enough room in {folder}",
            f"{needed:,} bytes are needed and {free:,} are free",
            "Free some, or choose another folder with --root DIR",
        )

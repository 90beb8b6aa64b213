"""Which photographs `bas predict` means, and what their outputs are called: files, folders and patterns → names in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import StageError
from stages.data.formats import SUFFIXES

MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Photograph:
    """A photograph, and the name of what is made of it: relative, without a suffix of its own."""

    path: Path
    name: Path

    def output(self, folder: Path, suffix: str) -> Path:
        """Its file in FOLDER; a dot in the name stays."""
        return folder / self.name.with_name(self.name.name + suffix)


def collect(arguments: Sequence[str], out: Path) -> list[Photograph]:
    """The photographs that ARGUMENTS name, in order: files, folders with all below them, patterns (`**` crosses folders).

    Sub-folders are kept in the names; what lies in OUT is no input. Raises StageError where an argument names nothing and
    where two photographs would be written to one name.
    """
    found: dict[Path, Path] = {}  # by the file itself, so that one named twice is taken once
    for argument in arguments:
        before = len(found)
        for path, relative in _named(argument):
            if out.resolve() not in path.resolve().parents:
                found.setdefault(path, relative)
        if len(found) == before and not any(True for _ in _named(argument)):
            raise StageError(f"No photograph in {argument}", _why(argument), f"Name images ({', '.join(sorted(SUFFIXES))})")
    return _unique([Photograph(path, relative) for path, relative in found.items()])


def _named(argument: str) -> Iterator[tuple[Path, Path]]:
    """The files of one argument with their relative paths; a file that is named itself is taken whatever its suffix."""
    path = Path(argument).expanduser()
    if path.is_dir():
        yield from ((each, each.relative_to(path)) for each in sorted(path.rglob("*")) if _is_image(each, path))
    elif path.exists():
        yield path, Path(path.name)
    elif MAGIC & set(argument):
        base = _base(path)
        matches = sorted(base.glob(str(path.relative_to(base))))
        yield from ((each, each.relative_to(base)) for each in matches if _is_image(each, base))


def _is_image(path: Path, base: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _base(pattern: Path) -> Path:
    """The folder that a pattern begins in: its parts before the first with a wildcard."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if MAGIC & set(part))
    return Path(*parts[:first])


def _why(argument: str) -> str:
    path = Path(argument).expanduser()
    if path.is_dir():
        return "the folder holds no image"
    return "nothing matches" if MAGIC & set(argument) else "no such file or folder"


def _unique(photographs: Sequence[Photograph]) -> list[Photograph]:
    """Names without suffixes; where two would be one, as a.jpg and a.png, both keep theirs. Raises StageError on equal names."""
    bare = Counter(one.name.with_suffix("") for one in photographs)
    named = [Photograph(one.path, name if bare[name := one.name.with_suffix("")] == 1 else one.name) for one in photographs]
    name, count = Counter(one.name for one in named).most_common(1)[0] if named else (Path(), 0)
    if count > 1:
        places = ", ".join(str(one.path) for one in named if one.name == name)
        raise StageError(f"Two photographs would be written to {name}", places, "Predict the folders one by one, or their parent")
    return named

"""Lists of ids in a folder of their own: for photographs that come without any, and for those whose own are not wanted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import StageError
from stages.data.labels import Labels
from stages.data.readers import Reader


@dataclass(frozen=True)
class Lists:
    """Text files in FOLDER, one id a line."""

    folder: Path

    def has_list(self, name: str) -> bool:
        """Whether the list NAME is there."""
        return (self.folder / f"{name}.txt").is_file()

    def ids(self, name: str) -> tuple[str, ...]:
        """Ids of the list NAME, one a line: names may hold spaces. Raises StageError."""
        path = self.folder / f"{name}.txt"
        try:
            ids = tuple(dict.fromkeys(filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines()))))
        except FileNotFoundError as error:
            known = sorted(other.stem for other in self.folder.glob("*.txt"))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"Did you mean '{near[0]}'?" if near else "`bas data init` writes the lists, and data.lists names their folder"
            why = f"lists there: {', '.join(known) or 'none'}"
            raise StageError(f"No image list '{name}' in {self.folder}", why, hint) from error
        except (OSError, UnicodeDecodeError) as error:
            raise StageError(f"Cannot read {path}", str(error), "Make it a readable UTF-8 text file") from error
        if not ids:
            raise StageError(f"The image list {path} is empty", "it names no image", "Put one id a line into it")
        return ids


@dataclass(frozen=True)
class Relisted(Lists):
    """A reader that answers as INNER does, but for the lists."""

    inner: Reader

    @property
    def root(self) -> Path:
        """The folder of the photographs."""
        return self.inner.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names without background."""
        return self.inner.classes

    def find(self, ids: Sequence[str], listed_in: str) -> list[str | None]:
        """The image file of each of IDS, or None."""
        return self.inner.find(ids, listed_in)

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The image file of each of IDS."""
        return self.inner.files(ids, listed_in)

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """Class ids of IDS, and their source."""
        return self.inner.labels(ids)

    def mask(self, image_id: str) -> Path | None:
        """The true mask of an image, or None."""
        return self.inner.mask(image_id)

    def objects(self, image_id: str) -> Path | None:
        """The mask of an image's true instances, or None."""
        return self.inner.objects(image_id)

    def instances(self) -> Path | None:
        """A COCO document of the true instances, or None."""
        return self.inner.instances()

"""What can be wrong or odd in a dataset: each kind with its weight and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# error: training fails or is misled. warning: worth a look. note: how it is handled.
KINDS: Mapping[str, tuple[Severity, str]] = {
    "empty file": ("error", "replace it or take it off the lists"),
    "broken image": ("error", "replace it or take it off the lists"),
    "absent image": ("error", "add the file or take it off the list"),
    "unreadable list or labels": ("error", "correct the file"),
    "same id in two splits": ("error", "take it off one of the lists"),
    "same bytes in two splits": ("error", "take it off the training list"),
    "near-duplicate in two splits": ("error", "look at both, take one off the training list"),
    "same bytes, other labels": ("error", "decide which labels are right, keep one file"),
    "same file in two classes": ("error", "keep one; if it shows both, make the other a link, or say so in a file of labels"),
    "broken mask": ("error", "replace or remove the mask"),
    "mask of another size": ("error", "make the mask anew: one pixel for one of the upright image"),
    "mask with unknown ids": ("error", "ids are 0, those of the classes from 1, and 255 for void"),
    "broken outline": ("error", "draw it anew, or remove the annotation"),
    "outlines for another size": ("error", "give the document the size of the upright image, and outlines that fit"),
    "label without image": ("warning", "add the file or correct its name: the row is left out"),
    "outline beyond the image": ("warning", "draw it anew: it is cut at the edge"),
    "empty outline": ("warning", "draw it anew, or remove it: it covers no pixel"),
    "object without an outline": ("warning", "outline it: of its image no true mask can be drawn"),
    "unsupported format": ("warning", "convert it, or ignore it"),
    "same bytes twice": ("warning", "keep one: the others weigh twice"),
    "near-duplicates": ("warning", "keep one, if they show the same"),
    "no label": ("warning", "label it: it is left out of training"),
    "few images of a class": ("warning", "add images: fewer than 10 teach little"),
    "never without another class": ("warning", "add images of it alone: nothing tells the two apart"),
    "mask shows more than the labels": ("warning", "complete the image-level labels"),
    "labels say more than the mask": ("note", "the mask may leave small objects out"),
    "tiny": ("warning", "sides below 32 pixels hold little to learn from"),
    "huge": ("warning", "above 25 million pixels: shrink it to save time and memory"),
    "one colour": ("warning", "look at it: it shows nothing"),
    "wrong suffix": ("note", "read by its content all the same"),
    "greyscale": ("note", "its one channel is taken three times"),
    "CMYK": ("note", "converted to RGB without a colour profile"),
    "16 bits": ("note", "its upper 8 bits are taken"),
    "transparent": ("note", "laid on white"),
    "several pictures": ("note", "its first is taken"),
    "turned": ("note", "its EXIF orientation is applied"),
    "in no list": ("note", "not used"),
}


@dataclass(frozen=True)
class Case:
    """One occurrence: the files that it is about, and words that say more."""

    files: tuple[str, ...]
    words: str = ""


@dataclass(frozen=True)
class Finding:
    """All cases of a kind, of one severity."""

    kind: str
    severity: Severity
    cases: tuple[Case, ...]

    @property
    def todo(self) -> str:
        """What to do about it."""
        return KINDS[self.kind][1]

    def plain(self) -> dict[str, Any]:
        """As JSON values, every file named."""
        cases = [{"files": list(case.files), **({"why": case.words} if case.words else {})} for case in self.cases]
        return {"kind": self.kind, "severity": self.severity, "count": len(cases), "what to do": self.todo, "cases": cases}


def found(cases: Iterable[tuple[str, Case]], used: frozenset[str] | None) -> list[Finding]:
    """CASES by kind, the gravest first. What would be an error is a warning where no file of it is USED (None: all are)."""
    table: dict[tuple[str, Severity], list[Case]] = {}
    for kind, case in cases:
        severity = KINDS[kind][0]
        idle = used is not None and case.files and not used & set(case.files)
        table.setdefault((kind, "warning" if idle and severity == "error" else severity), []).append(case)
    order = sorted(table, key=lambda key: (SEVERITIES.index(key[1]), list(KINDS).index(key[0])))
    return [Finding(kind, severity, tuple(table[kind, severity])) for kind, severity in order]

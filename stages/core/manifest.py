"""What a finished stage says of itself: its manifest, written last, and beside it the digest of every output.

The digests have a file of their own, so that to know that a stage is fresh no one has to read thousands of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.files import digest, read_json, sha256, write_json

MANIFEST = "manifest.json"
STARTED = "started.json"
DIGESTS = "digests.json"
STATE = "state.pth"  # what a training goes on from


@dataclass(frozen=True)
class Damage:
    """A file of a stage's folder that is not what was written, and how it differs; None for an output that none can name."""

    file: str | None
    what: str


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete stage, or None."""
    return read_json(folder / MANIFEST)


def begun_with(folder: Path) -> dict[str, Any]:
    """The fingerprint that a stage's folder was made with, wholly or in part; empty where there is none."""
    manifest = read_manifest(folder)
    return manifest["fingerprint"] if manifest else read_json(folder / STARTED) or {}


def write(folder: Path, fingerprint: Mapping[str, Any], outputs: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of OUTPUTS (names in FOLDER, in order) and FACTS, and before it their digests. Returns it."""
    content = {name: sha256(folder / name) for name in outputs}
    write_json(folder / DIGESTS, content)
    sizes = {name: (folder / name).stat().st_size for name in outputs}
    manifest = {
        "fingerprint": fingerprint,
        "digest": _combined(fingerprint, content),
        "outputs": {"count": len(sizes), "files": sizes},
        **facts,
    }
    manifest["seal"] = _seal(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def lost(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The outputs that are not there any more in the size that the manifest states."""
    root = f"{folder}{os.sep}"
    return (name for name, size in manifest["outputs"]["files"].items() if _size(root + name) != size)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def verify(folder: Path, looked_at: Callable[[], object]) -> list[Damage]:
    """Read every output of a finished stage again and compare it with what was written; LOOKED_AT is called after each.

    A manifest of before digests were kept by file tells that some output changed, but not which.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return [Damage(MANIFEST, "cannot be read")] if (folder / MANIFEST).exists() else []
    if "seal" in manifest and manifest["seal"] != _seal(manifest):
        return [Damage(MANIFEST, "was changed")]
    known, fingerprint = read_json(folder / DIGESTS), manifest["fingerprint"]
    trusted = known if isinstance(known, dict) and _combined(fingerprint, known) == manifest["digest"] else {}
    found, content = [], {}
    for name, size in manifest["outputs"]["files"].items():
        content[name], what = _compare(folder / name, size, trusted.get(name))
        found += [Damage(name, what)] if what else []
        looked_at()
    if not trusted:
        if (folder / DIGESTS).exists():
            found.append(Damage(DIGESTS, "was changed"))
        if not any(one.file in content for one in found) and _combined(fingerprint, content) != manifest["digest"]:
            found.append(Damage(None, "some output has other bytes than were written; no digests by file tell which"))
    return found


def _compare(path: Path, size: int, expected: str | None) -> tuple[str | None, str]:
    """The digest of a file, and what is wrong with it in words, if anything is; EXPECTED is None where none is known."""
    now = _size(str(path))
    if now < 0:
        return None, "is not there"
    if now != size:
        return None, f"has {now} bytes, {size} were written"
    value = sha256(path)
    return value, "" if expected in (None, value) else "has other bytes than were written"


def _combined(fingerprint: Mapping[str, Any], content: Mapping[str, str | None]) -> str:
    return digest({"fingerprint": fingerprint, "content": content})


def _seal(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest as it is read, its own seal left out."""
    return digest(json.loads(json.dumps({key: value for key, value in manifest.items() if key != "seal"})))

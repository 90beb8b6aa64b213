"""Where pseudo masks lie, how sure they are and where they come from: what stages that make, choose and learn them agree on."""

from __future__ import annotations

from pathlib import Path

from stages.core.files import read_json

CHOICE = "choice.json"  # in the folder of chosen masks: where each image's comes from
REFINED, SEED, MIXED = "refined", "seed", "mixed"  # that, else the folder of corrections


def mask_path(folder: Path, image_id: str) -> Path:
    """Where the mask of an image lies in the FOLDER of a stage or an import."""
    return folder / "masks" / f"{image_id}.png"


def confidence_path(folder: Path, image_id: str) -> Path:
    """Where the confidence of its pixels lies: 8 bits on the stride-4 grid, 255 = sure."""
    return folder / "confidence" / f"{image_id}.png"


def from_folder(folder: Path, origin: str) -> frozenset[str]:
    """The images whose mask in the FOLDER of chosen ones comes from ORIGIN, or from a folder within it."""
    origins = read_json(folder / CHOICE) or {}
    return frozenset(image_id for image_id, found in origins.items() if found.partition("/")[0] == origin)

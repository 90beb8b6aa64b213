"""Check that the built wheel holds the packages and configurations, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGES = ("bas_cli", "stages", "configs")


def main(folder: Path) -> int:
    """Compare the newest wheel in FOLDER with the tree; print what differs and return the exit code."""
    wheel = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    root = Path(__file__).parent.parent
    files = (path for package in PACKAGES for path in (root / package).rglob("*"))
    wanted = {str(path.relative_to(root)) for path in files if path.suffix in (".py", ".yaml")}
    for name in sorted(held ^ wanted):
        sys.stderr.write(f"{'missing from' if name in wanted else 'unexpected in'} the wheel: {name}\n")
    sys.stdout.write(f"{wheel.name}: {len(held)} files\n")
    return int(held != wanted)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

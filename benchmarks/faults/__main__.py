"""`python -m benchmarks.faults`: strike every stage at every point, run it again, and print how many points were tried.

What goes wrong is told at once on stderr; the table on stdout is Markdown. Exit code 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.faults import STAGES

DISK = "48m"
INSIDE = "--inside"


def main(words: list[str]) -> int:
    """Run what WORDS ask for on a small disk of its own, where one can be mounted."""
    if INSIDE not in words and _can_mount():
        return subprocess.call(["unshare", "--mount", "--map-root-user", sys.executable, "-m", __spec__.parent, INSIDE, *words])
    return _run(_arguments().parse_args(words))


def _can_mount() -> bool:
    """Whether this user may have a mount namespace and a disk in memory there."""
    try:
        command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def _arguments() -> argparse.ArgumentParser:
    from benchmarks.faults.strikes import FAULTS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="only these stages")
    parser.add_argument("--fault", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="only these faults")
    parser.add_argument("--every", type=int, default=1, help="only every so many points of a stage and fault")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser


def _run(asked: argparse.Namespace) -> int:
    from benchmarks.faults.campaign import Campaign, table
    from benchmarks.faults.scene import Scene

    with TemporaryDirectory() as name, _disk(Path(name) / "disk", asked.inside) as disk:
        faults = [fault for fault in asked.fault if asked.inside or fault != "full"]
        campaign = Campaign(Scene(Path(name), disk), faults, asked.every)
        campaign.scene.finish(STAGES)
        for stage in asked.stage:
            campaign.run(stage)
        print("\n".join(table(campaign.tried, asked.stage)))
    gc.unfreeze()  # what stays frozen outlives the interpreter, and triton complains
    return 1 if any(one.wrong.total() for one in campaign.tried.values()) else 0


@contextmanager
def _disk(folder: Path, mount: bool) -> Iterator[Path]:
    """FOLDER, as a small disk in memory where this process may MOUNT one."""
    folder.mkdir()
    if not mount:
        print("no disk can be mounted here: the points of a full one are left out", file=sys.stderr)
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

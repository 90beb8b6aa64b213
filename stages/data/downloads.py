"""Published archives over the network, only where that was asked for: an interrupted download goes on where it stopped."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stages.core import interrupt
from stages.core.errors import StageError
from stages.data.archives import BLOCK, Published, verify

if TYPE_CHECKING:
    from stages.core.stage import Meter, Reporter

PART = ".part"  # behind the name of a file that is not whole yet
PATIENCE = 60.0  # seconds without a byte after which the connection counts as dead
BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
PARTIAL = 206  # the status of an answer that begins where it was asked to
BEYOND = 416  # and of one to a question for bytes behind the end


def fetch(published: Published, folder: Path, reporter: Reporter) -> Path:
    """PUBLISHED in FOLDER, whole and checked by its md5. Raises StageError where the server does not give it."""
    assert published.url is not None
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / published.file
    part = target.with_name(target.name + PART)
    try:
        _receive(published, part, reporter)
    except BROKEN as error:
        reason = getattr(error, "reason", None) or error
        raise _failed(published, folder, str(reason) or type(error).__name__) from error
    if part.stat().st_size < published.size:
        raise _failed(published, folder, f"it ended after {part.stat().st_size:,} of {published.size:,} bytes")
    try:
        verify(part, published, reporter)
    except StageError as fault:
        part.unlink()
        raise StageError(f"The download of {published.file} is not what was published", fault.why, "Try again") from fault
    return part.replace(target)


def _failed(published: Published, folder: Path, why: str) -> StageError:
    todo = f"Ask again to go on from there, or put the file into {folder} yourself"
    return StageError(f"Cannot download {published.url}", why, todo)


def _receive(published: Published, part: Path, reporter: Reporter) -> None:
    """Append what is missing to PART; a server that cannot begin in the middle begins anew."""
    assert published.url is not None
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == BEYOND:
            return  # nothing is missing: the check tells whether it is the right file
        raise
    with response, part.open("ab") as out:
        if response.status != PARTIAL:
            begun = 0
            out.truncate(0)
        with reporter.track(f"fetching {published.file} (MB)", -(-published.size // BLOCK), begun // BLOCK) as meter:
            _pour(response, out, meter)


def _pour(source: http.client.HTTPResponse, out: IO[bytes], meter: Meter) -> None:
    while block := source.read(BLOCK):
        interrupt.check()
        out.write(block)
        meter.advance()

"""Archives from elsewhere: nothing leaves the folder, nothing is half there, and downloads go on where they stopped."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import pytest
from conftest import Counter

from stages.core.errors import StageError
from stages.data import archives, downloads
from stages.data.archives import Published

HOSTILE = ("../outside", "/etc/outside", "a/../../outside", "..\\outside", "C:/outside")


def everything(name: PurePosixPath) -> PurePosixPath:
    return name


def tar_of(path: Path, *names: str, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as made:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            made.addfile(info, io.BytesIO(name.encode()))
    return path


def zip_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in names:
            made.writestr(name, name)
    return path


@pytest.mark.parametrize("make", [tar_of, zip_of], ids=["tar", "zip"])
def test_files_come_out_whole_and_a_second_time_none_is_written(make: object, tmp_path: Path) -> None:
    assert callable(make)
    path = make(tmp_path / "archive", "a/one.txt", "a/b/two.txt", "three.txt")
    assert archives.unpack(path, tmp_path / "out", everything, Counter()) == 3
    found = {str(p.relative_to(tmp_path / "out")): p.read_text() for p in (tmp_path / "out").rglob("*.txt")}
    assert found == {name: name for name in ("a/one.txt", "a/b/two.txt", "three.txt")}
    (tmp_path / "out/three.txt").write_text("cut")  # another size: not what the archive holds
    assert archives.unpack(path, tmp_path / "out", everything, Counter()) == 1
    assert archives.unpack(path, tmp_path / "out", everything, Counter()) == 0


@pytest.mark.parametrize("make", [tar_of, zip_of], ids=["tar", "zip"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_written(make: object, name: str, tmp_path: Path) -> None:
    assert callable(make)
    path = make(tmp_path / "archive", "good.txt", name)
    with pytest.raises(StageError, match="names a file outside its folder"):
        archives.unpack(path, tmp_path / "deep/out", everything, Counter())
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"archive"}


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    """A link out of the folder and a file behind it: neither is followed."""
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as made:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret")
            made.addfile(info)
        info = tarfile.TarInfo("link/file.txt")
        info.size = 2
        made.addfile(info, io.BytesIO(b"in"))
    (tmp_path / "secret").mkdir()
    assert archives.unpack(path, tmp_path / "out", everything, Counter()) == 1
    assert (tmp_path / "out/link/file.txt").read_text() == "in" and not list((tmp_path / "secret").iterdir())
    linked = zipfile.ZipInfo("link")
    linked.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as made:
        made.writestr(linked, "/etc/passwd")
    assert archives.unpack(tmp_path / "archive.zip", tmp_path / "out2", everything, Counter()) == 0


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_archive_is_told(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with tarfile.open(path, mode) as made:
        info = tarfile.TarInfo("noise")
        info.size = 100_000
        made.addfile(info, io.BytesIO(hashlib.sha256(b"0").digest() * 3125))
        made.addfile(info, io.BytesIO(hashlib.sha256(b"1").digest() * 3125))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(StageError, match="Cannot read archive"):
        archives.unpack(path, tmp_path / "out", everything, Counter())


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>Not found</html>")
    with pytest.raises(StageError, match="Cannot read archive"):
        archives.unpack(tmp_path / "page.zip", tmp_path / "out", everything, Counter())


def test_room_is_asked_for_in_the_folder_that_will_be(tmp_path: Path) -> None:
    archives.require_space(tmp_path / "not/there/yet", 1)
    with pytest.raises(StageError, match=r"1,152,921,504,606,846,976 bytes are needed and [0-9,]+ are free"):
        archives.require_space(tmp_path / "not/there/yet", 1 << 60)


def test_a_checksum_tells_the_published_archive_from_another(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(b"abc")
    archives.verify(path, Published("data.zip", None, "900150983cd24fb0d6963f7d28e17f72", 3), Counter())  # RFC 1321's own
    with pytest.raises(StageError, match="its md5 is 900150983cd24fb0d6963f7d28e17f72, not 0"):
        archives.verify(path, Published("data.zip", None, "0" * 32, 3), Counter())


CONTENT = bytes(range(256)) * 12_000  # three blocks


class _Server(BaseHTTPRequestHandler):
    """Gives CONTENT from where it is asked to; `breaks` ends the next answers early, `ranges` says whether it can do that."""

    breaks, ranges, asked = 0, True, []

    def do_GET(self) -> None:
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.ranges else 0
        type(self).asked.append(self.headers.get("Range"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the test's own streams."""


@contextmanager
def serving(ranges: bool = True, breaks: int = 0) -> Iterator[Published]:
    """CONTENT published by a server on this machine."""
    _Server.ranges, _Server.breaks, _Server.asked = ranges, breaks, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/data.bin"
        yield Published("data.bin", url, hashlib.md5(CONTENT).hexdigest(), len(CONTENT))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_download_is_whole_and_checked(tmp_path: Path) -> None:
    with serving() as published:
        path = downloads.fetch(published, tmp_path / "new", Counter())
    assert path == tmp_path / "new/data.bin" and path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped_or_from_the_beginning(ranges: bool, tmp_path: Path) -> None:
    with serving(ranges, breaks=1) as published:
        with pytest.raises(StageError, match="Ask again to go on from there"):
            downloads.fetch(published, tmp_path, Counter())
        begun = (tmp_path / "data.bin.part").stat().st_size
        assert 0 < begun < len(CONTENT) and not (tmp_path / "data.bin").exists()
        assert downloads.fetch(published, tmp_path, Counter()).read_bytes() == CONTENT
    assert _Server.asked == [None, f"bytes={begun}-"]


def test_a_stopped_download_goes_on(tmp_path: Path) -> None:
    with serving() as published:
        with pytest.raises(KeyboardInterrupt):
            downloads.fetch(published, tmp_path, Counter(stop_after=2))
        assert downloads.fetch(published, tmp_path, Counter()).read_bytes() == CONTENT


def test_all_bytes_there_but_not_renamed_yet_are_only_checked(tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    with serving() as published:
        assert downloads.fetch(published, tmp_path, Counter()).read_bytes() == CONTENT


def test_what_was_not_published_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    with serving() as published, pytest.raises(StageError, match="is not what was published: its md5 is"):
        downloads.fetch(published, tmp_path, Counter())
    assert not list(tmp_path.iterdir())


def test_a_server_out_of_reach_is_told_in_one_line(tmp_path: Path) -> None:
    published = Published("data.bin", "http://127.0.0.1:9/data.bin", "0" * 32, 10)
    with pytest.raises(StageError, match=r"Cannot download http://127.0.0.1:9/data.bin: .*efused"):
        downloads.fetch(published, tmp_path, Counter())

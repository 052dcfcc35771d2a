import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from autorank.data.logs.download import DownloadError, extract, fetch

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(BaseHTTPRequestHandler):
    """/whole, /cut (breaks off half way), /ranges (breaks off, resumes), /missing, /busy, /slow."""

    requests: list[tuple[str, str | None]] = []
    cuts = 1

    def do_GET(self):
        span = self.headers.get("Range")
        type(self).requests.append((self.path, span))
        if self.path in ("/missing", "/busy"):
            self.send_error(404 if self.path == "/missing" else 503)
            return
        if self.path == "/slow":
            release.wait(20)
            return
        first = int(span.removeprefix("bytes=").rstrip("-")) if span and "range" in self.path else 0
        if first >= len(CONTENT):
            self.send_error(416)
            return
        rest = CONTENT[first:]
        self.send_response(206 if first else 200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.path in ("/cut", "/ranges") and type(self).cuts > 0:
            type(self).cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


release = threading.Event()


@pytest.fixture
def server():
    Server.requests, Server.cuts = [], 1
    release.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        release.set()
        running.shutdown()
        thread.join()


def get(urls, path, **checks):
    return fetch(urls, path, progress=lambda text: None, **(checks or {"sha256": SHA256}))


@pytest.mark.parametrize(
    "checks", [{"sha256": SHA256}, {"md5": MD5}, {"sha256": SHA256, "md5": MD5}]
)
def test_fetches_once(server, tmp_path, checks):
    path = tmp_path / "deep" / "file"
    assert get([f"{server}/whole"], path, **checks) == path
    assert path.read_bytes() == CONTENT
    assert get([f"{server}/whole"], path, **checks) == path
    assert len(Server.requests) == 1
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_broken_download_is_resumed(server, tmp_path):
    get([f"{server}/ranges"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Server.requests == [("/ranges", None), ("/ranges", f"bytes={len(CONTENT) // 2}-")]


def test_an_earlier_part_is_resumed(server, tmp_path):
    Server.cuts = 0
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    get([f"{server}/ranges"], tmp_path / "file")
    assert Server.requests == [("/ranges", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_whole_part_is_used(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    get([f"{server}/ranges"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    get([f"{server}/cut"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_stale_part_is_thrown_away(server, tmp_path):
    Server.cuts = 0
    (tmp_path / "file.part").write_bytes(b"stale" * 100)
    get([f"{server}/ranges"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [span for _, span in Server.requests] == ["bytes=500-", None]


def test_a_length_is_not_needed(server, tmp_path):
    get([f"{server}/endless"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_next_address_is_tried(server, tmp_path):
    get([f"{server}/missing", f"{server}/whole"], tmp_path / "file")
    assert [path for path, _ in Server.requests] == ["/missing", "/whole"]


def test_a_wrong_file_is_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    get([f"{server}/whole"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "page, tries, message",
    [("missing", 1, "404"), ("busy", 3, "503"), ("whole", 3, f"sha256 is {SHA256}, expected 00")],
)
def test_failure_says_what_to_do(server, tmp_path, page, tries, message):
    path, url = tmp_path / "file", f"{server}/{page}"
    with pytest.raises(DownloadError) as failure:
        get([url], path, sha256="00" if page == "whole" else SHA256)
    assert message in str(failure.value)
    assert f"by hand from {url} and put it at {path}" in str(failure.value)
    assert len(Server.requests) == tries
    assert not path.exists()


def test_nobody_there(tmp_path):
    with pytest.raises(DownloadError, match="could not download file"):
        get(["http://127.0.0.1:1/file"], tmp_path / "file")


def test_silence_ends_in_an_error(server, tmp_path):
    with pytest.raises(DownloadError, match="timed out"):
        fetch([f"{server}/slow"], tmp_path / "file", sha256=SHA256, timeout=0.1)


def test_a_checksum_is_needed(tmp_path):
    with pytest.raises(ValueError, match="give sha256 or md5"):
        fetch(["http://127.0.0.1:1/file"], tmp_path / "file")


def make_zip(path, members, mode=0o100644):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, content)


def make_tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_extract(tmp_path, make):
    make(tmp_path / "a", [("data/x.csv", b"1,2"), ("data/deep/y", b""), ("z", b"zz")])
    extract(tmp_path / "a", tmp_path / "out")
    found = {
        str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert found == {"data/x.csv", "data/deep/y", "z"}
    assert (tmp_path / "out/data/x.csv").read_bytes() == b"1,2"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_a_member_outside_is_refused_before_anything_is_written(tmp_path, make, name):
    make(tmp_path / "a", [("fine", b"1"), (name, b"2")])
    with pytest.raises(ValueError, match="wants to write to"):
        extract(tmp_path / "a", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    make_tar(tmp_path / "a", [("link", b"")], kind)
    with pytest.raises(ValueError, match="links or devices .link."):
        extract(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip_are_refused(tmp_path):
    make_zip(tmp_path / "a", [("link", b"/etc/passwd")], 0o120777)
    with pytest.raises(ValueError, match="links or devices .link."):
        extract(tmp_path / "a", tmp_path / "out")


def test_a_name_twice_is_refused(tmp_path):
    make_tar(tmp_path / "a", [("x", b"1"), ("./x", b"2")])
    with pytest.raises(ValueError, match="twice"):
        extract(tmp_path / "a", tmp_path / "out")


def test_no_archive(tmp_path):
    (tmp_path / "a").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        extract(tmp_path / "a", tmp_path / "out")

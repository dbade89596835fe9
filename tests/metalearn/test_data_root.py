"""Downloads from a real server on this machine: whole, broken off, wrong, missing."""

import http.server
import threading
import zipfile

import numpy as np
import pytest

from quadriga.metalearn import data_root, omniglot
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError

BYTES = np.random.default_rng(0).bytes(3 << 20)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; its first `halves` answers send only half of what they promise."""

    files: dict[str, bytes]
    halves: int = 0
    ranges: bool = True
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        content = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.halves:
            self.server.halves -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), Handler)
    made.files, made.asked = {"/a.zip": BYTES}, []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def address(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def right(tmp_path):
    path = tmp_path / "right"
    path.write_bytes(BYTES)
    return data_root.md5(path)


def test_a_file_is_fetched_once(server, address, right, tmp_path):
    target = tmp_path / "data" / "a.zip"
    for _ in range(2):
        data_root.fetch(f"{address}/a.zip", target, right)
    assert target.read_bytes() == BYTES
    assert server.asked == [""]
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(server, address, right, tmp_path, ranges):
    server.halves, server.ranges = 2, ranges
    data_root.fetch(f"{address}/a.zip", tmp_path / "a.zip", right)
    assert (tmp_path / "a.zip").read_bytes() == BYTES
    half, quarter = len(BYTES) // 2, len(BYTES) // 4
    assert server.asked == ["", f"bytes={half}-", f"bytes={half + quarter if ranges else half}-"]


def test_a_download_that_keeps_breaking_off_is_one_clear_line(server, address, right, tmp_path):
    server.halves = 99
    with pytest.raises(UserError, match=r"cannot download .*a\.zip: the connection broke off 3 times.*of 3,145,728"):
        data_root.fetch(f"{address}/a.zip", tmp_path / "data" / "a.zip", right)
    assert not list((tmp_path / "data").iterdir())


def test_other_bytes_than_were_published_are_not_kept(server, address, tmp_path):
    with pytest.raises(UserError, match=r"what came from http.*a\.zip is corrupt: its MD5 is .*, expected 000"):
        data_root.fetch(f"{address}/a.zip", tmp_path / "data" / "a.zip", "0" * 32)
    assert not list((tmp_path / "data").iterdir())


def test_a_file_that_is_gone_is_one_clear_line(server, address, right, tmp_path):
    with pytest.raises(UserError, match=r"cannot download http.*b\.zip to .*: .*404"):
        data_root.fetch(f"{address}/b.zip", tmp_path / "b.zip", right)


def test_no_server_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:9/a\.zip"):
        data_root.fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no zip"), "images_background.zip is corrupt"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "found 0 characters"),
    ],
)
def test_the_command_refuses_archives_that_hold_something_else(
    server, address, tmp_path, monkeypatch, capsys, make, message
):
    """With the checksum of what was sent: then the archive itself has to be judged."""
    make(tmp_path / "sent.zip")
    for name in omniglot.SETS:
        server.files[f"/{name}.zip"] = (tmp_path / "sent.zip").read_bytes()
    monkeypatch.setattr(omniglot, "URL", address)
    monkeypatch.setattr(omniglot, "MD5", dict.fromkeys(omniglot.SETS, data_root.md5(tmp_path / "sent.zip")))
    assert run(["meta", "download", "omniglot", "--data-root", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "data" / "omniglot" / omniglot.CACHE).exists()

"""Fetching weights from a real HTTP server on this machine that resumes, dies, lies and refuses."""
from __future__ import annotations

import errno
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from synthmorph_torch import weights
from synthmorph_torch.errors import WeightsError
from synthmorph_torch.weights import download, store

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
ENTRY = weights.Entry("synthmorph.affine.2.h5", "affine", "", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.content``; the other attributes of the server make it misbehave."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        server.requests.append(self.headers.get("Range"))
        if server.status:
            self.send_error(server.status)
            return
        start = int(wanted[1]) if wanted and server.ranges else 0
        if start >= len(server.content) > 0:
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = server.lie_about_start if server.lie_about_start is not None else start
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: server.dies_after])
        if server.dies_after is not None or not server.announce:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.requests = CONTENT, []
    server.status, server.ranges, server.announce = None, True, True
    server.dies_after = server.lie_about_start = None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def mirror(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/synthmorph/")
    monkeypatch.setenv("no_proxy", "*")
    for module in (store, download):
        monkeypatch.setattr(module, "entry_named", lambda name: ENTRY)
    monkeypatch.setattr(store, "catalogue", lambda: (ENTRY,))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "models" / ENTRY.name


@pytest.fixture
def part(target):
    """Path of the incomplete download."""
    return target.with_name(target.name + ".part")


def fails(match: str) -> str:
    with pytest.raises(WeightsError, match=match) as error:
        weights.fetch("affine")
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_fetch_verifies_and_reports_progress(server, target, part):
    seen = []
    assert weights.fetch("affine", lambda done, total: seen.append((done, total))) == target
    assert target.read_bytes() == CONTENT and not part.exists()
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    weights.fetch("affine")
    assert server.requests == [None]  # not asked for again


def test_resumes_where_the_connection_died(server, target, part):
    server.dies_after = 1_000_000
    fails(r"stopped after 1.00 of 3.00 MB .*start it again")
    assert not target.exists() and part.read_bytes() == CONTENT[:1_000_000]
    fails("start it again, and it continues there")
    assert part.stat().st_size == 2_000_000
    server.dies_after, seen = None, []
    weights.fetch("affine", lambda done, total: seen.append(done))
    assert target.read_bytes() == CONTENT and not part.exists()
    assert server.requests == [None, "bytes=1000000-", "bytes=2000000-"] and seen[0] > 2_000_000


def test_connection_that_dies_unannounced(server, target, part):
    server.announce, server.dies_after = False, 500_000
    fails("start it again, and it continues there")
    server.dies_after = None
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_server_that_ignores_ranges(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1_000_000])
    server.ranges = False
    assert weights.fetch("affine").read_bytes() == CONTENT
    assert server.requests == ["bytes=1000000-"]


def test_one_wrong_byte(server, target, part):
    server.content = CONTENT[:1_500_000] + bytes([CONTENT[1_500_000] ^ 1]) + CONTENT[1_500_001:]
    fails("wrong content .* deleted")
    assert not target.exists() and not part.exists()
    server.content = CONTENT
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_wrong_byte_in_the_resumed_part(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(b"x" + CONTENT[1:1_000_000])
    fails("wrong content")
    assert not target.exists() and not part.exists()


def test_complete_part_needs_no_server(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert weights.fetch("affine") == target and server.requests == []


def test_part_that_is_too_long_is_dropped(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_server_without_that_range(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:2_000_000])
    server.content = CONTENT[:1_000_000]  # an incomplete copy on the server
    fails("offers 1000000 bytes")
    server.content = CONTENT
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_server_that_answers_with_another_range(server, target, part):
    target.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1_000_000])
    server.lie_about_start = 2_000_000
    fails("wrong part")
    server.lie_about_start = None
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_login_page_instead_of_the_file(server, target, part):
    server.content = b"<html>please log in</html>"
    fails("offers 26 bytes .* login page")
    server.announce = False
    fails("stopped after|wrong content")
    assert not target.exists()


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_server_that_refuses(server, target, status):
    server.status = status
    assert "-w" in fails(f"HTTP {status}")


def test_no_server_at_all(monkeypatch, target):
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS_URL", "http://127.0.0.1:9/")
    fails("stopped after 0.00 of 3.00 MB .*refused")


def test_server_that_goes_silent(monkeypatch):
    import socket

    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and says nothing
        monkeypatch.setenv("SYNTHMORPH_WEIGHTS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        fails("timed out")


def test_full_disk_is_noticed_before(server, monkeypatch):
    monkeypatch.setattr(download, "free_bytes", lambda folder: 1_000_000)
    fails("too full .* free 3.00 MB")
    assert server.requests == []


def test_full_disk_is_noticed_while_writing(server, target, part, monkeypatch):
    def copy(entry, response, file, start, progress):
        file.write(response.read(1_000_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", copy)
        fails("too full .* free 2.00 MB")
    assert part.stat().st_size == 1_000_000  # kept for later
    assert weights.fetch("affine").read_bytes() == CONTENT


def test_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path / "file"))
    fails("cannot hold")


def test_list_verify_and_clear(server, target, part):
    def state():
        return weights.list_weights()[0].state

    assert state() == "absent" and weights.verify("affine").state == "absent"
    server.dies_after = 1_000_000
    fails("again")
    assert state() == "incomplete" and weights.list_weights()[0].bytes == 1_000_000
    server.dies_after = None
    weights.fetch("affine")
    assert state() == "present"
    seen = []
    assert weights.verify("affine", lambda done, total: seen.append(done)).state == "verified"
    assert seen[-1] == len(CONTENT)
    target.write_bytes(bytes(len(CONTENT)))
    assert state() == "present" and weights.verify("affine").state == "corrupt"
    target.write_bytes(b"short")
    assert state() == "corrupt"
    assert weights.fetch("affine").read_bytes() == CONTENT  # a corrupt file is fetched again
    keep = target.parent / "own.h5"
    keep.write_text("not ours")
    assert weights.clear("partial") == 0 and weights.clear() == len(CONTENT)
    assert state() == "absent" and keep.exists()
    with pytest.raises(WeightsError, match="cannot be cleared"):
        weights.clear("everything")


def test_unknown_names_are_refused(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="'brains' is not in the catalogue.*affine"):
        weights.fetch("brains")

"""Inputs that are URLs, fetched from a real server on the loopback."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.server
import logging
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc import InputFile, WorkflowEngine
from asyncflow_hpc.backends.local import LocalExecutionBackend
from asyncflow_hpc.backends.staging import Plan, Transfer, downloads
from asyncflow_hpc.backends.staging.downloads import Downloads, remote
from asyncflow_hpc.errors import ConfigurationError, StagingConflictError, StagingError, TaskFailedError
from asyncflow_hpc.states import FailureCause

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers with what the path asks for, and counts."""

    daemon_threads = True

    def __init__(self, scheme: str = "http") -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.begun, self.closing = threading.Event(), threading.Event()
        self.base = f"{scheme}://127.0.0.1:{self.server_address[1]}"


class Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        tries = self.server.asked.count(self.path)
        self.server.asked.append(self.path)
        self.server.authorizations.append(self.headers["Authorization"])
        route, _, rest = self.path[1:].partition("/")
        if "missing" in self.path:
            self.send_error(404)
        elif route == "to":
            self._answer(302, {"Location": rest}, b"moved")
        elif route == "code":
            self._answer(int(rest.partition("?")[0]), {}, CONTENT)
        elif route == "gzip":
            self._answer(200, {"Content-Encoding": "gzip"}, gzip.compress(CONTENT, mtime=0))
        elif route == "chunked":
            self._answer(200, {"Transfer-Encoding": "chunked"}, b"5\r\nshort\r\n")
        elif route == "chunks":
            body = b"".join(b"%x\r\n%b\r\n" % (size, CONTENT[:size]) for size in (5, 70_000, len(CONTENT)))
            self._answer(200, {"Transfer-Encoding": "chunked"}, body + b"0\r\n\r\n")
        elif route == "drip":
            self._drip(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        elif route == "drip-head":
            self._drip(b"HTTP/1.0 200 OK\r\nX-Long: ")
        elif "busy" in self.path and tries < 2:
            self.send_error(503)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            torn = ("torn" in self.path and tries < 1) or "always" in self.path
            self.wfile.write(CONTENT[:1000] if torn else CONTENT)

    def _answer(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in headers and code >= 200:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The client may leave before.
        with suppress(OSError):
            self.wfile.write(body)

    def _drip(self, beginning: bytes) -> None:
        self.wfile.write(beginning)
        self.server.begun.set()
        with suppress(OSError):
            while not self.server.closing.wait(0.05):
                self.wfile.write(b"x")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield from serving(server)


def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Server("https") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield from serving(server)


@pytest.fixture
async def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Downloads]:
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    made = Downloads(str(tmp_path))
    yield made
    await made.close()


def plan(url: str, **more: Any) -> Plan:
    return Plan((Transfer((url,), "in", "link", url, **more),))


async def path_of(fetch: Downloads, url: str, **more: Any) -> Path:
    return Path((await fetch.localized(plan(url, **more))).transfers[0].places[0])


async def test_one_download_for_many_tasks(fetch: Downloads, server: Server) -> None:
    url = f"{server.base}/some%20data/a%20b.dat?x=1"
    paths = await asyncio.gather(*(path_of(fetch, url) for _ in range(20)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == CONTENT and paths[0].name == "a b.dat"
    assert len(server.asked) == 1
    assert [path.name for path in paths[0].parent.iterdir()] == ["a b.dat"]


async def test_same_name_from_two_places(fetch: Downloads, server: Server) -> None:
    first, second = [await path_of(fetch, f"{server.base}/{place}/same.dat") for place in "ab"]
    assert first != second


@pytest.mark.parametrize("kind", ["busy", "torn"])
async def test_passing_failures(fetch: Downloads, server: Server, kind: str) -> None:
    path = await path_of(fetch, f"{server.base}/{kind}", sha256=DIGEST)
    assert path.read_bytes() == CONTENT and len(server.asked) == (3 if kind == "busy" else 2)


@pytest.mark.parametrize(("kind", "times"), [("missing", 1), ("always", 4)])
async def test_lasting_failures(fetch: Downloads, server: Server, tmp_path: Path, kind: str, times: int) -> None:
    with pytest.raises(StagingError, match=f"{server.base}/{kind}"):
        await path_of(fetch, f"{server.base}/{kind}")
    assert len(server.asked) == times
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_digest(fetch: Downloads, server: Server, tmp_path: Path) -> None:
    url = f"{server.base}/data"
    with pytest.raises(StagingError, match=DIGEST):
        await path_of(fetch, url, sha256="0" * 64)
    with pytest.raises(StagingConflictError):
        await path_of(fetch, url, sha256=DIGEST)
    assert await path_of(fetch, f"{url}2", sha256=DIGEST)
    local = tmp_path / "here.dat"
    local.write_bytes(CONTENT)
    assert await path_of(fetch, local.as_uri(), sha256=DIGEST) == local
    with pytest.raises(StagingError, match="not 1111"):
        await path_of(fetch, local.as_uri(), sha256="1" * 64)


async def test_nobody_there(fetch: Downloads) -> None:
    with pytest.raises(StagingError, match="tried 4 times"):
        await path_of(fetch, "http://127.0.0.1:9/x")


async def test_other_schemes(fetch: Downloads) -> None:
    with pytest.raises(StagingError, match=r"asyncflow-hpc\[remote\]|nosuch"):
        await path_of(fetch, "nosuch://host/x")


async def test_one_that_gives_up_takes_it_from_nobody(fetch: Downloads, server: Server) -> None:
    url = f"{server.base}/data"
    first, second = (asyncio.ensure_future(path_of(fetch, url)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).read_bytes() == CONTENT and len(server.asked) == 1


def test_remote() -> None:
    assert remote(plan("https://x/y")) and remote(plan("file:///x"))
    assert not remote(plan("/a:/b")) and not remote(Plan())


async def test_bytes_as_they_are_served(fetch: Downloads, server: Server) -> None:
    path = await path_of(
        fetch, f"{server.base}/gzip/x.gz", sha256=hashlib.sha256(gzip.compress(CONTENT, mtime=0)).hexdigest()
    )
    assert gzip.decompress(path.read_bytes()) == CONTENT


@pytest.mark.parametrize("code", [201, 202, 203, 204, 205, 206, 300, 304, 306, 400, 401, 403, 410, 501])
async def test_no_other_code_is_success(fetch: Downloads, server: Server, code: int) -> None:
    with pytest.raises(StagingError, match=str(code)):
        await path_of(fetch, f"{server.base}/code/{code}")
    assert len(server.asked) == 1


async def test_a_chunked_body(fetch: Downloads, server: Server) -> None:
    path = await path_of(fetch, f"{server.base}/chunks/x")
    assert path.read_bytes() == CONTENT[:5] + CONTENT[:70_000] + CONTENT


async def test_a_chunked_body_that_breaks_off(fetch: Downloads, server: Server) -> None:
    with pytest.raises(StagingError, match="tried 4 times"):
        await path_of(fetch, f"{server.base}/chunked/x")


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
async def test_https_falls_to_nothing_else(fetch: Downloads, secure: Server, server: Server, target: str) -> None:
    plain = f"{server.base}/data" if target.startswith("http") else target
    for url in (f"{secure.base}/to/{plain}", f"{secure.base}/to/{secure.base}/to/{plain}"):
        with pytest.raises(StagingError, match="redirected from https"):
            await path_of(fetch, url)
    assert server.asked == []
    # The other way is fine, and so are detours.
    path = await path_of(fetch, f"{server.base}/to/{secure.base}/to/{secure.base}/to//data")
    assert path.read_bytes() == CONTENT


async def test_redirections(fetch: Downloads, server: Server) -> None:
    assert (await path_of(fetch, f"{server.base}/to//data")).read_bytes() == CONTENT
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(StagingError, match="redirected"):
            await path_of(fetch, f"{server.base}/to/{target}")
    asked = len(server.asked)
    with pytest.raises(StagingError, match="redirections"):
        await path_of(fetch, f"{server.base}/to/?round=and-round")
    assert len(server.asked) - asked == 11


async def test_a_password_goes_to_its_own_server_only(fetch: Downloads, server: Server) -> None:
    with Server() as other:
        for _ in serving(other):
            base = server.base.replace("://", "://user:word@")
            await path_of(fetch, f"{base}/to/{other.base}/data")
            await path_of(fetch, f"{base}/to/{server.base}/data")
            await path_of(fetch, f"{base}/to//data2")
    assert other.authorizations == [None]
    assert None not in server.authorizations and len(server.authorizations) == 5


async def test_secrets_are_masked(fetch: Downloads, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    base = server.base.replace("://", "://user:SECRET@")
    nobody = "http://user:SECRET@127.0.0.1:9/x?token=SECRET"
    urls = [f"{base}/{kind}?token=SECRET&SECRET" for kind in ("busy", "missing", "always", "code/206", "to/ftp://x")]
    for url in (*urls, nobody, f"{server.base}/to/{nobody}", "nosuch://SECRET:SECRET@host/x?SECRET"):
        try:
            path = await path_of(fetch, url)
        except StagingError as error:
            logging.getLogger("tests").error("failed", exc_info=error)
        else:
            assert "SECRET" not in str(path)
    assert "127.0.0.1" in caplog.text and "SECRET" not in caplog.text


async def test_limits(fetch: Downloads, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASYNCFLOW_DOWNLOAD_SIZE", "1 MB")
    assert await path_of(fetch, f"{server.base}/data")
    monkeypatch.setenv("ASYNCFLOW_DOWNLOAD_SIZE", "500KB")
    with pytest.raises(StagingError, match="ASYNCFLOW_DOWNLOAD_SIZE"):
        await path_of(fetch, f"{server.base}/data2")
    assert len(server.asked) == 2 and not list(tmp_path.rglob("data2")) and not list(tmp_path.rglob("*.part"))
    monkeypatch.setenv("ASYNCFLOW_DOWNLOAD_TIME", "1")
    for kind in ("drip", "drip-head"):
        with pytest.raises(StagingError, match="within 1 s; ASYNCFLOW_DOWNLOAD_TIME"):
            await path_of(fetch, f"{server.base}/{kind}/x")
    for wrong in ("soon", "0"):
        monkeypatch.setenv("ASYNCFLOW_DOWNLOAD_TIME", wrong)
        with pytest.raises(ConfigurationError, match="ASYNCFLOW_DOWNLOAD_TIME"):
            await path_of(fetch, f"{server.base}/data3")


@pytest.mark.parametrize("kind", ["drip", "drip-head"])
async def test_a_dripping_server_holds_up_nothing(server: Server, tmp_path: Path, kind: str) -> None:
    """Neither a cancel, nor other tasks, nor the shutdown, nor the next one who wants the file."""
    async with WorkflowEngine.create(work_dir=tmp_path) as flow:

        @flow.executable_task
        async def show(*_: Any) -> str:
            return "cat x"

        dripping = [show(InputFile(f"{server.base}/{kind}/{number}/x")) for number in range(3)]
        await asyncio.to_thread(server.begun.wait)
        (tmp_path / "x").write_text("here")
        assert await show(InputFile(tmp_path / "x")) == "here"
        dripping[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await dripping[0]
    assert all(future.done() for future in dripping)


_LEAVES = """
import asyncio, sys
from asyncflow_hpc import InputFile, WorkflowEngine

async def main():
    async with WorkflowEngine.create(work_dir=sys.argv[1]) as flow:
        @flow.executable_task
        async def show(*_):
            return "cat x"

        show(InputFile(sys.argv[2]))
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["drip", "drip-head"])
async def test_a_dripping_server_does_not_hold_up_the_end_of_the_process(
    server: Server, tmp_path: Path, kind: str
) -> None:
    words = [sys.executable, "-c", _LEAVES, str(tmp_path), f"{server.base}/{kind}/x"]
    driver = await asyncio.create_subprocess_exec(*words, stdin=subprocess.PIPE)
    await asyncio.to_thread(server.begun.wait)
    await driver.communicate(b"\n")
    assert driver.returncode == 0


async def test_no_secret_is_left_in_a_session(server: Server, tmp_path: Path) -> None:
    base = server.base.replace("://", "://user:SECRET@")
    async with WorkflowEngine.create(LocalExecutionBackend(scripted=True), work_dir=tmp_path) as flow:

        @flow.executable_task
        async def show(*_: Any) -> str:
            return "wc -c <data"

        assert int(await show(InputFile(f"{base}/data?token=SECRET"))) == len(CONTENT)
        with pytest.raises(TaskFailedError) as caught:
            await show(InputFile(f"{base}/missing?token=SECRET"))
    assert caught.value.cause is FailureCause.STAGING and "SECRET" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "run.sh", "data"} <= {path.name for path in left}
    assert not [path for path in left if b"SECRET" in path.read_bytes() or "SECRET" in path.name]

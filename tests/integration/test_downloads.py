"""Inputs that are URLs, fetched from a real server on the loopback."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncflow_hpc.backends.staging import Plan, Transfer, downloads
from asyncflow_hpc.backends.staging.downloads import Downloads, remote
from asyncflow_hpc.errors import StagingConflictError, StagingError

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers with what the path asks for, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.base = f"http://127.0.0.1:{self.server_address[1]}"


class Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        tries = self.server.asked.count(self.path)
        self.server.asked.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
        elif "busy" in self.path and tries < 2:
            self.send_error(503)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            torn = ("torn" in self.path and tries < 1) or "always" in self.path
            self.wfile.write(CONTENT[:1000] if torn else CONTENT)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
async def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Downloads]:
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    with ThreadPoolExecutor(4) as threads:
        made = Downloads(str(tmp_path), threads)
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

"""Inputs that are URLs: fetched by the driver when a task needs them, once for all tasks of a session.

By the driver, since the nodes of many machines reach no network.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import StagingConflictError, StagingError

from .plan import Plan, Transfer

__all__ = ["Downloads", "remote"]

log = logging.getLogger(__name__)

# Seconds to wait for a connection, and for the next bytes of an answer.
_CONNECT, _READ = 15, 60

_TRIES, _PAUSE = 4, 1.0
_CHUNK = 1 << 20

# Answers that may be better another time; RFC 9110 and RFC 6585.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


def remote(plan: Plan) -> bool:
    """Tell whether something of a plan must be fetched first."""
    return any("://" in place for transfer in plan.transfers for place in transfer.places[:1])


class Downloads:
    """What one session has fetched.

    Args:
        session: its directory, which is there.
        threads: in which it reads and writes.
    """

    def __init__(self, session: str, threads: Executor) -> None:
        self._threads = threads
        self._directory = f"{session}/{BOOKKEEPING}/downloads"
        self._fetching: dict[str, asyncio.Future[str]] = {}
        self._digests: dict[str, str] = {}
        self._checked: set[str] = set()
        self._stopped = threading.Event()

    async def localized(self, plan: Plan) -> Plan:
        """Fetch what a plan needs.

        Returns:
            The plan with paths in the place of URLs.

        Raises:
            StagingError: something cannot be fetched, or is not what it should be.
        """
        transfers = [await self._localized(transfer) for transfer in plan.transfers]
        return replace(plan, transfers=tuple(transfers))

    async def _localized(self, transfer: Transfer) -> Transfer:
        url = transfer.places[0] if transfer.places else ""
        if "://" not in url:
            return transfer
        parts = urlsplit(url)
        if parts.scheme == "file":
            path = unquote(parts.path)
            if transfer.sha256 is not None:
                await self._in_thread(_check_file, path, url, transfer.sha256)
            return replace(transfer, places=(path,))
        path = await self._fetched(url, transfer.sha256)
        # Other tasks use it too.
        return replace(transfer, places=(path,), action="copy" if transfer.action == "move" else transfer.action)

    async def _fetched(self, url: str, sha256: str | None) -> str:
        if sha256 is not None and self._digests.setdefault(url, sha256) != sha256:
            raise StagingConflictError(f"two tasks want {url} with different sha256: {self._digests[url]}, {sha256}")
        fetching = self._fetching.get(url)
        if fetching is None or (fetching.done() and (fetching.cancelled() or fetching.exception() is not None)):
            # Also for a task that does not care: it is the same file that another one gets.
            digest = self._digests.get(url)
            fetching = self._fetching[url] = self._in_thread(self._fetch, url, digest)
            if digest is not None:
                self._checked.add(url)
        # One task that is cancelled does not take it away from the others.
        path = await asyncio.shield(fetching)
        if sha256 is not None and url not in self._checked:
            await self._in_thread(_check_file, path, url, sha256)
            self._checked.add(url)
        return path

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _fetch(self, url: str, sha256: str | None) -> str:
        name = unquote(urlsplit(url).path).rstrip("/").rsplit("/", 1)[-1] or "downloaded_file"
        directory = f"{self._directory}/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        path = f"{directory}/{name.replace(chr(0), '_')}"
        part = f"{directory}/.part"
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            self._download(url, part)
            if sha256 is not None:
                _check_file(part, url, sha256)
            os.replace(part, path)
        except OSError as error:
            raise StagingError(f"{url} cannot be kept in {directory}: {error.strerror or error}") from error
        finally:
            if os.path.lexists(part):
                os.unlink(part)
        return path

    def _download(self, url: str, part: str) -> None:
        for number in range(1, _TRIES + 1):
            try:
                with _opened(url) as chunks, open(part, "wb") as stream:
                    self._save(chunks, stream)
                return
            except _TransientError as error:
                if number == _TRIES:
                    raise StagingError(f"{url} cannot be fetched, tried {_TRIES} times: {error}") from error
                log.warning("%s cannot be fetched, will be tried again: %s", url, error)
                self._stopped.wait(_PAUSE * 2 ** (number - 1))
            self._refuse_stopped()

    def _save(self, chunks: Iterable[bytes], stream: IO[bytes]) -> None:
        for chunk in chunks:
            self._refuse_stopped()
            _keep(stream.write, chunk)
        _keep(stream.flush)
        _keep(os.fsync, stream.fileno())

    def _refuse_stopped(self) -> None:
        if self._stopped.is_set():
            raise StagingError("the session ended while a file was fetched")

    async def close(self) -> None:
        """Stop what is being fetched."""
        self._stopped.set()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)


def _keep(write: Callable[..., Any], *arguments: Any) -> None:
    # Told apart from a failure of the network, which may pass.
    try:
        write(*arguments)
    except OSError as error:
        raise StagingError(f"a download cannot be kept: {error.strerror}") from error


class _TransientError(Exception):
    """A failure that may be gone the next time."""


@contextmanager
def _opened(url: str) -> Iterator[Iterator[bytes]]:
    if urlsplit(url).scheme in ("http", "https"):
        with _http(url) as chunks:
            yield chunks
    else:
        with _through_fsspec(url) as stream:
            yield iter(lambda: stream.read(_CHUNK), b"")


@contextmanager
def _http(url: str) -> Iterator[Iterator[bytes]]:
    import requests
    import urllib3.exceptions

    try:
        with requests.get(url, stream=True, timeout=(_CONNECT, _READ)) as answer:
            if answer.status_code in _TRANSIENT:
                raise _TransientError(f"{answer.status_code} {answer.reason}")
            if not answer.ok:
                raise StagingError(f"{url} cannot be fetched: {answer.status_code} {answer.reason}")
            # A connection that breaks early must not pass for the end of the file.
            answer.raw.enforce_content_length = True
            yield answer.iter_content(_CHUNK)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise _TransientError(str(error)) from error
    except requests.RequestException as error:
        raise StagingError(f"{url} cannot be fetched: {error}") from error


@contextmanager
def _through_fsspec(url: str) -> Iterator[Any]:
    scheme = urlsplit(url).scheme
    try:
        import fsspec
    except ImportError:
        raise StagingError(
            f"{url} cannot be fetched: '{scheme}' needs fsspec; `pip install 'asyncflow-hpc[remote]'`"
        ) from None
    try:
        with fsspec.open(url, "rb") as stream:
            yield stream
    except StagingError:
        raise
    except (ImportError, ValueError) as error:
        # It names the package that a scheme needs, or does not know the scheme.
        raise StagingError(f"{url} cannot be fetched: {error}") from error
    except FileNotFoundError as error:
        raise StagingError(f"{url} is not there") from error
    except Exception as error:
        raise _TransientError(str(error)) from error


def _check_file(path: str, url: str, sha256: str) -> None:
    try:
        with open(path, "rb") as stream:
            digest = hashlib.sha256()
            shutil.copyfileobj(stream, _Digester(digest), _CHUNK)
    except OSError as error:
        raise StagingError(f"{url} cannot be read: {error.strerror}") from error
    if digest.hexdigest() != sha256:
        raise StagingError(f"{url} has sha256 {digest.hexdigest()}, not {sha256}")


class _Digester:
    """A file object that only computes a digest."""

    def __init__(self, digest: Any) -> None:
        self.write = digest.update

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
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

from asyncflow_hpc.data import BOOKKEEPING
from asyncflow_hpc.errors import ConfigurationError, StagingConflictError, StagingError
from asyncflow_hpc.masking import masked_url
from asyncflow_hpc.units import parse_memory, parse_walltime

from .plan import Plan, Transfer
from .transport import CHUNK, THREAD, TransientError, opened

__all__ = ["Downloads", "remote"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_TRIES, _PAUSE = 4, 1.0

# Downloads of a session at the same time.
_AT_ONCE = 8

# Limits of one download, with all its tries: a duration, and a size.
_TIME, _SIZE = "ASYNCFLOW_DOWNLOAD_TIME", "ASYNCFLOW_DOWNLOAD_SIZE"
_DEFAULT_TIME, _DEFAULT_SIZE = "02:00:00", "100GB"


def remote(plan: Plan) -> bool:
    """Tell whether something of a plan must be fetched first."""
    return any("://" in place for transfer in plan.transfers for place in transfer.places[:1])


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one download may take: seconds and bytes."""

    time: float
    size: int

    @classmethod
    def of_environment(cls) -> _Limits:
        time, size = os.environ.get(_TIME) or _DEFAULT_TIME, os.environ.get(_SIZE) or _DEFAULT_SIZE
        try:
            return cls(parse_walltime(float(time) if time.isdecimal() else time), parse_memory(size))
        except ValueError as error:
            raise ConfigurationError(f"{_TIME}={time!r} or {_SIZE}={size!r} is invalid: {error}") from error


class _Download:
    """One URL on its way.

    Attributes:
        task: returns the path of the file.
        takers: tasks that wait for it.
    """

    def __init__(self, task: asyncio.Task[str]) -> None:
        self.task = task
        self.takers = 0

    def failed(self) -> bool:
        """Tell whether it is over without a file."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class Downloads:
    """What one session has fetched.

    A thread that waits for a server cannot be interrupted. So each download has a daemon thread of its own, for which
    nobody waits when the download is given up; it ends with the next bytes that arrive, or with the process.

    Args:
        session: its directory, which is there.
    """

    def __init__(self, session: str) -> None:
        self._directory = f"{session}/{BOOKKEEPING}/downloads"
        self._downloads: dict[str, _Download] = {}
        self._digests: dict[str, str] = {}
        self._checked: set[str] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def localized(self, plan: Plan) -> Plan:
        """Fetch what a plan needs.

        Returns:
            The plan with paths in the place of URLs.

        Raises:
            StagingError: something cannot be fetched, or is not what it should be.
            ConfigurationError: invalid limits.
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
                await _in_thread(_check_file, path, url, transfer.sha256)
            return replace(transfer, places=(path,))
        path = await self._fetched(url, transfer.sha256)
        # Other tasks use it too.
        return replace(transfer, places=(path,), action="copy" if transfer.action == "move" else transfer.action)

    async def _fetched(self, url: str, sha256: str | None) -> str:
        if sha256 is not None and self._digests.setdefault(url, sha256) != sha256:
            raise StagingConflictError(
                f"two tasks want {masked_url(url)} with different sha256: {self._digests[url]}, {sha256}"
            )
        download = self._downloads.get(url)
        if download is None or download.failed():
            # Also for a task that does not care: it is the same file that another one gets.
            digest = self._digests.get(url)
            work = asyncio.get_running_loop().create_task(self._fetch_in_turn(url, digest))
            download = self._downloads[url] = _Download(work)
            if digest is not None:
                self._checked.add(url)
        path = await self._taken(url, download)
        if sha256 is not None and url not in self._checked:
            await _in_thread(_check_file, path, url, sha256)
            self._checked.add(url)
        return path

    async def _taken(self, url: str, download: _Download) -> str:
        download.takers += 1
        try:
            # One task that is cancelled does not take it away from the others.
            return await asyncio.shield(download.task)
        finally:
            download.takers -= 1
            if not download.takers and not download.task.done():
                download.task.cancel()
                if self._downloads.get(url) is download:
                    del self._downloads[url]

    async def _fetch_in_turn(self, url: str, sha256: str | None) -> str:
        limits, stopped = _Limits.of_environment(), threading.Event()
        async with self._turns:
            try:
                return await asyncio.wait_for(_in_thread(self._fetch, url, sha256, limits.size, stopped), limits.time)
            except asyncio.TimeoutError:
                raise StagingError(
                    f"{masked_url(url)} cannot be fetched within {limits.time:g} s; {_TIME} sets the limit"
                ) from None
            finally:
                stopped.set()

    def _fetch(self, url: str, sha256: str | None, size: int, stopped: threading.Event) -> str:
        name = unquote(urlsplit(url).path).rstrip("/").rsplit("/", 1)[-1] or "downloaded_file"
        directory = f"{self._directory}/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        path = f"{directory}/{name.replace(chr(0), '_')}"
        # Of its own: a thread that was given up may still write.
        part = f"{directory}/.{uuid.uuid4().hex}.part"
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            _download(url, part, size, stopped)
            if sha256 is not None:
                _check_file(part, url, sha256)
            _refuse_stopped(stopped)
            os.replace(part, path)
        except OSError as error:
            raise StagingError(f"{masked_url(url)} cannot be kept in {directory}: {error.strerror or error}") from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)
        return path

    async def close(self) -> None:
        """Give up what is being fetched."""
        tasks = [download.task for download in self._downloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_thread(function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
    """Call a function in a daemon thread, for which neither the executor nor the end of the process waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(error: BaseException | None, result: Any) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def call() -> None:
        error, result = None, None
        try:
            result = function(*arguments)
        except BaseException as raised:
            error = raised
        # The loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, error, result)

    threading.Thread(target=call, name=THREAD, daemon=True).start()
    return future


def _download(url: str, part: str, size: int, stopped: threading.Event) -> None:
    for number in range(1, _TRIES + 1):
        try:
            with open(part, "wb") as stream, opened(url) as chunks:
                _save(chunks, stream, url, size, stopped)
            return
        except TransientError as error:
            if number == _TRIES:
                raise StagingError(f"{masked_url(url)} cannot be fetched, tried {_TRIES} times: {error}") from None
            _refuse_stopped(stopped)
            log.warning("%s cannot be fetched, will be tried again: %s", masked_url(url), error)
            stopped.wait(_PAUSE * 2 ** (number - 1))
        _refuse_stopped(stopped)


def _save(chunks: Iterable[bytes], stream: IO[bytes], url: str, size: int, stopped: threading.Event) -> None:
    for chunk in chunks:
        _refuse_stopped(stopped)
        size -= len(chunk)
        if size < 0:
            raise StagingError(f"{masked_url(url)} is larger than a download may be; {_SIZE} sets the limit")
        _keep(stream.write, chunk)
    _keep(stream.flush)
    _keep(os.fsync, stream.fileno())


def _refuse_stopped(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise StagingError("the download was given up")


def _keep(write: Callable[..., Any], *arguments: Any) -> None:
    # Told apart from a failure of the network, which may pass.
    try:
        write(*arguments)
    except OSError as error:
        raise StagingError(f"a download cannot be kept: {error.strerror}") from error


def _check_file(path: str, url: str, sha256: str) -> None:
    try:
        with open(path, "rb") as stream:
            digest = hashlib.sha256()
            shutil.copyfileobj(stream, _Digester(digest), CHUNK)
    except OSError as error:
        raise StagingError(f"{masked_url(url)} cannot be read: {error.strerror}") from error
    if digest.hexdigest() != sha256:
        raise StagingError(f"{masked_url(url)} has sha256 {digest.hexdigest()}, not {sha256}")


class _Digester:
    """A file object that only computes a digest."""

    def __init__(self, digest: Any) -> None:
        self.write = digest.update

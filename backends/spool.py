"""Learn at once which attempts have ended: a watch over the directory in which each drops an empty marker."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from asyncflow_hpc.errors import SessionError

from .evidence import marker_name, parse_marker

__all__ = ["SpoolWatcher", "file_system_of"]

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Here every new file is made by the kernel that is asked. On other file systems, other machines make files as well.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
)

# So much at a time that neither the thread nor the loop is held up.
_NAMES_PER_TURN = 1000
_EVENT_BYTES_PER_TURN = 64 * 1024

# The kernel writes what would end a field as octal.
_ESCAPE = re.compile(r"\\([0-7]{3})")


class SpoolWatcher:
    """Calls a function once for each marker in a directory, whoever made it and whenever.

    The kernel tells of new markers where it can know of them (inotify, on local file systems), and the directory is
    listed rarely, in case it failed to. Elsewhere the directory is listed often. What goes wrong is logged and tried
    again; no trouble with the directory ends the watch.

    A marker is told once as long as it is there, even if it is removed and made again by others; one that was removed
    by `forget` is told again if it is made again. All methods belong to the loop.

    Args:
        directory: where the markers are; the directory above it must exist.
        on_marker: called on the loop with uid and attempt. What it raises is logged.
        interval: seconds between two listings where the kernel does not tell.
        idle_interval: seconds between two listings where it does.
        inotify: whether to ask the kernel; None to decide by the type of the file system.
    """

    def __init__(
        self,
        directory: Path,
        on_marker: Callable[[str, int], None],
        *,
        interval: float = 0.5,
        idle_interval: float = 10.0,
        inotify: bool | None = None,
    ) -> None:
        self._on_marker = on_marker
        self._interval, self._idle_interval = interval, idle_interval
        self._directory = _Directory(directory, inotify)
        self._told: set[str] = set()
        self._forgotten: set[str] = set()
        self._being_removed: set[str] = set()
        self._wake = asyncio.Event()
        self._list_now = self._closing = False
        self._troubles: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch; markers that are there already are told soon after.

        Raises:
            SessionError: the directory is not there and cannot be made.
        """
        if self._task is not None or self._closing:
            raise RuntimeError("a SpoolWatcher can be started once")
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "spool")
        try:
            await self._off_the_loop(self._directory.open)
        except BaseException:
            self._release()
            raise
        if self._directory.inotify is not None:
            self._loop.add_reader(self._directory.inotify.fileno(), self._take_events, self._directory.inotify)
        self._task = self._loop.create_task(self._watch(), name=f"watch {self._directory.path}")

    async def close(self) -> None:
        """Stop, and remove what was forgotten; nothing is told any more once this was called."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            # Unlike the task itself, this can be cancelled without leaving its thread behind.
            await asyncio.wait([self._task])

    async def __aenter__(self) -> SpoolWatcher:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def forget(self, uid: str, attempt: int) -> None:
        """Remove a marker soon, so that the directory stays small.

        Raises:
            ValueError: no marker can be called so.
        """
        self._forgotten.add(marker_name(uid, attempt))
        self._wake.set()

    async def _watch(self) -> None:
        try:
            while not self._closing:
                await self._list()
                await self._pause()
            await self._remove_forgotten()
        finally:
            self._release()

    def _release(self) -> None:
        if self._directory.inotify is not None:
            self._loop.remove_reader(self._directory.inotify.fileno())
        # The thread may still use the descriptors if this task was cancelled.
        self._thread.shutdown()
        self._directory.close()

    async def _list(self) -> None:
        self._list_now = False
        try:
            await self._off_the_loop(self._directory.begin)
            while names := await self._off_the_loop(self._directory.next_names):
                for name in names:
                    self._tell(name)
                if self._closing:
                    return
        except OSError as error:
            self._note("listed", error)
        else:
            self._note("listed", None)

    async def _pause(self) -> None:
        is_idle = self._directory.is_watched and not self._troubles
        timer = self._loop.call_later(self._idle_interval if is_idle else self._interval, self._list_soon)
        try:
            # Never while the directory is listed: the listing may hold the name already, and it would be told twice.
            await self._remove_forgotten()
            while not (self._list_now or self._closing):
                await self._wake.wait()
                self._wake.clear()
                await self._remove_forgotten()
        finally:
            timer.cancel()

    def _list_soon(self) -> None:
        self._list_now = True
        self._wake.set()

    async def _remove_forgotten(self) -> None:
        if names := self._forgotten:
            self._forgotten, self._being_removed = set(), names
            kept, error = await self._off_the_loop(self._directory.remove, names)
            self._being_removed = set()
            self._told -= names - kept
            self._forgotten |= kept
            self._note("cleared", error)

    def _take_events(self, inotify: _Inotify) -> None:
        names, all_told = inotify.read()
        for name in names:
            if name in self._being_removed:
                # It may have been made before that or after; a listing will show.
                self._list_soon()
            # The event may be older than the removal of a marker that a listing has told. Only local file systems are
            # asked, and a name that was just made is in the kernel's memory.
            elif name not in self._told and self._directory.has(name):
                self._tell(name)
        if not all_told:
            self._list_soon()

    def _tell(self, name: str) -> None:
        if name in self._told or self._closing or not (found := parse_marker(name)):
            return
        self._told.add(name)
        try:
            self._on_marker(*found)
        except Exception:
            log.exception("the end of %s was told by its marker, but could not be dealt with", name)

    def _note(self, what: str, error: OSError | None) -> None:
        if error is None:
            if what in self._troubles:
                self._troubles.remove(what)
                log.info("%s can be %s again", self._directory.path, what)
        elif what not in self._troubles:
            self._troubles.add(what)
            # It ends a pause that was meant to be long; the next one is short.
            self._list_now = True
            log.warning("%s cannot be %s: %s; this is tried again", self._directory.path, what, error)

    async def _off_the_loop(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await self._loop.run_in_executor(self._thread, function, *arguments)


class _Directory:
    """The directory, as the one thread sees it that works on it.

    Attributes:
        path: where it is.
        inotify: what tells of new names, None where nothing does.
        is_watched: whether that now does so.
    """

    def __init__(self, path: Path, inotify: bool | None) -> None:
        self.path = path
        self.inotify: _Inotify | None = None
        self.is_watched = False
        self._wanted = inotify
        self._has_said_why = False
        self._listing = ExitStack()
        self._entries: Iterator[os.DirEntry[str]] = iter(())

    def open(self) -> None:
        """Make it, and find out who may tell of new names.

        Raises:
            SessionError: it cannot be made.
        """
        try:
            self._make()
        except OSError as error:
            raise SessionError(
                f"directory {self.path} cannot be made: {error.strerror}; check its file system"
            ) from error
        if _is_local(self.path) if self._wanted is None else self._wanted:
            try:
                self.inotify = _Inotify()
            except (ImportError, OSError) as error:
                self._say_why(error)

    def _make(self) -> None:
        self.path.mkdir(0o700, exist_ok=True)

    def begin(self) -> None:
        """Begin to list it, anew; where it has vanished, it is made again."""
        self._end()
        try:
            self._begin()
        except FileNotFoundError:
            self._make()
            log.warning("%s had vanished and was made again", self.path)
            self._begin()

    def _begin(self) -> None:
        # First the watch: so no name falls between it and the listing.
        self._place_watch()
        # NFS asks the server for new entries when a directory is opened, and it may not while one is kept open.
        self._entries = self._listing.enter_context(os.scandir(self.path))

    def _place_watch(self) -> None:
        if self.inotify is None:
            return
        try:
            self.inotify.watch(self.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.is_watched = False
            self._say_why(error)
        else:
            self.is_watched = True

    def _say_why(self, error: Exception) -> None:
        if not self._has_said_why:
            log.info("%s is listed often, for the kernel cannot tell of new names: %s", self.path, error)
        self._has_said_why = True

    def next_names(self) -> list[str]:
        """List some more of it; the empty list is the end."""
        names = [entry.name for entry in islice(self._entries, _NAMES_PER_TURN)]
        if not names:
            self._end()
        return names

    def _end(self) -> None:
        self._entries = iter(())
        self._listing.close()

    def has(self, name: str) -> bool:
        """Say whether a name is there now."""
        return os.path.lexists(self.path / name)

    def remove(self, names: Collection[str]) -> tuple[set[str], OSError | None]:
        """Remove names, and return those that could not be removed and the last reason."""
        kept, reason = set(), None
        for name in names:
            try:
                os.unlink(self.path / name)
            except FileNotFoundError:
                pass
            except OSError as error:
                kept.add(name)
                reason = error
        return kept, reason

    def close(self) -> None:
        """Give back all descriptors."""
        self._end()
        if self.inotify is not None:
            self.inotify.close()


class _Inotify:
    """The kernel's news of one directory.

    Raises:
        ImportError: the library is not there; it is installed on Linux only.
        OSError: the user has as many of these as allowed.
    """

    def __init__(self) -> None:
        # It has no types, and it is not there on other systems than Linux.
        import inotify_simple  # type: ignore[import-untyped]

        flags = inotify_simple.flags
        self._mask = flags.CREATE | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
        self._losing = flags.Q_OVERFLOW | flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT
        self._parse = inotify_simple.parse_events
        self._instance = inotify_simple.INotify(nonblocking=True)
        self._watch: int | None = None

    def fileno(self) -> int:
        """The descriptor that is readable when there is news."""
        return int(self._instance.fileno())

    def watch(self, path: Path) -> None:
        """Watch what is now at a path, and no longer what was there before; the same again changes nothing.

        Raises:
            OSError: there is nothing, or the user watches as much as allowed.
        """
        before, self._watch = self._watch, self._instance.add_watch(path, self._mask)
        if before not in (None, self._watch):
            # It is gone by itself if the old directory was deleted.
            with suppress(OSError):
                self._instance.rm_watch(before)

    def read(self) -> tuple[list[str], bool]:
        """Return names that were made, and whether these are all; if not, the directory must be listed."""
        try:
            data = os.read(self.fileno(), _EVENT_BYTES_PER_TURN)
        except BlockingIOError:
            return [], True
        events = self._parse(data)
        return [event.name for event in events if event.name], not any(event.mask & self._losing for event in events)

    def close(self) -> None:
        """Give back the descriptor."""
        self._instance.close()


def _is_local(path: Path) -> bool:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return file_system_of(os.path.realpath(path), file.read()) in _LOCAL
    except OSError:
        return False


def file_system_of(path: str, mountinfo: str) -> str | None:
    """Say of what type the file system is on which a path lies.

    Args:
        path: absolute, and without symbolic links.
        mountinfo: text of `/proc/self/mountinfo`; see proc_pid_mountinfo(5).

    Returns:
        The type, such as "ext4" or "nfs4", None if the text does not tell.
    """
    longest, found = 0, None
    for line in mountinfo.split("\n"):
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 6 or not source:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/") + "/"
        # Of several on one point, the last hides the others.
        if f"{path}/".startswith(point) and len(point) >= longest:
            longest, found = len(point), source.split(" ")[0]
    return found

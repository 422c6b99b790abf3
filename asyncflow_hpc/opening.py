"""Finding and starting an engine's backends, and the object that `WorkflowEngine.create` returns."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import uuid
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from . import signals
from .errors import ArgumentError, ConfigurationError, SessionError, is_plain_line
from .registry import SCHEDULERS, make_backend, takes_site
from .retries import DEFAULT, as_policy
from .session import Session

if TYPE_CHECKING:
    from .engine import WorkflowEngine
    from .recording import Recording
    from .site_model import Site

__all__ = [
    "ENVIRONMENT",
    "RESUME",
    "SITE",
    "SITE_FILE",
    "Opening",
    "backends_for",
    "check_arguments",
    "open_engine",
    "session_dir",
]

log = logging.getLogger(__name__)

ENVIRONMENT = "ASYNCFLOW_BACKEND"
SITE = "ASYNCFLOW_SITE"
SITE_FILE = "asyncflow.yaml"
RESUME = "ASYNCFLOW_RESUME"

# Sessions that engines of this process have resumed because the environment said so.
_from_environment: set[Path] = set()

_SETTINGS = {
    "dry_run": bool,
    "implicit_data": bool,
    "uid": str | None,
    "work_dir": str | os.PathLike[str] | None,
    "resume": str | os.PathLike[str] | None,
    "on_exit": Literal["cancel", "detach"],
    "on_error": Literal["cancel", "finish"],
    "cache": str | os.PathLike[str] | None,
}


def _check_budget(max_failures: Any) -> None:
    if max_failures is None:
        return
    if isinstance(max_failures, bool) or not isinstance(max_failures, int):
        raise ArgumentError(f"max_failures must be a whole number or None, not {max_failures!r}")
    if max_failures < 1:
        raise ConfigurationError(f"max_failures must be 1 or more, not {max_failures}: the first failure counts as 1")


def check_arguments(kinds: dict[str, tuple[Any, Any]]) -> None:
    """Check values of arguments against their types.

    Args:
        kinds: name of the argument -> its value and type.

    Raises:
        ArgumentError: names the argument.
    """
    from typeguard import TypeCheckError, check_type

    for name, (value, kind) in kinds.items():
        try:
            check_type(value, kind)
        except TypeCheckError as error:
            raise ArgumentError(f"argument '{name}': {error}; it is {value!r}") from None


def backends_for(backend: Any, dry_run: bool, site: Any = None) -> list[Any]:
    """Find the backends that were asked for; none is started here.

    Args:
        backend: one, a name, a list of either, or None: the name in ASYNCFLOW_BACKEND, else that of the site, else
            local (no-op in a dry run).
        dry_run: run nothing where neither a backend nor a site is given.
        site: whose profile holds for backends that are given by name; None: see `sites.default_site`.

    Raises:
        UnknownBackendError: a name that no installed package has.
        SiteError: a site that has no profile, or a wrong one.
        ConfigurationError: an object that is no backend, none at all, two of one name, or a site that none can use.
    """
    if dry_run and (backend is not None or site is not None):
        log.warning("dry_run makes a difference only where no backend is given: tasks will run on the given one")
    if backend is None and dry_run and site is None:
        backend = "noop"
    wanted = list(backend) if isinstance(backend, (list, tuple)) else [backend]
    if not wanted:
        raise ConfigurationError("an engine needs a backend; the list of backends is empty")
    profile: Any = None
    if backend is None or any(isinstance(item, str) for item in wanted):
        profile = _site(site)
    elif site is not None:
        raise ConfigurationError("site= is for backends that are given by name; give it to the backend itself")
    if backend is None:
        wanted = [os.environ.get(ENVIRONMENT) or (profile.scheduler if profile is not None else "local")]
    if site is not None and not any(isinstance(item, str) and takes_site(item, profile) for item in wanted):
        raise _mismatch(next(item for item in wanted if isinstance(item, str)), profile)
    made = [_made(item, profile) if isinstance(item, str) else item for item in wanted]
    for item in made:
        _check_backend(item)
    names = [item.name for item in made]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"backends of one engine need different names, not {', '.join(names)}")
    return made


def _site(site: Any) -> Site | None:
    if site is None and not os.environ.get(SITE) and not os.path.lexists(SITE_FILE):
        return None
    # Imported only where there is one.
    from .sites import default_site, load_site

    return default_site() if site is None else load_site(site)


def _made(name: str, site: Site | None) -> Any:
    """Make a backend by name, for the site if it can use it."""
    if site is None:
        return make_backend(name)
    if takes_site(name, site):
        return make_backend(name, site=site)
    # On a batch system, another one is a mistake; to run locally what is meant for a site is not.
    if name in SCHEDULERS - {"local"} and site.scheduler != "local":
        raise _mismatch(name, site)
    log.info("backend '%s' runs without the profile of site '%s', which is for '%s'", name, site.name, site.scheduler)
    return make_backend(name)


def _mismatch(name: str, site: Site) -> ConfigurationError:
    return ConfigurationError(
        f"backend '{name}' cannot use site '{site.name}', which is for '{site.scheduler}' (from {site.file})"
    )


def _check_backend(item: Any) -> None:
    if isinstance(item, type) or not hasattr(item, "submit_tasks") or not hasattr(item, "name"):
        raise ConfigurationError(f"{item!r} is no backend; give an instance or a name such as 'local'")
    if getattr(item, "is_attached", False):
        raise ConfigurationError(
            f"backend '{item.name}' already serves engine {item.attached_to[-1]}; make one of its own for each engine"
        )


class Opening(Coroutine[Any, Any, "WorkflowEngine"]):
    """An engine about to open: await it, or enter it with `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, WorkflowEngine]) -> None:
        self._opening = opening
        self._engine: WorkflowEngine | None = None

    def __await__(self) -> Generator[Any, None, WorkflowEngine]:
        return self._opening.__await__()

    def send(self, value: Any) -> Any:
        """Go on; for asyncio, which takes this for a coroutine."""
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        return self._opening.throw(*error)

    def close(self) -> None:
        """Give up."""
        self._opening.close()

    async def __aenter__(self) -> WorkflowEngine:
        self._engine = await self._opening
        return self._engine

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            await self._engine.__aexit__(kind, error, trace)


async def open_engine(kind: type[WorkflowEngine], backend: Any, settings: dict[str, Any]) -> WorkflowEngine:
    """Check what `WorkflowEngine.create` was given, start the backends, and make the engine.

    Raises:
        ArgumentError, ConfigurationError, SessionError: no backend is left open.
    """
    check_arguments({name: (settings[name], kind) for name, kind in _SETTINGS.items()})
    policy = DEFAULT if settings["retries"] is None else as_policy(settings["retries"])
    _check_budget(settings["max_failures"])
    uid, work_dir = settings["uid"], settings["work_dir"]
    resumed = _resumed_session(settings["resume"], uid, work_dir)
    new = resumed or session_dir(work_dir, uid or f"asyncflow.session.{uuid.uuid4().hex[:8]}")
    found = backends_for(backend, settings["dry_run"], settings["site"])
    recording, started = None, list[Any]()
    try:
        recording = await _recording_of(found, resumed, new)
        if settings["cache"] is not None:
            await _use_cache(recording, settings["cache"])
        if resumed is not None and recording is not None:
            await asyncio.gather(*(_recover(item, recording.session) for item in found if _takes_over(item)))
        for item in found:
            started.append(await item if inspect.isawaitable(item) else item)
        engine = kind(
            started,
            dry_run=settings["dry_run"],
            implicit_data=settings["implicit_data"],
            session=Session(new) if recording is None else recording.session,
            retries=policy,
            max_failures=settings["max_failures"],
            on_exit=settings["on_exit"],
            on_error=settings["on_error"],
            recording=recording,
        )
        if resumed is not None and settings["resume"] is None:
            _from_environment.add(resumed)
    except BaseException:
        if recording is not None:
            await recording.close()
        opened = [item for item in found if item in started or getattr(item, "_started", False)]
        await asyncio.gather(*(item.shutdown() for item in opened), return_exceptions=True)
        raise
    signals.guard(engine)
    return engine


def _takes_over(backend: Any) -> bool:
    return bool(getattr(getattr(backend, "capabilities", None), "reattach", False))


async def _recover(backend: Any, session: Session) -> None:
    """Let a backend end what an earlier driver left running, before it takes the room of that itself."""
    backend.session = session
    await backend.recover()


def _resumed_session(resume: Any, uid: str | None, work_dir: Any) -> Path | None:
    """Say which session is to be resumed, if any.

    Args:
        resume: its directory, or its uid in `work_dir`; where None, what the environment says.
        uid, work_dir: of the engine; they must agree with it where they are given.

    Raises:
        ConfigurationError: they do not.
    """
    asked = os.environ.get(RESUME) if resume is None else os.fspath(resume)
    if not asked:
        return None
    path = (
        session_dir(work_dir, asked)
        if "/" not in asked and work_dir is not None
        else _printable(Path(asked).absolute())
    )
    fits = (uid is None or uid == path.name) and (work_dir is None or session_dir(work_dir, path.name) == path)
    if resume is None and fits and path in _from_environment:
        log.warning(
            "%s=%s was for the first engine, and this one begins a new session: give each its resume=", RESUME, asked
        )
        return None
    if fits:
        return path
    if resume is None:
        # It is meant for another engine of this process.
        return None
    raise ConfigurationError(
        f"resume={asked!r} is not session {uid or path.name!r} in {work_dir or '.'}: give one of both"
    )


async def _recording_of(backends: list[Any], resumed: Path | None, new: Path) -> Recording | None:
    """Make what records a session; None where no backend could take over anything.

    Args:
        resumed: an earlier session that goes on.
        new: where a new one would be.

    Raises:
        SessionError: the session cannot be resumed, or a new one would be written over an earlier one.
    """
    if not any(map(_takes_over, backends)):
        if resumed is not None:
            names = ", ".join(item.name for item in backends)
            raise ConfigurationError(f"a session cannot be resumed on {names}, which cannot take over tasks")
        return None
    # Not imported where nothing is recorded.
    from .journal import journal_path
    from .recording import Recording

    if resumed is not None:
        return await Recording.resume(resumed)
    if journal_path(new).exists():
        raise SessionError(
            f"session {new} is there already: resume={str(new)!r} goes on with it; else choose another uid"
        )
    return Recording(Session(new))


async def _use_cache(recording: Recording | None, directory: Any) -> None:
    """Let a session have and leave results.

    Raises:
        ConfigurationError: the directory cannot be used.
    """
    if recording is None:
        log.warning("cache=%r is not used: these backends cannot give back an earlier result", os.fspath(directory))
        return
    from .cache import Cache

    recording.cache = await asyncio.get_running_loop().run_in_executor(None, Cache, directory)


def session_dir(work_dir: str | os.PathLike[str] | None, uid: str) -> Path:
    """Say where the files of a session go.

    Raises:
        ConfigurationError: the uid would lead out of the working directory, or the path has control characters or
            cannot be written in UTF-8.
    """
    if not uid or uid in (".", "..") or "/" in uid:
        raise ConfigurationError(f"uid {uid!r} cannot name a session directory")
    try:
        path = Path(work_dir or ".").expanduser().absolute() / uid
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"work_dir {os.fspath(work_dir or '.')!r} cannot be found: {error}") from error
    return _printable(path)


def _printable(path: Path) -> Path:
    """Return a path that can stand in a line of a script, a lock and a terminal.

    Raises:
        ConfigurationError: it cannot.
    """
    text = str(path)
    if not is_plain_line(text):
        raise ConfigurationError(
            f"session directory {text!r} must be a path of one line in UTF-8, without control characters: choose"
            " another work_dir or uid"
        )
    return path

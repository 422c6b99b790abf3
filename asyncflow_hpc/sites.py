"""Site profiles: finding, reading and merging the files that say how a machine wants to be used.

A name is looked for in `./asyncflow.yaml` (where it is that file's `name`, or what it extends), in the user's
configuration directory, and in the package.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import ArgumentError, SiteError, nearest
from .opening import SITE, SITE_FILE
from .site_model import Site, build, by_qos

__all__ = ["Site", "default_site", "load_site", "merge", "session_places", "site_names"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Found(NamedTuple):
    """A file of a profile.

    Attributes:
        ours: it comes with the package.
        named: the user has named this very file.
    """

    path: Path
    ours: bool = False
    named: bool = False


def load_site(site: str | os.PathLike[str] | Site) -> Site:
    """Return a site's profile.

    Args:
        site: its name, the path of a YAML file (with a "/", or ending in .yaml or .yml), or a profile that is loaded.

    Raises:
        SiteError: there is none, it cannot be trusted, or it is wrong.
    """
    if isinstance(site, Site):
        return site
    if not isinstance(site, (str, os.PathLike)):
        raise ArgumentError(f"argument 'site' must be a name, a path or a loaded site, not {site!r}")
    if isinstance(site, os.PathLike) or "/" in site or site.endswith((".yaml", ".yml")):
        path = Path(site).expanduser()
        return _load(_Found(path, named=True), path.stem)
    if _local_name() == site:
        return _load(_local(), site)
    for found in _places(site):
        return _load(found, site)
    raise SiteError(f"no site is called {site!r}; {nearest(site, site_names())}")


def default_site() -> Site | None:
    """Return the site that a user has set: by ASYNCFLOW_SITE, else by `./asyncflow.yaml`, else None.

    Raises:
        SiteError: it cannot be used.
    """
    name = os.environ.get(SITE)
    if name:
        return load_site(name)
    local = _local_name()
    return None if local is None else _load(_local(), local)


def site_names() -> list[str]:
    """Return the names of all profiles in the user's configuration directory and in the package."""
    directories = [_user_directory(), _package_directory()]
    return sorted({path.stem for directory in directories for path in directory.glob("*.yaml")})


def session_places(site: Site) -> list[Path]:
    """Return where a site wants sessions to lie, best first; what has a variable that is not set is left out."""
    paths = (os.path.expandvars(place.path) for place in site.filesystems if place.use == "sessions")
    return [Path(path).expanduser() for path in paths if "$" not in path]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another: mappings key by key, all else as a whole; a None takes the key away."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = merge(under if isinstance(under, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _load(found: _Found, name: str) -> Site:
    values, chain = _read(found), [found]
    layers = [values]
    while (base := values.get("extends")) is not None:
        below = _base(base, chain)
        values = _read(below)
        chain.append(below)
        layers.append(values)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        before, merged = merged.get("defaults"), merge(merged, layer)
        defaults, queues = layer.get("defaults"), merged.get("queues")
        if isinstance(defaults, Mapping) and isinstance(queues, Mapping):
            under = before if isinstance(before, Mapping) else {}
            merged["defaults"] = merge(under, by_qos(defaults, queues))
    own_name = layers[0].get("name")
    return build(merged, own_name if isinstance(own_name, str) else name, str(found.path.absolute()))


def _base(base: object, chain: list[_Found]) -> _Found:
    """Find the profile that the last of a chain extends; one of the same name is the next on the search path."""
    last = chain[-1].path
    if not isinstance(base, str) or not base:
        raise SiteError(f"site profile {last}: extends: must be a name or a path, not {base!r}")
    if "/" in base or base.endswith((".yaml", ".yml")):
        candidates = [_Found(last.parent / Path(base).expanduser(), named=chain[-1].named)]
    else:
        candidates = list(_places(base))
    if not candidates:
        raise SiteError(f"site profile {last}: extends: no site is called {base!r}; {nearest(base, site_names())}")
    seen = {os.path.realpath(found.path) for found in chain}
    for candidate in candidates:
        if os.path.realpath(candidate.path) not in seen:
            return candidate
    way = " -> ".join(str(found.path) for found in [*chain, candidates[0]])
    raise SiteError(f"site profile {last}: extends: goes in a circle: {way}")


def _places(name: str) -> Iterator[_Found]:
    """Walk over the files of a name, the user's first."""
    if not _NAME.fullmatch(name):
        raise SiteError(f"{name!r} cannot be the name of a site; {nearest(name, site_names())}")
    own, ours = _user_directory() / f"{name}.yaml", _package_directory() / f"{name}.yaml"
    if own.exists():
        yield _Found(own)
    if ours.exists():
        yield _Found(ours, ours=True)


def _user_directory() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "asyncflow_hpc")


def _package_directory() -> Path:
    return Path(str(resources.files("asyncflow_hpc.configs")))


def _local_name() -> str | None:
    """Return the name of the profile in the current directory: its own, else that of what it extends."""
    if not os.path.lexists(SITE_FILE):
        return None
    values = _read(_local())
    names = (name for name in (values.get("name"), values.get("extends")) if isinstance(name, str))
    return next((name for name in names if _NAME.fullmatch(name)), Path(SITE_FILE).stem)


def _local() -> _Found:
    return _Found(Path(SITE_FILE).absolute())


def _read(found: _Found) -> dict[str, Any]:
    path = found.path
    try:
        with open(path, encoding="utf-8", opener=_open) as file:
            if not found.ours:
                _refuse_foreign(os.fstat(file.fileno()), found)
            values = yaml.load(file, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SiteError(f"site profile {path} cannot be read: {reason}") from error
    except SiteError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SiteError(f"site profile {path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise SiteError(f"site profile {path}: the file must hold keys and values, such as 'extends: slurm'")
    return values


def _open(path: str, flags: int) -> int:
    # A pipe would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_foreign(status: os.stat_result, found: _Found) -> None:
    # A profile holds shell text that runs as the user. Another's file must be asked for by its path.
    if not stat.S_ISREG(status.st_mode):
        raise SiteError(f"site profile {found.path} is no file")
    if status.st_uid not in (os.geteuid(), 0) and not found.named:
        raise SiteError(
            f"site profile {found.path} belongs to user {status.st_uid}; copy it, or ask for it with"
            f" site={str(found.path.absolute())!r}"
        )
    if status.st_mode & 0o022:
        raise SiteError(
            f"site profile {found.path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o});"
            f" `chmod go-w {found.path}`"
        )


class _Loader(yaml.SafeLoader):
    """Reads plain data, without two traps of YAML 1.1: numbers in base 60 (1:30 is 90), and keys given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dict, unless a key is there twice."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?[0-9]+$"),
    "tag:yaml.org,2002:float": re.compile(r"^[-+]?[0-9]*\.[0-9]+$"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

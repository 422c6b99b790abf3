"""The format of a site profile: its model, and how a mapping is checked against it.

`sites` finds and reads the files. All descriptions below go into the JSON Schema and into docs/sites.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from .errors import AsyncFlowError, SiteError, nearest
from .task import KEYS, TaskDescription
from .units import parse_memory, parse_walltime

__all__ = [
    "Bytes",
    "Environment",
    "Filesystem",
    "NodeType",
    "Polling",
    "Profile",
    "Queue",
    "Seconds",
    "Site",
    "Source",
    "build",
    "by_qos",
    "schema",
]


class Seconds(float):
    """A duration, in the words of task descriptions."""


class Bytes(int):
    """A size of memory, in the words of task descriptions."""


Zero = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$")]
Line = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00\n\r]+$")]
Positive = Annotated[float, Meta(gt=0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in a profile."""


class Source(Part, frozen=True, kw_only=True):
    """A public page that facts come from."""

    url: Annotated[str, Meta(pattern="^https?://", description="address of a public page")]
    date: Annotated[date, Meta(description="day on which the facts were read")]
    facts: Annotated[Text | None, Meta(description="which ones")] = None


class NodeType(Part, frozen=True, kw_only=True):
    """A type of nodes."""

    cores: Annotated[Count | None, Meta(description="physical cores of a node")] = None
    threads_per_core: Annotated[Count, Meta(description="hardware threads of a core")] = 1
    gpus: Annotated[Zero, Meta(description="GPUs of a node, as the scheduler counts them")] = 0
    gpu_model: Annotated[Text | None, Meta(description="what kind of GPU")] = None
    memory: Annotated[Bytes | None, Meta(description="memory of a node, such as '512GB'")] = None
    count: Annotated[Count | None, Meta(description="how many such nodes there are")] = None
    constraint: Annotated[Line | None, Meta(description="value of `constraint` that picks them")] = None
    features: Annotated[Text | None, Meta(description="for people: processors and the like")] = None
    note: Annotated[Text | None, Meta(description="for people")] = None


class Queue(Part, frozen=True, kw_only=True):
    """A queue, a partition or a quality of service, and its limits for one job."""

    by: Annotated[Literal["queue", "qos"], Meta(description="key of a task description in which a task names it")] = (
        "queue"
    )
    partition: Annotated[
        Line | None, Meta(description="queue to which a quality of service belongs, where it is not the default one")
    ] = None
    max_walltime: Annotated[Seconds | None, Meta(description="longest walltime")] = None
    default_walltime: Annotated[Seconds | None, Meta(description="walltime of a job that asks for none")] = None
    min_nodes: Annotated[Count | None, Meta(description="fewest nodes")] = None
    max_nodes: Annotated[Count | None, Meta(description="most nodes")] = None
    min_cores: Annotated[Count | None, Meta(description="fewest cores")] = None
    max_cores: Annotated[Count | None, Meta(description="most cores")] = None
    max_gpus: Annotated[Zero | None, Meta(description="most GPUs")] = None
    max_queued: Annotated[Count | None, Meta(description="most jobs of a user in the queue")] = None
    max_running: Annotated[Count | None, Meta(description="most jobs of a user that run")] = None
    nodes: Annotated[tuple[Text, ...] | None, Meta(description="its node types; all of the site where left out")] = None
    shared: Annotated[bool | None, Meta(description="whether jobs share nodes")] = None
    exclusive: Annotated[bool | None, Meta(description="whether jobs get whole nodes only")] = None
    note: Annotated[Text | None, Meta(description="for people")] = None


class Filesystem(Part, frozen=True, kw_only=True):
    """A place for files."""

    path: Annotated[Text, Meta(description="directory; variables of the environment are filled in")]
    use: Annotated[Literal["sessions"], Meta(description="what it is good for")] = msgspec.field(
        default="sessions", name="for"
    )
    note: Annotated[Text | None, Meta(description="for people, such as when it is purged")] = None


class Environment(Part, frozen=True, kw_only=True):
    """What a task finds on a node."""

    setup: Annotated[tuple[Text, ...], Meta(description="lines of shell text before each task's own `pre_exec`")] = ()
    python: Annotated[
        Text | None, Meta(description="interpreter for function tasks on the nodes; the driver's where left out")
    ] = None


class Polling(Part, frozen=True, kw_only=True):
    """How gently the site wants its scheduler to be asked."""

    interval: Annotated[Positive | None, Meta(description="seconds between two looks at the queue at least")] = None
    submit_rate: Annotated[Positive | None, Meta(description="submissions a second at most")] = None
    max_queued: Annotated[Count | None, Meta(description="jobs in the queue at most; the others wait here")] = None


class Profile(Part, frozen=True, kw_only=True):
    """A site profile of asyncflow_hpc: one machine."""

    description: Annotated[Line, Meta(description="the machine in one line")]
    scheduler: Annotated[
        Literal["slurm", "pbs", "pbs_classic", "lsf", "local"], Meta(description="kind of its scheduler")
    ]
    name: Annotated[Text | None, Meta(description="its name, where that is not the file's")] = None
    extends: Annotated[
        Text | None, Meta(description="another profile, by name or path; what is said here is merged over it")
    ] = None
    sources: Annotated[tuple[Source, ...], Meta(description="public pages that the facts come from")] = ()
    account_required: Annotated[bool, Meta(description="whether a task must name an account")] = False
    launcher: Annotated[
        Line | None,
        Meta(description="what starts the ranks of a task, as `<launcher> -n <ranks>`; else the scheduler's own way"),
    ] = None
    defaults: Annotated[
        dict[str, Any], Meta(description="task description that holds where a task says nothing else")
    ] = msgspec.field(default_factory=dict)
    nodes: Annotated[dict[str, NodeType], Meta(description="types of nodes, by name; the first is the default")] = (
        msgspec.field(default_factory=dict)
    )
    queues: Annotated[dict[str, Queue], Meta(description="queues and their limits, by name")] = msgspec.field(
        default_factory=dict
    )
    filesystems: Annotated[tuple[Filesystem, ...], Meta(description="where sessions may lie, best first")] = ()
    environment: Annotated[Environment, Meta(description="what a task finds on a node")] = Environment()
    polling: Annotated[Polling, Meta(description="how gently the scheduler is to be asked")] = Polling()


class Site(Profile, frozen=True, kw_only=True):
    """A profile that was found and checked.

    Attributes:
        name: under which it was found.
        file: where it was read.
    """

    name: str
    file: str = ""


def build(values: Mapping[str, Any], name: str, file: str) -> Site:
    """Make a site of what its files say.

    Raises:
        SiteError: names the file, the key, and what would be right.
    """
    found = _part(Profile, values, file, "")
    site = Site(**{**{key: getattr(found, key) for key in found.__struct_fields__}, "name": name, "file": file})
    for key, problem in _contradictions(site):
        raise SiteError(f"site profile {file}: {key}: {problem}")
    return site


def by_qos(values: Mapping[str, Any], queues: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task description in which a queue that is a quality of service is named as one.

    Args:
        values: what one author says: a task, a backend's defaults, or one file's.
        queues: of the site, as `Queue` or as they are written.
    """
    found = dict(values)
    queue, qos = found.get("queue"), found.get("qos")
    if isinstance(queue, str) and "qos" not in found and _of(queues, queue, "by") == "qos":
        del found["queue"]
        found["qos"] = qos = queue
    partition = _of(queues, qos, "partition") if isinstance(qos, str) else None
    if partition is not None and "queue" not in found:
        found["queue"] = partition
    return found


def _of(queues: Mapping[str, Any], name: str, key: str) -> Any:
    queue = queues.get(name)
    return queue.get(key) if isinstance(queue, Mapping) else getattr(queue, key, None)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile, for editors."""
    made = msgspec.json.schema(Profile, schema_hook=lambda kind: {"type": ["string", "number"]})
    profile = made["$defs"]["Profile"]
    # What a profile extends may say it.
    profile["anyOf"] = [{"required": profile.pop("required")}, {"required": ["extends"]}]
    profile["properties"]["defaults"] |= {
        "properties": {item.name: {"description": item.metadata["help"]} for item in KEYS},
        "additionalProperties": False,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "asyncflow_hpc site profile", **made}


def _part(model: Any, values: Any, file: str, where: str) -> Any:
    """Convert a mapping, part by part: msgspec's own errors do not tell keys of mappings."""
    _check_mapping(values, file, where)
    fields = {item.encode_name: item for item in msgspec.structs.fields(model)}
    taken = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise SiteError(f"site profile {file}: unknown key {path!r}; {nearest(str(key), fields)}")
        taken[fields[key].name] = _value(fields[key].type, value, file, path)
    for key, item in fields.items():
        if item.required and item.name not in taken:
            raise SiteError(f"site profile {file}: {where + '.' if where else ''}{key} is missing")
    return model(**taken)


def _check_mapping(values: object, file: str, where: str) -> None:
    if not isinstance(values, Mapping):
        raise SiteError(f"site profile {file}: {where or 'the file'} must hold keys and values, not {values!r}")


def _value(kind: Any, value: Any, file: str, path: str) -> Any:
    part = _parts_in(kind)
    if get_origin(kind) is Annotated and (part is not None or get_origin(get_args(kind)[0]) is Literal):
        kind = get_args(kind)[0]
    if part is kind:
        return _part(part, value, file, path)
    if part is not None and get_origin(kind) is dict:
        _check_mapping(value, file, path)
        return {_name(key, file, path): _part(part, item, file, f"{path}.{key}") for key, item in value.items()}
    if part is not None and isinstance(value, (list, tuple)):
        return tuple(_part(part, item, file, f"{path}[{number}]") for number, item in enumerate(value))
    words = get_args(kind) if get_origin(kind) is Literal else ()
    if words and value not in words:
        raise SiteError(f"site profile {file}: {path} is {value!r}; {nearest(str(value), words)}")
    try:
        return msgspec.convert(value, kind, dec_hook=_own_words)
    except msgspec.ValidationError as error:
        raise SiteError(f"site profile {file}: {path}: {error}; it is {value!r}") from None


def _parts_in(kind: Any) -> Any:
    """Return the kind of part that a type is, or holds."""
    if isinstance(kind, type) and issubclass(kind, Part):
        return kind
    return next((part for part in map(_parts_in, get_args(kind)) if part is not None), None)


def _name(key: object, file: str, path: str) -> str:
    if not isinstance(key, str) or not key:
        raise SiteError(f"site profile {file}: {path}: a name must be text, write {key!r} in quotes")
    return key


def _own_words(kind: type, value: object) -> Any:
    try:
        return Seconds(parse_walltime(value)) if kind is Seconds else Bytes(parse_memory(value))
    except TypeError as error:
        raise ValueError(f"must be {error}") from None


def _contradictions(site: Site) -> Iterator[tuple[str, str]]:
    try:
        TaskDescription.from_dict(site.defaults)
    except AsyncFlowError as error:
        yield "defaults", str(error)
    try:
        if site.launcher is not None and not shlex.split(site.launcher):
            yield "launcher", "is empty"
    except ValueError as error:
        yield "launcher", f"{error} in {site.launcher!r}"
    for name, queue in site.queues.items():
        for kind in queue.nodes or ():
            if kind not in site.nodes:
                yield f"queues.{name}.nodes", f"{kind!r} is not in nodes; {nearest(kind, site.nodes or ['none'])}"
        for what in ("nodes", "cores"):
            least, most = getattr(queue, f"min_{what}"), getattr(queue, f"max_{what}")
            if least is not None and most is not None and least > most:
                yield f"queues.{name}.min_{what}", f"{least} is more than max_{what}, {most}"
        if queue.shared and queue.exclusive:
            yield f"queues.{name}.exclusive", "nodes cannot be shared, too"

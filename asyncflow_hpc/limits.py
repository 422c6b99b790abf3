"""What a site's queues and nodes can take: a task that breaks a limit is found out before it is submitted; no I/O.

Nothing is refused on a guess: where a task does not say on how many nodes its ranks lie, the fewest count against the
most that a queue takes, and one node for each rank against the fewest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from .errors import TaskDescriptionError, UnsupportedTaskError
from .task import TaskDescription

if TYPE_CHECKING:
    from .site_model import NodeType, Queue, Site

__all__ = ["check_limits", "queues_for", "unknown_queue"]

# Options of sbatch that say the same as a key of a task description, or change how much it asks for.
_SLURM_WORDS = {"queue": "partition", "qos": "qos", "account": "account"}
_SLURM_SIZES = frozenset(
    """
    nodes ntasks ntasks-per-node cpus-per-task mem mem-per-cpu mem-per-gpu gpus gpus-per-node gpus-per-task gres tres
    constraint time time-min exclusive nodelist nodefile cores-per-socket sockets-per-node
    """.split()  # noqa: SIM905
)
_LETTERS = {
    "pbs": {"queue": "q", "account": "A"},
    "lsf": {"queue": "q", "account": "P", "qos": "sla"},
}

# Variables in which the submit commands look for an account; source: sbatch(1), and bsub -P of LSF 10.1.
_ACCOUNTS = {"slurm": "SBATCH_ACCOUNT", "lsf": "LSB_DEFAULTPROJECT"}


class _Asked(NamedTuple):
    """What a task asks of the scheduler, native options read too.

    Attributes:
        sized: whether its size is what the description says.
    """

    queue: str | None
    qos: str | None
    account: str | None
    sized: bool


def check_limits(site: Site, description: TaskDescription, environment: Mapping[str, str]) -> None:
    """Refuse a task that its queue would not take.

    Args:
        description: with the site's defaults in it.
        environment: of the submit command.

    Raises:
        TaskDescriptionError: a limit of the queue, or an account that is missing.
        UnsupportedTaskError: the machine has no nodes for it.
    """
    asked, variable = _asked(site, description), _ACCOUNTS.get(site.scheduler)
    if site.account_required and not asked.account and not (variable and environment.get(variable)):
        raise TaskDescriptionError(
            f"site '{site.name}' needs an account: task_description={{'account': ...}}, or 'defaults: {{account: ...}}'"
            " in ./asyncflow.yaml"
        )
    if asked.sized and site.nodes and not any(fits(kind, description) for kind in site.nodes.values()):
        raise UnsupportedTaskError(
            f"site '{site.name}' has no nodes for this task, which needs {_need(description)}; there are"
            f" {'; '.join(_offer(name, kind) for name, kind in site.nodes.items())} (from {site.file})"
        )
    if asked.sized:
        _check_constraint(site, description)
    for key, name in (("queue", asked.queue), ("qos", asked.qos)):
        queue = site.queues.get(name) if name is not None else None
        if queue is None:
            continue
        if queue.by == key:
            problem = next(_problems(site, queue, description), None) if asked.sized else None
            if problem is not None:
                advice = _advice(site, description, key)
                raise TaskDescriptionError(
                    f"site '{site.name}': {key} '{name}' takes {problem}; {advice} (from {site.file})"
                )
        elif queue.by == "qos" and asked.qos is None:
            raise TaskDescriptionError(
                f"site '{site.name}': '{name}' is no queue but a quality of service: say qos='{name}' in place of queue"
            )


def _check_constraint(site: Site, description: TaskDescription) -> None:
    picked = _picked(site, description.constraint)
    if not picked or any(fits(kind, description) for kind in picked.values()):
        return
    others = {kind.constraint for kind in site.nodes.values() if kind.constraint and fits(kind, description)}
    advice = " or ".join(f"constraint='{other}'" for other in sorted(others)) or "another constraint, or none"
    raise TaskDescriptionError(
        f"site '{site.name}': constraint '{description.constraint}' picks nodes ({', '.join(picked)}) that have no room"
        f" for {_need(description)}; say {advice} (from {site.file})"
    )


def _picked(site: Site, constraint: str | None) -> dict[str, NodeType]:
    """Return the node types that a constraint picks; all where it picks none that is known."""
    picked = {name: kind for name, kind in site.nodes.items() if constraint and kind.constraint == constraint}
    return picked or site.nodes


def unknown_queue(site: Site, description: TaskDescription) -> str | None:
    """Return the queue or quality of service of a task that the profile does not know, if it knows any of that kind."""
    asked = _asked(site, description)
    for key, name in (("queue", asked.queue), ("qos", asked.qos)):
        if name is not None and name not in site.queues and any(queue.by == key for queue in site.queues.values()):
            return name
    return None


def queues_for(site: Site, description: TaskDescription) -> list[str]:
    """Return the names of the queues that would take a task, the site's default first."""
    default = site.defaults.get("qos"), site.defaults.get("queue")
    names = [name for name, queue in site.queues.items() if next(_problems(site, queue, description), None) is None]
    return sorted(names, key=lambda name: name not in default)


def fits(kind: NodeType, description: TaskDescription) -> bool:
    """Tell whether there are nodes of a type for a task."""
    nodes = _fewest_nodes(kind, description)
    return nodes is not None and nodes <= (kind.count or nodes)


def _asked(site: Site, description: TaskDescription) -> _Asked:
    words = _SLURM_WORDS if site.scheduler == "slurm" else _LETTERS.get(site.scheduler.partition("_")[0], {})
    native = {}
    for key, value in getattr(description, site.scheduler.partition("_")[0], {}).items():
        native[key.lstrip("-").replace("_", "-")] = value
    found = {key: str(native[word]) for key, word in words.items() if native.get(word) not in (None, False)}
    # To PBS, a reservation is a queue.
    queue = None if site.scheduler == "pbs" and description.reservation else description.queue
    return _Asked(
        found.get("queue", queue),
        found.get("qos", description.qos),
        found.get("account", description.account),
        site.scheduler != "slurm" or not _SLURM_SIZES & native.keys(),
    )


def _ranks_a_node(kind: NodeType, description: TaskDescription) -> int | None:
    """Say how many ranks fit on a node; None if nothing limits them."""
    wanted = (
        # Some sites count hardware threads as cores.
        (kind.cores and kind.cores * kind.threads_per_core, description.cores_per_rank),
        (kind.gpus, description.gpus_per_rank),
        (kind.memory, description.mem_per_rank),
    )
    rooms = [have // want for have, want in wanted if have is not None and want]
    return min(rooms) if rooms else None


def _fewest_nodes(kind: NodeType, description: TaskDescription) -> int | None:
    """Say on how many nodes of a type a task may lie at least; None if it cannot."""
    room, ranks = _ranks_a_node(kind, description), description.ranks
    each = description.ranks_per_node
    nodes = description.nodes
    if nodes is None and each is not None:
        nodes = math.ceil(ranks / each)
    if nodes is not None:
        fullest = math.ceil(ranks / nodes) if each is None else min(each, ranks)
        return nodes if room is None or fullest <= room else None
    if room is None:
        return 1
    return math.ceil(ranks / room) if room else None


def _problems(site: Site, queue: Queue, description: TaskDescription) -> Iterator[str]:
    """Say what a queue takes, and a task asks otherwise."""
    walltime, limit = description.walltime, queue.max_walltime
    if walltime is not None and limit is not None and walltime > limit:
        yield f"no more than {_clock(limit)} of walltime (max_walltime), and this task asks for {_clock(walltime)}"
    names = queue.nodes or tuple(site.nodes)
    picked = _picked(site, description.constraint)
    usable = [picked[name] for name in names if name in picked and fits(picked[name], description)]
    if names and not usable:
        at = f" with constraint '{description.constraint}'" if len(picked) < len(site.nodes) else ""
        yield f"tasks for its nodes ({', '.join(names)}), and none of these has room for {_need(description)}{at}"
        return
    fewest = min((_fewest_nodes(kind, description) or 1 for kind in usable), default=description.nodes or 1)
    most = description.nodes or max(description.ranks, fewest)
    # Where jobs get whole nodes, all of their cores may count.
    whole = max((most * (kind.cores or 0) * kind.threads_per_core for kind in usable), default=0)
    gpus = description.ranks * description.gpus_per_rank
    for what, least, upper, low, high in (
        ("nodes", queue.min_nodes, queue.max_nodes, fewest, most),
        ("cores", queue.min_cores, queue.max_cores, description.cores, max(description.cores, whole)),
        ("gpus", None, queue.max_gpus, gpus, gpus),
    ):
        if upper is not None and low > upper:
            yield f"no more than {upper} {what} (max_{what}), and this task needs {low}"
        if least is not None and high < least:
            yield f"{least} {what} and more (min_{what}), and this task has {high}"


def _advice(site: Site, description: TaskDescription, key: str) -> str:
    names = [name for name in queues_for(site, description) if site.queues[name].by == key]
    words = " or ".join(f"{key}='{name}'" for name in names)
    return f"it would go with {words}" if words else f"no other {key} of the site would take it"


def _need(description: TaskDescription) -> str:
    words = [f"{description.ranks} ranks" if description.ranks > 1 else "one rank"]
    if description.nodes is not None:
        words.append(f"on {description.nodes} nodes")
    elif description.ranks_per_node is not None:
        words.append(f"({description.ranks_per_node} on a node)")
    each = [f"{description.cores_per_rank} cores"]
    if description.gpus_per_rank:
        each.append(f"{description.gpus_per_rank} GPUs")
    if description.mem_per_rank is not None:
        each.append(_size(description.mem_per_rank))
    return f"{' '.join(words)} with {', '.join(each)} each"


def _offer(name: str, kind: NodeType) -> str:
    words = [
        f"{kind.cores} cores" if kind.cores else "",
        f"{kind.gpus} GPUs" if kind.gpus else "",
        _size(kind.memory) if kind.memory else "",
        f"{kind.count} of them" if kind.count else "",
    ]
    return f"{name}: {', '.join(word for word in words if word) or 'nothing known'}"


def _size(size: int) -> str:
    return f"{size / 1024**3:.4g} GB"


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"

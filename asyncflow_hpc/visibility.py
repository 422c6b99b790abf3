"""What a task can see of its description: that alone belongs to its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .task import KEYS, NAMESPACES, TaskDescription

__all__ = ["UNSEEN", "visible"]

UNSEEN = frozenset({
    "mem_per_rank", "exclusive", "walltime", "queue", "account", "reservation", "qos", "constraint", "retries",
    "ready_file", "ready_port", "on_oom",
})  # fmt: skip
"""Keys of a task description that decide where and for how long a task may run, who pays, and what becomes of it."""

# The same in the words of schedulers: long options of sbatch, letters and resources of qsub, options of bsub, and keys
# of RADICAL-Pilot.
_WORDS = {
    "slurm": """
        account acctg-freq begin bell clusters comment constraint container-comment contiguous deadline delay-boot
        dependency exclude exclusive extra hold job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
        mem-per-cpu mem-per-gpu nice no-bell no-kill no-requeue nodefile nodelist open-mode oversubscribe partition
        power prefer priority profile qos quiet reboot requeue reservation spread-job switches time time-min tmp
        use-min-nodes verbose wckey
    """,
    "pbs": """
        A a c h m M N p P q r u z cput file max_walltime mem min_walltime nice pcput pmem pvmem vmem walltime
    """,
    "lsf": "app_comment B b c C F G g H J Jd Lp m M N Ne P q r rn S sla sp t u U v W We w wt x XF",
    "radical_pilot": "metadata priority tags timeout",
}
_NATIVE = {namespace: frozenset(words.split()) for namespace, words in _WORDS.items()}

_DEFAULT = TaskDescription()
_SEEN = tuple([item.name for item in KEYS if item.name not in UNSEEN and item.name not in NAMESPACES])


def visible(description: TaskDescription, written: Mapping[str, Any], native_keys: frozenset[str]) -> dict[str, Any]:
    """Return what a task can see of its description, without what is as it is by default.

    Args:
        description: checked, with the defaults of the backend.
        written: by the user, native keys of the backend included.
        native_keys: which those are.
    """
    found = {name: getattr(description, name) for name in _SEEN}
    found = {name: value for name, value in found.items() if value != getattr(_DEFAULT, name)}
    for namespace in NAMESPACES:
        options = dict(getattr(description, namespace))
        if namespace == "radical_pilot":
            options |= {key: written[key] for key in native_keys if key in written}
        seen = {
            key: value for key, value in sorted(options.items()) if _plain(namespace, key) not in _NATIVE[namespace]
        }
        if seen:
            found[namespace] = seen
    return found


def _plain(namespace: str, key: str) -> str:
    name = key.lstrip("-")
    return name.replace("_", "-").lower() if namespace == "slurm" else name

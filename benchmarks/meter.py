"""Wall time, CPU time and resident memory of a stretch of code, read inside the measured process."""

from __future__ import annotations

import gc
import os
import resource
import time

from .model import Sample


def resident_bytes() -> int:
    """Resident memory of this process in bytes.

    The counters behind statm are kept per CPU and may be off by hundreds of KB, which hides a small growth: the exact
    sum of smaps_rollup is taken where the kernel has it, statm otherwise, and the peak where there is no /proc (macOS).
    """
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
            for line in rollup:
                if line.startswith("Rss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def children_cpu_seconds() -> float:
    """CPU time of the children that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Starts when made; `sample(n)` gives what n tasks have cost since."""

    def __init__(self) -> None:
        gc.collect()
        self._resident = resident_bytes()
        self._children = children_cpu_seconds()
        self._cpu = time.process_time()
        self._start = time.perf_counter()

    def growth(self) -> int:
        """Growth of the resident memory in bytes, garbage not yet collected included: that is what a user sees.

        Reading it walks the page tables, milliseconds in a big process: that time is taken out of the sample.
        """
        cpu, start = time.process_time(), time.perf_counter()
        growth = resident_bytes() - self._resident
        self._cpu += time.process_time() - cpu
        self._start += time.perf_counter() - start
        return growth

    def sample(self, n: int) -> Sample:
        seconds = time.perf_counter() - self._start
        cpu = time.process_time() - self._cpu
        children = children_cpu_seconds() - self._children
        return {
            "n": n,
            "seconds": seconds,
            "rate": n / seconds,
            "cpu_us": cpu / n * 1e6,
            "children_cpu_us": children / n * 1e6,
        }

    def memory(self, n: int, growth: int | None = None) -> Sample:
        """The memory figures; `growth` where it was read earlier than now."""
        size = self.growth() if growth is None else growth
        return {"rss_mb": size / 1e6, "rss_bytes_per_task": size / n}

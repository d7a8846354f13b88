"""How many CPU cores this process may use: of the machine, of its affinity, of the control groups of its container."""

import os
from collections.abc import Iterator
from pathlib import Path


def free_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1, whatever else runs on the machine.

    They are the physical ones (two hardware threads of a core share its units of arithmetic) among the CPUs of the
    process's affinity, but no more than the quota of its control group or of a group around that, rounded down.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_words(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or (str(n),) for n in cpus}
    return max(1, int(min([len(cores), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group of this process grants, of both versions of Linux' control groups."""
    mounts = root / "sys/fs/cgroup"
    for line in (root / "proc/self/cgroup").read_text().splitlines() if (root / "proc/self/cgroup").exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for folder in (mounts / controllers / each for each in (group, *group.parents)):
            quota, period = (_words(folder / f"cpu.cfs_{word}_us") for word in ("quota", "period"))
            limits = _words(folder / "cpu.max") or quota + period
            if len(limits) == 2 and all(word.isdecimal() for word in limits) and int(limits[1]):
                yield int(limits[0]) / int(limits[1])


def _words(file: Path) -> tuple[str, ...]:
    """The words of a small file of the system; none where it cannot be read."""
    try:
        return tuple(file.read_text().split())
    except (OSError, ValueError):
        return ()

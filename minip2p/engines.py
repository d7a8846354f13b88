"""Where units are made: in this process, in one of several processes with static shards, or by the workers of Ray."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .files import lock_folder, remove_unfinished
from .units import Finished, Work, Worker, existing

RETRIES = 3
"""how often Ray makes a unit again whose worker died"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that iterates over the units as they are finished."""

    total: int
    """units of this call"""
    done: int
    """of these, how many were finished before"""
    units: Iterator[Finished]

    def __iter__(self) -> Iterator[Finished]:
        return self.units


def run_local(work: Work, names: Sequence[str], **_: Any) -> Iterator[Finished]:
    """Make the units one after the other in this process. A run that cannot start raises ValueError at once."""
    worker = Worker(work)
    worker.open()
    return map(worker.make, names)


def run_ray(work: Work, names: Sequence[str], *, workers: int | None, gpu: bool) -> Iterator[Finished]:
    """Make the units by actors of Ray, in the order in which they are finished.

    Each actor has one GPU, or without GPUs one CPU, and loads the networks once. Ray hands out the units, restarts an
    actor that dies, and gives it its unit again. Without RAY_ADDRESS, a local cluster is started and stopped again.
    """
    ray = import_ray()
    from ray.exceptions import RayActorError, RayTaskError
    from ray.util import ActorPool

    ours = not ray.is_initialized()
    if ours:
        start_ray(ray, workers)
    try:
        cluster = ray.cluster_resources()
        gpus = int(cluster.get("GPU", 0)) if gpu else 0
        n = min(workers or gpus or int(cluster["CPU"]), max(1, len(names)))
        resources = {"num_cpus": 1, "num_gpus": int(gpus > 0), "max_restarts": -1, "max_task_retries": RETRIES}
        plain = Work(folder=work.folder, names=(), load=work.load, header=work.header)
        actors = [ray.remote(**resources)(Worker).remote(plain, os.getcwd()) for _ in range(n)]
        ray.get(actors[0].open.remote())  # a run that cannot start fails here
        yield from ActorPool(actors).map_unordered(_make, names)
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"a Ray worker died {RETRIES + 1} times while it made the same unit ({reason}); the finished units are kept"
        ) from error
    finally:
        if ours:
            ray.shutdown()


ENGINES = {"local": run_local, "ray": run_ray}


def run(
    work: Work, *, engine: str = "local", shard: tuple[int, int] = (0, 1), workers: int | None = None, gpu: bool = True
) -> Run:
    """Make all units that do not exist yet. Each is yielded after it was written.

    engine: a key of ENGINES. shard (i, n), i from 0: only units i, i + n, ...; processes with different
    shards need not know of each other. workers, gpu: how many workers Ray starts, and whether each gets a GPU.

    Raises ValueError if the folder holds another run's units, or another process that makes all units is at work in it;
    OSError that names a unit that cannot be written.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; expected {' or '.join(ENGINES)}")
    (i, n), header = shard, work.folder / work.header
    if not 0 <= i < n:
        raise ValueError(f"shard {i} of {n}: expected one from 0 to {n - 1}")
    names = work.names[i::n]
    with ExitStack() as stack:
        stack.enter_context(lock_folder(work.folder, shared=n > 1))
        there = existing(work.folder)
        if (found := there.intersection(work.names)) and not header.exists():
            raise ValueError(f"{work.folder} holds {min(found)} but no {work.header}: choose another --output")
        todo = [name for name in names if name not in there]
        units = ENGINES[engine](work, todo, workers=workers, gpu=gpu)
        lock = stack.pop_all()  # until the last unit is made

    def making() -> Iterator[Finished]:
        with lock:
            yield from units
            remove_unfinished(work.folder, set(names))  # of Ray's workers that died

    return Run(total=len(names), done=len(names) - len(todo), units=making())


def _make(actor: Any, name: str) -> Any:
    return actor.make.remote(name)


def import_ray() -> Any:
    """The library. Raises ValueError if it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray, which is missing: pip install ray") from None
    return ray


def start_ray(ray: Any, workers: int | None) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start one on this machine."""
    options: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS", "local"), "log_to_driver": False}
    if options["address"] == "local":
        cpus = max(workers or 1, os.cpu_count() or 1)
        options |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": cpus}
    ray.init(**options, logging_level="ERROR")


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """ "3/8" -> (2, 8): units 2, 10, 18, ...; torchrun's ranks (RANK, WORLD_SIZE) divide a shard further.

    Raises ValueError for other texts.
    """
    i, n = 0, 1
    if text is not None:
        parts = text.split("/")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
            raise ValueError(f"--shard {text!r}: expected I/N, from 1/N to N/N, e.g. 1/8 ... 8/8")
        i, n = int(parts[0]) - 1, int(parts[1])
    if {"RANK", "WORLD_SIZE"} <= set(environment):
        rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return i * ranks + rank, n * ranks
    return i, n


def local_device(device: str) -> str:
    """The device of this process: under torchrun, "auto" is the GPU of the rank."""
    if device == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device

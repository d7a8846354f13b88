"""How many cores a process may use, on Linux and where nothing is known."""

import os

import pytest

from minip2p.cores import free_cores


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The files of a machine of 8 cores with two hardware threads each: CPUs 0 and 8 are one core."""
    for n in range(16):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{n}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{n % 8},{n % 8 + 8}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    return tmp_path


def write(root, groups, **files):
    """The process's control groups, and files of theirs: path with __ for / -> content."""
    (root / "proc/self/cgroup").write_text(groups)
    for path, content in files.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def test_physical_cores_of_the_affinity(root, monkeypatch):
    assert free_cores(root) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 8, 3})
    assert free_cores(root) == 2


def test_the_quota_of_a_group_and_of_those_around_it(root):
    write(root, "0::/slice/job", slice__job__cpu_max="max 100000\n", slice__cpu_max="350000 100000\n")
    assert free_cores(root) == 3
    write(root, "0::/slice/job", slice__job__cpu_max="20000 100000\n")
    assert free_cores(root) == 1


def test_control_groups_of_the_first_version(root):
    groups = "5:memory:/a\n4:cpu,cpuacct:/a\n3:cpuset:/\n0::/\n"
    write(root, groups, **{"cpu,cpuacct__a__cfs_quota_us": "500000", "cpu,cpuacct__a__cfs_period_us": "100000"})
    assert free_cores(root) == 5
    write(root, groups, **{"cpu,cpuacct__a__cfs_quota_us": "-1\n"})
    assert free_cores(root) == 8


def test_a_container_names_a_group_that_it_does_not_see(root):
    """Its own quota is then at the top of what it sees."""
    write(root, "0::/docker/0123", cpu_max="200000 100000")
    assert free_cores(root) == 2


@pytest.mark.parametrize("content", ["", "max", "0 0", "-1 100000", "a b c", "\udcff"])
def test_a_strange_quota_is_none(root, content):
    write(root, "0::/\n", cpu_max="")
    (root / "sys/fs/cgroup/cpu.max").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert free_cores(root) == 8


def test_where_nothing_is_known_all_cpus_are_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert free_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert free_cores(tmp_path) == 1


def test_here_there_is_at_least_one_core():
    assert 1 <= free_cores() <= (os.cpu_count() or 1)

"""Pure units: the same bytes from one process and from shards, however often they are killed; test_ray.py has Ray."""

import errno
import json
import multiprocessing
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import contents
from helpers_units import HEADER, NAMES, work

from minip2p import units
from minip2p.engines import local_device, parse_shard, run
from minip2p.files import remove_unfinished
from minip2p.units import cpu_threads, open_header


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert [unit.name for unit in run(work(folder))] == NAMES
    return contents(folder)


# Engines


def test_units_are_files_or_folders_and_come_with_counts_and_notes(tmp_path, whole):
    opened = run(work(tmp_path / "new" / "folder"))
    assert (opened.total, opened.done) == (12, 0)
    made = list(opened)
    assert [unit.counts["things"] for unit in made] == list(range(12))
    assert [unit.notes for unit in made if unit.notes] == [("note 0003",)]
    assert contents(tmp_path / "new" / "folder") == whole
    assert set(whole) == {"run.json"} | {f"{i:04d}" if i % 2 else f"{i:04d}/{f}" for i in range(12) for f in "ab"}


def test_shards_divide_the_units_and_add_up_to_the_same_bytes(tmp_path, whole):
    made = [[unit.name for unit in run(work(tmp_path), shard=(i, 3))] for i in (2, 0, 1)]
    assert made == [NAMES[2::3], NAMES[0::3], NAMES[1::3]] and contents(tmp_path) == whole
    again = run(work(tmp_path), shard=(1, 3))
    assert (again.total, again.done, list(again)) == (4, 4, []) and contents(tmp_path) == whole


def test_shards_at_the_same_time_make_the_same_bytes(tmp_path, whole):
    processes = [multiprocessing.get_context("fork").Process(target=finish, args=(tmp_path, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and contents(tmp_path) == whole


def finish(folder: Path, shard: int) -> None:
    list(run(work(folder, rest=0.01), shard=(shard, 3)))


def test_a_missing_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="--engine ray needs Ray, which is missing: pip install ray"):
        list(run(work(tmp_path), engine="ray"))


def test_wrong_engines_and_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown engine 'slurm'; expected local or ray"):
        run(work(tmp_path), engine="slurm")
    with pytest.raises(ValueError, match="shard 2 of 2"):
        run(work(tmp_path), shard=(2, 2))


def test_shards_count_from_one_and_ranks_divide_them():
    assert parse_shard(None, {}) == (0, 1) and parse_shard("3/8", {}) == (2, 8)
    assert parse_shard(None, {"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)
    found = [parse_shard(f"{i}/3", {"RANK": str(rank), "WORLD_SIZE": "2"}) for i in (1, 2, 3) for rank in (0, 1)]
    assert found == [(i, 6) for i in range(6)]
    for wrong in ("0/3", "4/3", "1", "1/2/3", "a/b", "1/0", "-1/3"):
        with pytest.raises(ValueError, match="expected I/N, from 1/N to N/N"):
            parse_shard(wrong, {})


def test_a_rank_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert local_device("auto") == "cuda:2" and local_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("auto") == "auto"


# Interrupted runs


def slow_run(out: str) -> None:
    """A run that is slow while it writes, so that a kill finds it in the middle of everything."""
    write = Path.write_bytes

    def slow_write(path: Path, data: bytes) -> int:
        write(path, data[:10])
        time.sleep(0.01)
        return write(path, data)

    Path.write_bytes = slow_write
    list(run(work(Path(out), rest=0.005)))


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path, whole):
    """Resumed each time, the files are those of an uninterrupted run, and no temporary file is left."""
    context, rng, kills, parts = multiprocessing.get_context("fork"), random.Random(4), 0, 0
    for number in range(200):
        out = tmp_path / f"{number}"
        while kills < 15:
            process = context.Process(target=slow_run, args=(str(out),))
            process.start()
            process.join(rng.uniform(0.0, 0.15))
            process.kill()
            process.join()
            assert process.exitcode in (0, -9)
            kills += process.exitcode == -9
            parts += any(name.startswith(".") for name in units.existing(out))
            if process.exitcode == 0:
                break
        list(run(work(out)))
        assert contents(out) == whole
        if kills >= 15:
            break
    assert kills == 15 and parts


def test_only_what_is_missing_is_made_again(tmp_path, whole):
    list(run(work(tmp_path)))
    (tmp_path / "0005").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert [unit.name for unit in run(work(tmp_path))] == ["0005"]
    assert contents(tmp_path) == whole and all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_unit_that_another_process_finished_meanwhile_is_left_alone(tmp_path, whole):
    opened = run(work(tmp_path), shard=(0, 2))
    next(opened.units)
    for shard in (0, 1):
        list(run(work(tmp_path), shard=(shard, 2)))
    assert all(not unit.counts for unit in opened) and contents(tmp_path) == whole


def test_temporary_files_of_these_units_are_removed_and_no_others(tmp_path):
    ours, others = (
        (".0001.x7_.part", ".run.json.abc.part", ".0002.abc.old"),
        (".x.abc.part", "0001.part", ".0003.a.txt"),
    )
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / ".0004.abc.part").mkdir()
    remove_unfinished(tmp_path, {*NAMES, "run.json"})
    assert units.existing(tmp_path) == {*others, "0002"}, "what was about to be replaced is back"
    remove_unfinished(tmp_path / "nowhere", NAMES)


def test_a_full_disk_names_the_unit_and_leaves_nothing_half_written(tmp_path, whole, monkeypatch):
    write, calls = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) in (6, 9):  # the second file of a folder; a file
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("0002", "0003"):
        with pytest.raises(OSError, match=r"cannot be written: no space left on device") as error:
            list(run(work(tmp_path)))
        assert error.value.errno == errno.ENOSPC and Path(error.value.filename) == tmp_path / name
        assert contents(tmp_path) == {file: whole[file] for file in contents(tmp_path)}
    list(run(work(tmp_path)))
    assert contents(tmp_path) == whole


# The header


def test_another_runs_folder_is_refused_by_the_first_difference(tmp_path, whole):
    list(run(work(tmp_path, NAMES[:2])))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="run.json belongs to a run with steps 2, this one has 3: choose another"):
        run(work(tmp_path, header=HEADER | {"steps": 3}))
    with pytest.raises(ValueError, match='with scale null, this one has "a"'):
        run(work(tmp_path, header=HEADER | {"scale": "a"}))
    assert contents(tmp_path) == before
    run(work(tmp_path, header=HEADER | {"made_with": "another host"}))
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="holds 0000 but no run.json"):
        run(work(tmp_path))


def test_a_damaged_header_is_named(tmp_path):
    for text in ("{", "3", ""):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json: (not JSON|expected an object)"):
            run(work(tmp_path))


@pytest.mark.parametrize("threads", [0, -1, 10**9, 2.5, "2", [2], True])
def test_a_header_s_threads_are_a_number_of_threads(tmp_path, threads):
    (tmp_path / "run.json").write_text(json.dumps(HEADER | {"threads": threads}))
    with pytest.raises(ValueError, match=r"run\.json: threads"):
        run(work(tmp_path))


def test_two_runs_in_one_folder(tmp_path, whole):
    """The second says so, before it loads a network; shards may be made at once."""
    first = run(work(tmp_path))
    next(first.units)
    (tmp_path / ".0009.abc.part").write_bytes(b"of the first")
    for shard in ((0, 1), (1, 2)):
        with pytest.raises(ValueError, match="another process is writing in it; wait for it, or choose another folder"):
            run(work(tmp_path), shard=shard)
    assert (tmp_path / ".0009.abc.part").exists()
    list(first)
    shards = [run(work(tmp_path), shard=(i, 3)) for i in range(3)]
    assert not any(list(shard) for shard in shards) and contents(tmp_path) == whole
    abandoned = run(work(tmp_path))
    del abandoned
    assert not list(run(work(tmp_path)))


def test_the_number_of_threads_belongs_to_the_run(tmp_path, monkeypatch):
    """Without a number, a resumed run takes that of its header, for as long as a unit takes."""
    threads = [5]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert open_header(tmp_path / "run.json", HEADER) == 5
    threads[:] = [3]
    assert open_header(tmp_path / "run.json", HEADER) == 5
    with cpu_threads(5):
        assert threads[-1] == 5
    assert threads[-1] == 3
    with pytest.raises(ValueError, match="threads 5, this one has 3"):
        open_header(tmp_path / "run.json", HEADER | {"threads": 3})


def test_two_processes_that_begin_together_agree_on_one_header(tmp_path, monkeypatch):
    """A header that cannot be moved to its place because another process cleaned up is no error if one exists."""

    def taken(path: Path, values: dict) -> None:
        path.write_text(json.dumps(values))
        raise OSError(errno.ENOENT, "cannot be written", str(path))

    monkeypatch.setattr(units, "write_json", taken)
    assert open_header(tmp_path / "run.json", HEADER | {"threads": 1}) == 1


def test_relative_paths_mean_the_same_in_a_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = units.Worker(replace(work(Path("out")), names=()), str(tmp_path))
    monkeypatch.chdir("/")
    worker.make("0001")
    assert (tmp_path / "out" / "0001").is_file()

"""The one atomic writer: files and folders are there whole or not at all, whatever interrupts the writing."""

import contextlib
import multiprocessing
import os
import resource
import signal
import stat

import pytest
import torch

from minip2p import files
from minip2p.checkpoints.files import write_safetensors, write_torch
from minip2p.files import lock_folder, read_json, replace_file, replace_folder, write_file


def fail(part):
    if part.is_dir():
        part = part / "half"
    part.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for data, stored in (("é\n", b"\xc3\xa9\n"), (b"\x00\r\n", b"\x00\r\n")):
        write_file(path, data)
        assert path.read_bytes() == stored and list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").touch()
    write_safetensors(tmp_path / "weights", {"a": torch.zeros(1)}, {})
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (path, tmp_path / "plain", tmp_path / "weights")}
    assert len(modes) == 1


def test_a_folder_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "a"
    for name in ("one", "two"):
        replace_folder(path, lambda part, name=name: (part / name).touch())
        assert [file.name for file in path.iterdir()] == [name] and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_a_failure_leaves_what_was_there(replace, old, tmp_path):
    path = tmp_path / "a"
    if old:
        path.write_text("old") if replace is replace_file else (path / "old").mkdir(parents=True)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=r"cannot be written: no space left on device: '.*/a'") as error:
        replace(path, fail)
    assert error.value.errno == 28 and list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError("not a number")])
def test_other_errors_pass_unchanged(replace, stop, tmp_path):
    def interrupted(part):
        raise stop

    with pytest.raises(stop if isinstance(stop, type) else ValueError):
        replace(tmp_path / "a", interrupted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", ["safetensors", "torch"])
def test_weights_that_do_not_fit_on_the_disk(write, tmp_path):
    """Both libraries raise errors of their own for a full disk, here a limit on the size of files."""
    tensors, path = {"a": torch.zeros(500_000)}, tmp_path / "a"
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot be written: .*/a'"):
            write_safetensors(path, tensors, {}) if write == "safetensors" else write_torch(path, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_locked_folder_is_written_by_one_process(tmp_path):
    with lock_folder(tmp_path / "new" / "a") as _, pytest.raises(ValueError, match="new/a: another process is writing"):
        with lock_folder(tmp_path / "new" / "a"):
            pass
    assert not (tmp_path / "new").exists()  # nothing was written into it
    with lock_folder(tmp_path), lock_folder(tmp_path / "b"):  # another folder
        (tmp_path / "b" / "file").touch()
    with lock_folder(tmp_path):
        assert (tmp_path / "b" / "file").exists()


def test_shards_share_a_folder(tmp_path):
    unfinished = tmp_path / ".a.x.part"
    unfinished.touch()
    with lock_folder(tmp_path, shared=True):
        assert not unfinished.exists()
        unfinished.touch()
        with lock_folder(tmp_path, shared=True):
            assert unfinished.exists()  # the other shard may be writing it
        with pytest.raises(ValueError, match="another process"), lock_folder(tmp_path):
            pass
    with lock_folder(tmp_path), pytest.raises(ValueError, match="another process"), lock_folder(tmp_path, shared=True):
        pass
    assert not unfinished.exists()


def test_a_lock_ends_with_its_process_and_not_with_a_child_of_it(tmp_path):
    read, write = os.pipe()
    if not (parent := os.fork()):
        with lock_folder(tmp_path):
            if not os.fork():  # as a worker that reads data, whose parent is killed
                os.write(write, str(os.getpid()).encode())
            signal.pause()
    child = int(os.read(read, 100))
    try:
        with pytest.raises(ValueError, match="another process"), lock_folder(tmp_path):
            pass
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with lock_folder(tmp_path):
            os.kill(child, 0)  # it still runs
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 5000 + b"]" * 5000, "not JSON .recursion limit exceeded"),
        (b'{"a": ' * 1000 + b"1" + b"}" * 1000, "not JSON .recursion limit exceeded"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": [-Infinity]}', "not JSON"),
        (b'{"a": [1e999]}', "holds numbers that are not finite"),
        (b'{"a": ' + b"9" * 9999 + b"}", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": 1} {"a": 2}', "not JSON"),
        (b"\x00\x00", "not JSON"),
        (b"[1]", "expected an object, found a list"),
        (b"null", "expected an object"),
    ],
)
def test_what_is_no_object_of_json_is_refused_in_one_line(data, message, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"a.json: {message}") as error:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_may_be_encoded_as_windows_does(encoding, tmp_path):
    (tmp_path / "a.json").write_bytes('{"é": [1, 2.5, null]}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"é": [1, 2.5, None]}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_process_killed_at_any_move_leaves_the_old_or_the_new_folder(exchange, tmp_path, monkeypatch):
    """Killed just before or after each system call that moves something; the next run leaves nothing else."""

    class Killed(BaseException):
        pass

    def killing(move):
        def moving(*names):
            moves.append("before")
            if len(moves) == last:
                raise Killed
            result = move(*names)
            moves.append("after")
            if len(moves) == last:
                raise Killed
            return result

        return moving

    rename, swap = os.replace, files._exchange
    for last in range(1, 8):
        path, moves = tmp_path / str(last) / "a", []
        (path / "old").mkdir(parents=True)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "replace", killing(rename))
            patch.setattr(files, "_exchange", killing(swap) if exchange else lambda *_: False)
            patch.setattr("shutil.rmtree", lambda *_, **__: None)
            replace_folder(path, lambda part: (part / "new").mkdir())
        files.remove_unfinished(path.parent, {"a"})
        assert [each.name for each in path.iterdir()] in (["old"], ["new"]) and list(path.parent.iterdir()) == [path]


def test_shards_that_begin_together_all_get_their_lock(tmp_path):
    """Each is alone for a moment while it removes what was left; the others wait for that."""

    def shard() -> None:
        for _ in range(200):
            with lock_folder(tmp_path, shared=True):
                pass

    context = multiprocessing.get_context("fork")
    shards = [context.Process(target=shard) for _ in range(4)]
    for each in shards:
        each.start()
    for each in shards:
        each.join()
    assert [each.exitcode for each in shards] == [0] * 4

"""The one atomic writer: files and folders are there whole or not at all, whatever interrupts the writing."""

import resource
import signal
import stat

import pytest
import torch

from minip2p.checkpoints.files import write_safetensors, write_torch
from minip2p.files import replace_file, replace_folder, write_file


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
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


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

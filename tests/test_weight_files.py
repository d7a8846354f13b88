"""Files of weights: no code in them is run, broken and foreign ones are refused in one line, memory stays low."""

import contextlib
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from helpers_training import env

from minip2p import checkpoints
from minip2p.checkpoints.files import open_weights, write_safetensors
from minip2p.config import Config

VAE = {"quant.bias": torch.arange(8.0), "encoder.conv_in.weight": torch.randn(16, 3, 3, 3)}
FILES = [("minip2p", "m.safetensors"), ("original", "o.safetensors"), ("original", "o.ckpt")]


def save(path, layout, vae=VAE):
    checkpoints.write(path, layout, Config(), {"vae": vae})
    return path


class Evil:
    def __init__(self, function, *args, state=None):
        self.made = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.made


class Callback:
    """An object of a training library in a checkpoint: a class with state."""

    def __init__(self):
        self.best, self.kind = torch.ones(3), torch.nn.Linear

    def __setstate__(self, state):
        raise AssertionError("code of a checkpoint was run")

    def __getstate__(self):
        return self.__dict__


class Dict(dict):
    """Pickled by NEWOBJ, SETITEMS and BUILD."""


def exploits(mark):
    touch = f"open({str(mark)!r}, 'w').close()"
    return {
        "system": Evil(os.system, f"touch {mark}"),
        "exec": Evil(exec, touch),
        "eval": Evil(eval, touch),
        "nested": {"a": [({"b": Evil(exec, touch)},)]},
        "chain": Evil(getattr, Evil(__import__, "os"), "system"),
        "built-in": Evil(map, exec, [touch]),
        "state": Evil(Path, str(mark), state=Evil(exec, touch)),
        "subclass": Dict(a=Evil(exec, touch)),
        "callback": Callback(),
        "class": torch.nn.Linear,
        "in a tensor": Evil(torch._utils._rebuild_tensor_v2, Evil(exec, touch), 0, (1,), (1,), False, {}),
    }


REFUSED = {"system", "in a tensor"}
"""torch's unpickler blocks the module posix; a tensor without a storage is damaged"""


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", exploits("x"))
def test_no_code_of_a_file_is_run(name, old, tmp_path):
    """A zip's tensors are read and the objects beside them are inert, or the file is refused; old files are refused."""
    mark, tensors = tmp_path / "mark", {"a": torch.randn(3, 2).T, "b": torch.nn.Parameter(torch.ones(2).half())}
    value = {"hyper_parameters": exploits(mark)[name], "state_dict": tensors, "epoch": 3, "word": "x"}
    if name == "in a tensor":
        tensors["c"] = value.pop("hyper_parameters")
    torch.save(value, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old)
    if old or name in REFUSED:
        with pytest.raises(checkpoints.CheckpointError, match=r"a\.ckpt") as error:
            open_weights(tmp_path / "a.ckpt")
        assert "\n" not in str(error.value)
    else:
        weights = open_weights(tmp_path / "a.ckpt")
        assert weights.tensors.keys() == {"a", "b"} and weights.metadata == {"word": "x"}
        assert all(torch.equal(weights.tensors[name], t) for name, t in tensors.items())
    assert not mark.exists()
    if name == "system":  # the exploit works when the file is loaded unsafely
        torch.load(tmp_path / "a.ckpt", weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_stand_ins_do_not_outlive_the_reading(old, tmp_path):
    """torch keeps the names that it allows in one set for the whole process."""
    before = set(torch.serialization.get_safe_globals())
    torch.save(
        {"state_dict": {"a": torch.ones(2)}, "c": Callback()}, tmp_path / "a", _use_new_zipfile_serialization=not old
    )
    with contextlib.suppress(checkpoints.CheckpointError):
        open_weights(tmp_path / "a")
    assert set(torch.serialization.get_safe_globals()) == before


def test_files_from_before_torch_1_6(tmp_path):
    """With tensors alone they are read; with objects beside them the error says how to convert them."""
    tensors = {"a": torch.randn(3, 2).T, "b": torch.ones(2).half()}
    torch.save({"state_dict": tensors}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    read = open_weights(tmp_path / "old.ckpt").tensors
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], t) for name, t in tensors.items())
    torch.save({"state_dict": tensors, "c": Callback()}, tmp_path / "more.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(checkpoints.CheckpointError, match="torch < 1.6.*weights_only=False.*torch.save"):
        open_weights(tmp_path / "more.ckpt")


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch MARK'\ntR.",
        b"(S'touch MARK'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch MARK'\no.",
        b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch MARK\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
        b"\x80\x02cbuiltins\nobject\n)\x81}X\x0c\x00\x00\x00__reduce_ex_K\x01sb.",
        b"\x82\x01.",
        b"Pos.system\n.",
    ],
)
def test_bare_pickle_programs(program, tmp_path, monkeypatch):
    """Every opcode that can call: REDUCE, INST, OBJ, NEWOBJ, STACK_GLOBAL, BUILD, extensions, persistent ids."""
    monkeypatch.chdir(tmp_path)
    for name, write in (("zip", zipped), ("old", lambda path, data: path.write_bytes(data))):
        write(tmp_path / name, program)
        with pytest.raises(checkpoints.CheckpointError, match=name):
            checkpoints.read(tmp_path / name)
    assert not (tmp_path / "MARK").exists()


DEEP = b"\x85" * 1_000_000  # a tuple in a tuple in a tuple


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02})" + DEEP + b"K\x01s.",
        b"\x80\x02\x8f()" + DEEP + b"\x90.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n)" + DEEP + b"tQ.",
        b"\x80\x02)" + DEEP + b"X\x01\x00\x00\x00a\x93.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02K\x01." * 5,
        b"\x80\x02}X\x01\x00\x00\x00aI" + b"9" * 9000 + b"\ns.",
    ],
    ids=["key", "set", "storage", "name", "marks", "int", "long"],
)
def test_programs_that_would_end_the_process(program, tmp_path):
    """Values nested too deeply to be hashed or printed, and numbers that are too long."""
    for name, write in (("zip", zipped), ("old", lambda path, data: path.write_bytes(data))):
        write(tmp_path / name, program)
        with pytest.raises(checkpoints.CheckpointError, match=name):
            checkpoints.read(tmp_path / name)


@pytest.mark.parametrize(
    "shape, stride, offset",
    [
        ((1000,), (1,), 0),
        ((2,), (10**12,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), 5),
        ((2,), (1,), -3),
        (("a",), (1,), 0),
        (2, 1, 0),
        ((2**62, 2**62), (1, 1), 0),
        ((2,), (1, 1), 0),
    ],
)
def test_a_tensor_stays_within_its_storage(shape, stride, offset, tmp_path):
    storage = torch.ones(3)._typed_storage()
    torch.save(
        {"a": Evil(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {})}, tmp_path / "a.ckpt"
    )
    with pytest.raises(checkpoints.CheckpointError, match="damaged"):
        open_weights(tmp_path / "a.ckpt")


# Small files that ask for much


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(n: int) -> bytes:
    data = pickle.encode_long(n)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape: bytes, stride: bytes, n: int = 4) -> bytes:
    """The program that makes a tensor in the storage "0" of n floats."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(n) + b"tQ"
    arguments = b"(" + storage + number(0) + shape + stride + b"\x89" + named("collections", "OrderedDict") + b")RtR"
    return named("torch._utils", "_rebuild_tensor_v2") + arguments


def called(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + b"(" + b"".join(arguments) + b"tR"


GOOD, SIZE = tensor(numbers(4), numbers(1)), 20_000
LONG, AGAIN = b"](" + b"K\x01" * SIZE + b"er\0\0\1\0", b"j\0\0\1\0"  # a list that is kept, and taken again
KEYS = b"}(" + b"".join(number(i) + b"N" for i in range(SIZE)) + b"ur\0\0\1\0"
DOUBLED = called("_codecs", "encode", text("ab"), text("latin1"))
for _ in range(40):
    DOUBLED = called("_codecs", "encode", DOUBLED, text("hex"))
ASKING = {
    "one list as many shapes": [LONG, *[tensor(AGAIN, AGAIN)] * 300],
    "many sets of one list": [LONG, *[called("builtins", "set", AGAIN)] * 300],
    "many states of one dict": [KEYS, *[named("collections", "OrderedDict") + b")R" + AGAIN + b"b"] * 300],
    "expanded strides": [tensor(numbers(10**6, 10**6), numbers(0, 0))],
    "all of Stable Diffusion": [tensor(numbers(1280, 1280, 3, 3), numbers(0, 0, 0, 0))] * 700,
    "one storage many times": [tensor(numbers(SIZE), numbers(1), n=SIZE)] * 300,
    "a bytearray": [called("builtins", "bytearray", number(8 * 10**9))],
    "a bytearray of Python 2": [called("__builtin__", "bytearray", number(8 * 10**9))],
    "a bytearray by NEWOBJ": [named("builtins", "bytearray") + number(8 * 10**9) + b"\x85\x81"],
    "a call by a call": [called("torch._tensor", "_rebuild_from_type_v2", named("builtins", "bytearray"), b"N", b"NN")],
    "a tensor without a storage": [called("torch", "FloatTensor", number(10**10))],
    "a storage": [called("torch.storage", "UntypedStorage", number(10**10))],
    "doubled text": [DOUBLED],
    "a meta tensor": [called("torch._utils", "_rebuild_meta_tensor_no_storage", b"N", numbers(9**9, 9**9), b"NN")],
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", ASKING)
def test_a_small_file_cannot_ask_for_much_memory(name, old, tmp_path):
    """It is refused in one line before anything is made, in half a second and 50 MB."""
    items = [GOOD, *ASKING[name]]
    program = b"\x80\x02}(" + b"".join(text(f"a{i}") + item for i, item in enumerate(items)) + b"u."
    if old:
        before = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        program = program.replace(b"tQ", b"NtQ")  # a storage has one word more
        data = b"".join([*before, program, pickle.dumps(["0"], 2), struct.pack("<q", 4), bytes(4 * SIZE)])
        (tmp_path / "a.ckpt").write_bytes(data)
    else:
        zipped(tmp_path / "a.ckpt", program, data=bytes(4 * SIZE))
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(checkpoints.CheckpointError, match=r"a\.ckpt: (its|cut)") as error:
        open_weights(tmp_path / "a.ckpt")
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 2 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_zip_that_expands_or_overlaps(tmp_path):
    program = b"\x80\x02}(" + text("a") + tensor(numbers(10**7), numbers(1), n=10**7) + b"u."
    zipped(tmp_path / "a.ckpt", program, data=bytes(4 * 10**7), compress=True)
    with pytest.raises(checkpoints.CheckpointError, match="its members are compressed or overlap"):
        open_weights(tmp_path / "a.ckpt")
    zipped(tmp_path / "b.ckpt", program, data=bytes(4000))
    whole = (tmp_path / "b.ckpt").read_bytes()
    size = struct.pack("<II", 4000, 4000)  # in the directory, where the members' sizes are believed
    (tmp_path / "b.ckpt").write_bytes(whole.replace(size, struct.pack("<II", 10**9, 10**9)))
    with pytest.raises(checkpoints.CheckpointError, match=r"b\.ckpt"):
        open_weights(tmp_path / "b.ckpt")


def test_an_index_that_lists_itself(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(checkpoints.CheckpointError, match="a JSON text, not weights"):
        open_weights(index)


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b", "/dev/zero", "..", "", "a" * 5000, "pipe"])
def test_names_of_shards(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises((ValueError, OSError)) as error:
        open_weights(index)
    assert isinstance(error.value, OSError) or isinstance(error.value, checkpoints.CheckpointError)


def test_names_are_shown_in_one_line(tmp_path):
    write_safetensors(tmp_path / "a", {"\x1b[31m\nname" + "x" * 9000: torch.zeros(1)}, {})
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.read(tmp_path / "a")
    assert str(error.value).isprintable() and len(str(error.value)) < 2100


def zipped(path, program, data=b"", compress=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in (("data.pkl", program), ("version", "3\n"), ("byteorder", "little"), ("data/0", data)):
            archive.writestr(f"archive/{name}", content)


def test_torchscript_archives_are_refused(tmp_path):
    """OpenAI publishes CLIP in this form, which holds code; the error says how to convert it."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4))
    with warnings.catch_warnings(action="ignore"):  # torch deprecates the form
        torch.jit.trace(module, torch.zeros(1, 3)).save(tmp_path / "a.pt")
        with pytest.raises(checkpoints.CheckpointError, match="TorchScript.*torch.jit.load"):
            open_weights(tmp_path / "a.pt")
        torch.save(torch.jit.load(tmp_path / "a.pt").state_dict(), tmp_path / "b.pt")
    tensors = open_weights(tmp_path / "b.pt").tensors
    assert all(torch.equal(tensors[name], t) for name, t in module.state_dict().items())


def test_the_same_content_gives_the_same_bytes(tmp_path):
    """Of any dtype, transposed, tied, empty; the library itself orders the metadata at random."""
    a = torch.randn(6, 4)
    tensors = {"a": a, "tied": a, "T": a.T, "empty": torch.zeros(0, 3), "one": torch.tensor(3.0)}
    tensors |= dict(zip("qkv", torch.randn(9, 4).chunk(3), strict=True))
    tensors |= {"fp8": a.to(torch.float8_e4m3fn), "bf16": a.bfloat16(), "int": torch.arange(3), "bool": a > 0}
    words = {key: f'{key}"\n\té€\x01\x7f😀' for key in ("format", "kind", "config", "tokenizer", "provenance")}
    for i in range(4):
        write_safetensors(tmp_path / f"{i}", tensors, words)
        assert (tmp_path / f"{i}").read_bytes() == (tmp_path / "0").read_bytes()
    weights = open_weights(tmp_path / "0")
    assert weights.metadata == words and weights.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert weights.tensors[name].dtype == tensor.dtype and torch.equal(weights.tensors[name], tensor)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_changing_a_tensor_leaves_its_file(name, tmp_path):
    save(tmp_path / name, "original")
    whole = (tmp_path / name).read_bytes()
    for tensor in open_weights(tmp_path / name).tensors.values():
        tensor.zero_()
    assert (tmp_path / name).read_bytes() == whole


# Broken and foreign files


BROKEN = {
    "empty": b"",
    "a few bytes": b"abc",
    "zeros": bytes(5000),
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(900),
    "html": b"<!DOCTYPE html><html>not found</html>",
    "text": b"hello " * 100,
    "json": b'{"a": 1}',
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265146304\n",
    "pickle": pickle.dumps({"a": 1}),
    "zip without pickle": b"PK\3\4" + bytes(500),
    "huge header": struct.pack("<Q", 1 << 62) + b"{" + bytes(100),
    "no json": struct.pack("<Q", 8) + b"{a: 1}  ",
    "nested json": struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    "beyond its end": struct.pack("<Q", 62)
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[900,904]}}    '
    + bytes(4),
    "wrong size": struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}        ' + bytes(4),
    "negative": struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-8,-4]}}      ' + bytes(4),
    "odd type": struct.pack("<Q", 62) + b'{"a":{"dtype":"Q99","shape":[1],"data_offsets":[0,4]}}        ' + bytes(4),
    "other tensors": struct.pack("<Q", 62)
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}        '
    + bytes(4),
}


@pytest.mark.parametrize("name", BROKEN)
def test_foreign_and_damaged_files_are_refused_in_one_line(name, tmp_path):
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("layout, name", FILES)
def test_a_file_cut_short_anywhere_is_refused(layout, name, tmp_path):
    whole = save(tmp_path / name, layout).read_bytes()
    for length in [1, 7, 8, 9, *range(100, len(whole), len(whole) // 25), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(checkpoints.CheckpointError, match="cut"):
            checkpoints.read(tmp_path / "cut")


def test_flipped_bytes_are_an_error_or_other_weights(tmp_path):
    """Never another kind of exception, whichever byte is damaged (150 seeded samples)."""
    rng = random.Random(0)
    for layout, name in FILES:
        whole = bytearray(save(tmp_path / name, layout, {"quant.bias": VAE["quant.bias"]}).read_bytes())
        for _ in range(150):
            broken = bytearray(whole)
            broken[rng.randrange(len(broken))] = rng.randrange(256)
            (tmp_path / "broken").write_bytes(broken)
            try:
                checkpoints.read(tmp_path / "broken")
            except checkpoints.CheckpointError as error:
                assert "broken" in str(error)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.ckpt"):
        checkpoints.read(tmp_path / "nothing.ckpt")
    with pytest.raises(checkpoints.CheckpointError, match="no known layout"):
        checkpoints.read(tmp_path)


def test_shards_stay_in_their_folder(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for name, reason in (("../x.safetensors", "outside its folder"), ("y.safetensors", "missing")):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(checkpoints.CheckpointError, match=reason):
            open_weights(index)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("conditioner.embedders.0.x", "XL"),
        ("lora_unet_down", "LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "folder"),
        ("model.diffusion_model.label_emb.0.0.weight", "pooled"),
    ],
)
def test_checkpoints_of_other_models_are_named(name, reason, tmp_path):
    write_safetensors(tmp_path / "a", {name: torch.zeros(1)}, {})
    with pytest.raises(checkpoints.CheckpointError, match=reason):
        checkpoints.read(tmp_path / "a")


# Memory


LEAN = """
import gc, sys, torch
from pathlib import Path
from torch import nn
from minip2p.checkpoints import assign
from minip2p.checkpoints.files import open_weights

def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

for file in sys.argv[1:]:
    for dtype in (torch.float32, torch.float16):
        with torch.device("meta"):
            net = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(50))
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts again
        before = peak()
        assign(net, open_weights(Path(file)).tensors, dtype=dtype, source=file)
        total = sum(layer.weight.max().item() for layer in net)
        print(dtype.itemsize, total, peak() - before)
        del net
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_loading_peaks_at_the_weights_and_the_mapped_file(tmp_path):
    """200 MiB on disk. The peak is the converted weights and the file's pages, within 20 %."""
    tensors = {f"{i}.weight": torch.full((1024, 1024), float(i)) for i in range(50)}
    torch.save({"state_dict": tensors}, tmp_path / "a.ckpt")
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    command = [sys.executable, "-c", LEAN, tmp_path / "a.ckpt", tmp_path / "a.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env=env())
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stderr
    for line in lines:
        itemsize, total, peak = map(float, line.split())
        kept = 50 * itemsize
        assert total == sum(range(50)) and kept < peak < 1.2 * (200 + (kept if itemsize == 2 else 0)), line

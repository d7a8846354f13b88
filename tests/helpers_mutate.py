"""Damage to files, such as happens and such as somebody would do on purpose.

A tree is a dict of relative path -> bytes (or a Special). `damage(tree, seed)` changes one file of it: most changes
respect its format (another type in its JSON, another count, size or offset), so that they reach what lies behind the
parser; the others cut, flip or exchange bytes.
"""

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tree = dict[str, "bytes | Special"]


@dataclass(frozen=True)
class Special:
    """What is no regular file: a pipe, a folder, or a link to `target`."""

    kind: str
    target: str = ""


def write_tree(tree: Tree, folder: Path) -> None:
    """Write the files."""
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.kind == "pipe":
            os.mkfifo(path)
        elif content.kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(content.target)


def read_tree(path: Path, name: str) -> Tree:
    """A file, or the files below a folder, under this name."""
    if path.is_file():
        return {name: path.read_bytes()}
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return {f"{name}/{each.relative_to(path)}": each.read_bytes() for each in files}


# Values

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 65_535, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.5, 1e-300, 1e308)
WORDS = (
    "",
    " ",
    "x",
    "None",
    "nan",
    "../../secret/secret.txt",
    "/dev/zero",
    "/etc/passwd",
    "~",
    "a\0b",
    "\x1b[31mred\x1b[2J",
    "\u202eabc",
    "\ud800",
    "a\nb\tc\r",
    "é" * 300,
    "x" * 70_000,
    "make it night",
    "[" * 2000,
    "${HOME}",
    "%s%n",
    "float16",
    "F32",
    "euler",
    "cpu",
)


def odd_value(rng: random.Random, old: Any = None) -> Any:
    """A value that is not expected: of another type, too large, empty, deep."""
    if isinstance(old, (int, float)) and not isinstance(old, bool) and rng.random() < 0.5:
        if abs(old) > 1e15:
            return 0
        return rng.choice((old + 1, old - 1, -old, old * 2, old * 1000, old // 2, float(old), str(old), [old]))
    if isinstance(old, str) and rng.random() < 0.4:
        return rng.choice((old + "x", old[:-1], old.upper(), [old], {old: old}, len(old), old + "\0", " " + old))
    if isinstance(old, list) and rng.random() < 0.5:
        return rng.choice((old + old[:1], old[:-1], old[::-1], old * 50, {"0": old}, [old], old and old[0]))
    pick = rng.randrange(8)
    if pick == 0:
        return rng.choice((None, True, False, float("nan"), float("inf"), float("-inf")))
    if pick <= 3:
        return rng.choice(NUMBERS)
    if pick <= 5:
        return rng.choice(WORDS)
    if pick == 6:
        return rng.choice(([], {}, [[]], {"": {}}, [None] * 3, {"a": [1, {"b": None}]}, [10**9] * 4, [0] * 5000))
    deep: Any = 1
    for i in range(rng.choice((5, 90, 400))):
        deep = [deep] if i % 2 else {"a": deep}
    return deep


def odd_json(value: Any, rng: random.Random) -> Any:
    """The JSON value with one change somewhere in it."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(child, (dict, list)) and len(places) < 3000:
                walk(child)

    value = json.loads(json.dumps(value))
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.05:
        return odd_value(rng, value)
    walk(value)
    node, key = rng.choice(places)
    pick = rng.random()
    if pick < 0.6:
        node[key] = odd_value(rng, node[key])
    elif pick < 0.75:
        del node[key]
    elif isinstance(node, dict):
        if pick < 0.9:
            node[rng.choice(WORDS) if rng.random() < 0.4 else f"{key}x"] = node.pop(key)
        else:
            other = rng.choice(list(node))
            node[key], node[other] = node[other], node[key]
    else:
        node.insert(key, odd_value(rng, node[key]))
    return value


def dumped(value: Any, rng: random.Random | None = None) -> bytes:
    """As JSON; sometimes with NaN, a byte order mark, a repeated key or as UTF-16."""
    text = json.dumps(value, ensure_ascii=rng is None or rng.random() < 0.7)
    data = text.encode("utf-8", "surrogatepass")
    if rng is not None and rng.random() < 0.05:
        data = rng.choice((b"\xef\xbb\xbf" + data, text.encode("utf-16", "surrogatepass"), data + data, data[:-1]))
    return data


# Bytes


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut, flipped, repeated, inserted, removed or zeroed."""
    if not data:
        return rng.randbytes(rng.choice((1, 8, 100)))
    at, n = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64, 1000))
    if rng.random() < 0.4:
        at = min(at, rng.choice((8, 64, 512)))  # headers are at the start
    pick = rng.randrange(7)
    if pick == 0:
        return data[: rng.choice((0, 1, at, len(data) - 1))]
    if pick == 1:
        return data[:at] + rng.randbytes(n) + data[at + n :]
    if pick == 2:
        return data[:at] + rng.randbytes(n) + data[at:]
    if pick == 3:
        return data[:at] + data[at + n :]
    if pick == 4:
        return data[:at] + bytes(n) + data[at + n :]
    if pick == 5:
        return data[:at] + b"\xff" * min(n, 8) + data[at + min(n, 8) :]
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def odd_numbers(data: bytes, rng: random.Random, upto: int = 4096) -> bytes:
    """A number of 2, 4 or 8 bytes at the start of the file replaced: sizes, counts and offsets are such numbers."""
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q"))
    size = struct.calcsize(kind)
    if len(data) <= size:
        return odd_bytes(data, rng)
    at = rng.randrange(min(upto, len(data) - size))
    top = 2 ** (8 * size) - 1
    value = rng.choice((0, 1, 2, top, top // 2, top // 2 + 1, 13_300, 65_500, 10**5, len(data), len(data) * 2, 10**7))
    return data[:at] + struct.pack(kind, min(value, top)) + data[at + size :]


# Formats


def odd_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header changed (a shape, a type, an offset, a name, the config in its metadata), or the numbers."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8 or data[8:9] != b"{":
        return odd_bytes(data, rng)
    body, pick = data[8 + length :], rng.random()
    if pick < 0.1:  # other numbers: not a number, infinite, huge
        at = rng.randrange(max(1, len(body) // 4)) * 4
        value = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -1e38)))
        return data[: 8 + length] + body[:at] + value * rng.choice((1, 1000)) + body[at + 4 :]
    if pick < 0.15:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 10**8))) + data[8:]
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return odd_bytes(data, rng)
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and metadata and pick < 0.6:
        key = rng.choice(list(metadata))
        try:
            inner = json.loads(metadata[key])
        except (ValueError, TypeError):
            inner = metadata[key]
        changed = odd_json(inner, rng) if isinstance(inner, (dict, list)) else odd_value(rng, inner)
        metadata[key] = changed if isinstance(changed, str) else json.dumps(changed)
        if rng.random() < 0.1:
            metadata[key] = changed  # no text
    else:
        names = [name for name in header if name != "__metadata__"]
        if not names:
            return odd_bytes(data, rng)
        name = rng.choice(names)
        tensor, what = header[name], rng.randrange(6)
        if what == 0:
            header[rng.choice((f"{name}x", f"module.{name}", f"_orig_mod.{name}", *WORDS))] = header.pop(name)
        elif what == 1:
            del header[name]
        elif what == 2 and isinstance(tensor, dict):
            tensor["dtype"] = rng.choice(("F16", "BF16", "I64", "U8", "BOOL", "F64", "F8_E4M3", "X", 3, None))
        elif what == 3 and isinstance(tensor, dict) and isinstance(tensor.get("shape"), list):
            tensor["shape"] = odd_json(tensor["shape"], rng)
        elif what == 4 and isinstance(tensor, dict) and isinstance(tensor.get("data_offsets"), list):
            tensor["data_offsets"] = odd_json(tensor["data_offsets"], rng)
        else:
            other = rng.choice(names)
            header[name], header[other] = header[other], header[name]
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def odd_zip(data: bytes, rng: random.Random) -> bytes:
    """A member of the archive (a file of torch.save) left out, renamed, compressed, damaged, or doubled."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
    except Exception:
        return odd_bytes(data, rng)
    pickled = next((name for name in members if name.endswith("data.pkl")), None)
    name = pickled if pickled and rng.random() < 0.7 else rng.choice(list(members))
    pick, how, out = rng.randrange(8), zipfile.ZIP_STORED, io.BytesIO()
    if pick == 0:
        del members[name]
    elif pick == 1:
        members[rng.choice((f"{name}x", "../up", "/abs", f"x/{name}"))] = members.pop(name)
    elif pick == 2:
        how = zipfile.ZIP_DEFLATED
    elif pick == 3:
        members[name] = odd_bytes(members[name], rng)
    else:
        members[name] = odd_pickle(members[name], rng) if name == pickled else odd_bytes(members[name], rng)
    with zipfile.ZipFile(out, "w", how) as file:
        for each, content in members.items():
            file.writestr(each, content)
    return out.getvalue()


GLOBALS = (
    b"cos\nsystem\n",
    b"cbuiltins\nexec\n",
    b"csubprocess\nPopen\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ctorch\nload\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"cpytorch_lightning.callbacks\nEarlyStopping\n",
)


def odd_pickle(data: bytes, rng: random.Random) -> bytes:
    """Another number (a shape, a stride, an offset), another global, another program in a pickle."""
    pick = rng.randrange(4)
    if pick == 0:  # BININT1 and BININT2 are the shapes and strides of small tensors
        places = [i for i, byte in enumerate(data) if byte in b"KMJ"]
        if places:
            at = rng.choice(places)
            size = {ord("K"): 1, ord("M"): 2, ord("J"): 4}[data[at]]
            value = rng.choice((0, 1, 2, 255, 2 ** (8 * size) - 1, 2 ** (8 * size - 1)))
            return data[: at + 1] + value.to_bytes(8, "little")[:size] + data[at + 1 + size :]
    if pick == 1:
        old = b"ctorch._utils\n_rebuild_tensor_v2\n"
        if old in data:
            return data.replace(old, rng.choice(GLOBALS), rng.choice((1, -1)))
    if pick == 2:
        program = rng.choice(GLOBALS) + b"X\x0b\x00\x00\x00touch  MARK\x85R0"
        return data[:2] + program + data[2:]
    return odd_bytes(data, rng)


def odd_png(data: bytes, rng: random.Random) -> bytes:
    """A chunk of a PNG changed, with its checksum right: sizes in the header, texts, pixels, order."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return odd_bytes(data, rng)
    i, pick = rng.randrange(len(chunks)), rng.randrange(6)
    kind, content = chunks[i]
    if pick == 0:
        kind, content = chunks[i := 0]
        sizes = (0, 1, 2**31 - 1, 13_300, 17_000, 65_535, 2**32 - 1)
        content = struct.pack(">II", rng.choice(sizes), rng.choice(sizes)) + content[8:]
    elif pick == 1:
        kind, content = chunks[i := 0]
        content = content[:8] + bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
    elif pick == 2:
        content = odd_bytes(content, rng)
    elif pick == 3:
        bomb = zlib.compress(bytes(50_000_000), 9)
        chunks.insert(1, rng.choice(((b"zTXt", b"minip2p\0\0" + bomb), (b"iCCP", b"x\0\0" + bomb), (b"tEXt", b"\0"))))
    elif pick == 4:
        chunks.append(chunks.pop(i))
    else:
        chunks.insert(i, chunks[i])
    if pick in (0, 1, 2):
        chunks[i] = (kind, content)
    out = data[:8]
    for kind, content in chunks:
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


def odd_text(data: bytes, rng: random.Random) -> bytes:
    """A table or a list of lines: cells, separators, quotes, encodings, lines."""
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    i = rng.randrange(len(lines))
    separator = next((c for c in ("\t", ";", ",") if c in lines[0]), " ")
    cells, pick = lines[i].split(separator), rng.randrange(12)
    if pick <= 3:
        cells[rng.randrange(len(cells))] = str(odd_value(rng, rng.choice(cells)))[:100_000]
        lines[i] = separator.join(cells)
    elif pick == 4:
        lines[i] = separator.join(cells + ["more"] * rng.choice((1, 3))) if rng.random() < 0.5 else cells[0]
    elif pick == 5:
        lines[0] = rng.choice((lines[0].upper(), f" {lines[0]} ", lines[0] + separator, "", lines[-1]))
    elif pick == 6:
        lines = [line.replace(separator, rng.choice((";", "\t", "|", ","))) for line in lines]
    elif pick == 7:
        lines[i] = '"' + lines[i]
    elif pick == 8:
        lines = lines * rng.choice((2, 3)) if rng.random() < 0.5 else lines[::-1]
    elif pick == 9:
        lines.insert(i, rng.choice(WORDS))
    elif pick == 10:
        lines = lines[: i + (i == 0)]
    text, odd = "\n".join(lines), "surrogatepass"
    if pick == 11:
        codings = ("utf-16", "utf-8-sig", "utf-32", "cp500")
        return text.encode(rng.choice(codings), "replace")
    return text.encode("utf-8", odd)


def odd_lines(data: bytes, rng: random.Random) -> bytes:
    """JSON lines: a value in one of them, or the lines themselves."""
    lines = data.splitlines()
    if not lines or rng.random() < 0.3:
        return odd_text(data, rng)
    i = rng.randrange(len(lines))
    with_errors = lines[i]
    try:
        lines[i] = dumped(odd_json(json.loads(with_errors), rng), rng)
    except ValueError:
        return odd_text(data, rng)
    return b"\n".join(lines) + b"\n"


def odd_tar(data: bytes, rng: random.Random) -> bytes:
    """A field of a member's header: its name, its size (negative, huge), its kind; with the checksum right."""
    starts = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not starts or rng.random() < 0.2:
        return odd_bytes(data, rng)
    at = rng.choice(starts)
    header, pick = bytearray(data[at : at + 512]), rng.randrange(4)
    if pick == 0:
        sizes = (b"77777777777\0", b"00000000000\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000001\0", b"9x")
        header[124:136] = rng.choice(sizes).ljust(12, b"\0")
    elif pick == 1:
        names = (
            b"../up.jpg",
            b"/etc/passwd",
            b"",
            b"a/" * 40,
            b"\x1b[31m",
            b"\xff\xfe.json",
            header[:100].strip(b"\0"),
        )
        header[0:100] = bytes(rng.choice(names)).ljust(100, b"\0")
    elif pick == 2:
        header[156:157] = rng.choice((b"2", b"1", b"3", b"5", b"6", b"x", b"L", b"S", b"\0"))
        header[157:257] = b"../../secret/secret.txt".ljust(100, b"\0")
    else:
        header[rng.randrange(512)] ^= 0xFF
        return data[:at] + bytes(header) + data[at + 512 :]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def odd_json_file(data: bytes, rng: random.Random) -> bytes:
    try:
        return dumped(odd_json(json.loads(data), rng), rng)
    except (ValueError, RecursionError):
        return odd_bytes(data, rng)


FORMATS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".safetensors": odd_safetensors,
    ".ckpt": odd_zip,
    ".bin": odd_zip,
    ".pt": odd_zip,
    ".json": odd_json_file,
    ".jsonl": odd_lines,
    ".csv": odd_text,
    ".tsv": odd_text,
    ".txt": odd_text,
    ".png": odd_png,
    ".tar": odd_tar,
}
"""a file's ending -> a change that respects its format; other endings have numbers replaced"""
FOREIGN = (
    b"",
    b"\0" * 100,
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    b"%PDF-1.4\n",
    b"<!doctype html><p>not found",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xd8\xff\xe0" + b"\0" * 50,
    b"GIF89a\xff\xff\xff\xff\0\0\0",
    b"\x80\x04cos\nsystem\n(S'touch MARK'\ntR.",
    b"P6\n100000 100000\n255\n",
    b"P6 13000 13000 255\n",
    b"PK\3\4" + b"\0" * 60,
    b"RIFF\xff\xff\xff\xffWEBPVP8X",
    b"II*\0\x08\0\0\0\xff\xff",
    b"{}",
    b"[]",
    b"null",
)
"""bytes of other formats"""
SPECIALS = (
    Special("pipe"),
    Special("folder"),
    Special("link", "/dev/zero"),
    Special("link", "absent"),
    Special("link", "."),
    Special("link", "/dev/full"),
)


def damage(tree: Tree, seed: int, only: Callable[[str], bool] = lambda name: True) -> tuple[Tree, str]:
    """The tree with one file changed, among those whose name `only` accepts; and what was done."""
    rng = random.Random(seed)
    names = [name for name in sorted(tree) if only(name) and isinstance(tree[name], bytes)]
    if not names:
        return tree, "nothing"
    name, pick = rng.choice(names), rng.random()
    data = tree[name]
    change = FORMATS.get(Path(name).suffix.lower(), odd_numbers)
    if pick < 0.72:
        return tree | {name: change(data, rng)}, f"{change.__name__} of {name}"
    if pick < 0.86:
        return tree | {name: odd_bytes(data, rng)}, f"odd_bytes of {name}"
    if pick < 0.92:
        i = rng.randrange(len(FOREIGN))
        return tree | {name: FOREIGN[i]}, f"FOREIGN[{i}] as {name}"
    if pick < 0.95:
        i = rng.randrange(len(SPECIALS))
        return tree | {name: SPECIALS[i]}, f"{SPECIALS[i]} as {name}"
    if pick < 0.975 and len(tree) > 1:
        return {each: content for each, content in tree.items() if each != name}, f"without {name}"
    other = rng.choice(sorted(each for each in tree if isinstance(tree[each], bytes)))
    return tree | {name: tree[other]}, f"{other} as {name}"

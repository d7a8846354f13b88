"""A command in a forked process that is watched: what it printed, wrote and started, its time and its memory.

An audit hook sees every file that Python opens for writing, every program and connection, and every object that a
pickle names. So a fault is noticed even where the command itself ended well. It can also kill the process at one of
these moments.

The processes are forked from a server, which imports everything once: a test process may have threads by then, or have
trained, after which PyTorch refuses to train in a fork.
"""

import atexit
import contextlib
import faulthandler
import importlib
import io
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image
from safetensors import safe_open

from minip2p.cli import main

SECONDS = 5
"""of the CPU that a command may take; it may wait for 4 times as long, because other processes run, too"""
MEMORY = 1 << 30
"""bytes that a command may take besides what the test process has"""
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
}
"""audit event -> which of its arguments are paths that are changed"""
LOADED = (
    *(f"minip2p.cli.{verb}" for verb in ("edit", "generate", "sdedit", "pair", "invert", "attention", "show", "info")),
    *(f"minip2p.cli.{verb}" for verb in ("convert", "instructions", "pairs", "filter", "import_pairs", "check")),
    *(f"minip2p.cli.{verb}" for verb in ("precompute", "evaluate", "train", "figures", "tiny.evaluate", "tiny.scene")),
    "minip2p.data.import_pairs",
    "minip2p.tinyworld.training.stages",
    "minip2p.training.memory",
    "datasets",
    "matplotlib.font_manager",
    *(f"matplotlib.backends.backend_{kind}" for kind in ("agg", "svg")),
    "torch._dynamo",
    "einops._torch_specific",
)
"""what the server imports, so that no command has to"""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Ran:
    """What a command did."""

    status: int | None
    """exit status; None if it was killed, or ended by a traceback"""
    out: str
    err: str
    faults: list[str] = field(default_factory=list)
    """what no command may do, one line each"""
    peak: int = 0
    """bytes of memory"""
    seconds: float = 0.0
    """of the CPU"""
    changes: int = 0
    """how often it opened a file for writing, renamed or removed one, made a folder, ..., in its own folder"""


def watched(
    words: list[str],
    folder: Path,
    *,
    private: Collection[Path] = (),
    caches: Collection[Path] = (),
    seconds: int = SECONDS,
    kill_at: int | None = None,
) -> Ran:
    """Run `minip2p WORDS` in `folder`, where alone it may write (and in `caches`). `private`: what it may not read.

    kill_at: kill it before the change of a file or folder with this number, from 0; its status is then None.
    """
    places = [os.path.realpath(place) for place in (folder, *caches, "/dev/null")]
    request = [words, places, list(map(os.path.realpath, private)), seconds, kill_at]
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Ran(**json.loads(server.stdout.readline()))


@cache
def _server() -> subprocess.Popen:
    here = Path(__file__).resolve()
    env = os.environ | {"PYTHONPATH": str(here.parent.parent), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(here)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    atexit.register(server.stdin.close)  # it ends at the end of its input
    return server


def serve() -> None:
    """Run the commands that come as lines."""
    for name in LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    Image.init()
    with contextlib.redirect_stdout(io.StringIO()):
        main(["info", "--help"])  # the parser imports more when it parses
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(asdict(_run(*json.loads(line)))) + "\n")
        answers.flush()


def _run(words: list[str], places: list[str], secrets: list[str], seconds: int, kill_at: int | None) -> Ran:
    printed, ends = [os.memfd_create(name) for name in ("out", "err")], os.pipe()
    before = _resident()
    pid = os.fork()
    if pid == 0:
        os.close(ends[0])
        _child(words, printed, ends[1], places, secrets, seconds, kill_at)
    os.close(ends[1])
    report, late = _receive(ends[0], 4 * seconds)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, how, usage = os.wait4(pid, 0)
    out, err = map(_content, printed)
    ended = report is not None
    report = report or {"status": None, "faults": [], "changes": 0}
    faults = list(dict.fromkeys(report["faults"]))
    peak, took = max(0, usage.ru_maxrss * 1024 - before), usage.ru_utime + usage.ru_stime
    if late or (os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGXCPU):
        faults.append(f"hang: more than {seconds} s {_where(err)}")
    elif os.WIFSIGNALED(how) and kill_at is None:
        faults.append(f"crash: {signal.Signals(os.WTERMSIG(how)).name} {_where(err)}")
    elif not ended and kill_at is None:
        faults.append(f"crash: it ended with status {os.WEXITSTATUS(how)}, and not by its own will")
    if peak > MEMORY:
        faults.append(f"memory: {peak >> 20} MB")
    return Ran(report["status"], out, err, faults, peak, took, report["changes"])


def _child(
    words: list[str],
    printed: list[int],
    end: int,
    places: list[str],
    secrets: list[str],
    seconds: int,
    kill_at: int | None,
) -> None:
    """The forked process; it never returns."""
    faults: list[str] = []
    changes: list[str] = []
    status: int | None = None
    try:
        os.chdir(places[0])
        os.environ.pop("MINIP2P_DEBUG", None)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, target in enumerate(printed, 1):
            os.dup2(target, number)
        sys.stdout = io.TextIOWrapper(open(1, "wb", 0, closefd=False), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), "utf-8", "backslashreplace", write_through=True)
        sys.dont_write_bytecode = True
        _offline(places[1:-1])
        _limit(seconds)
        sys.addaudithook(_hook(faults, changes, places, secrets, kill_at))
        status = main(words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/minip2p/" in f.filename][-1:] or [frame]
        place = f"{ours[0].filename.rpartition('/minip2p/')[2]}:{ours[0].lineno} {ours[0].name}"
        faults.append(f"traceback: {type(error).__name__} at {place}: {str(error)[:200]}")
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            os.write(end, json.dumps({"status": status, "faults": faults[:20], "changes": len(changes)}).encode())
        os._exit(0)


def _offline(caches: list[str]) -> None:
    """Hugging Face's libraries ask no server, and write to our cache."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": caches[0]} if caches else {}
    for name in ("datasets.config", "huggingface_hub.constants"):
        if module := sys.modules.get(name):
            module.HF_HUB_OFFLINE = True
            module.HF_DATASETS_CACHE = Path(caches[0]) if caches else None


def _limit(seconds: int) -> None:
    """Limits of CPU time, of memory (with room, so that what is too much is seen) and of the size of a file."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(2, all_threads=False)
    faulthandler.register(signal.SIGXCPU, 2, all_threads=False, chain=True)
    faulthandler.dump_traceback_later(4 * seconds - 1, file=2)


def _hook(
    faults: list[str], changes: list[str], places: list[str], secrets: list[str], kill_at: int | None
) -> Callable[[str, tuple], None]:
    """What `sys.addaudithook` takes: it appends to `faults` and `changes`."""

    def inside(path: str, folders: list[str]) -> bool:
        return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

    def resolved(path: object, folder: object = -1) -> str | None:
        if isinstance(path, int):
            return None  # it was a path when it was opened
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        return os.path.realpath(os.fsdecode(path))

    def change(what: str, path: str | None) -> None:
        if path is not None and not inside(path, places):
            faults.append(f"outside: {what} {path}")
        if path is not None and inside(path, places[:1]):
            if len(changes) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            changes.append(what)

    def hook(event: str, args: tuple) -> None:
        if event == "open":
            path = resolved(args[0])
            if isinstance(args[2], int) and args[2] & WRITES:
                change("writes", path)
            if path is not None and inside(path, secrets):
                faults.append(f"private: reads {path}")
        elif event in CHANGES:
            in_folder = args[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            for i in CHANGES[event]:
                change(event, resolved(args[i], in_folder))
        elif event in PROGRAMS:
            faults.append(f"program: {event} {args[:2]}"[:200])
        elif event in CONNECTIONS:
            faults.append(f"network: {event} {args[1:3]}"[:200])
        elif event == "pickle.find_class":
            faults.append(f"code: a pickle names {args[0]}.{args[1]}")

    return hook


def _receive(end: int, seconds: float) -> tuple[dict | None, bool]:
    """The report of the child, None if it died; and whether it is late."""
    data, until = b"", time.monotonic() + seconds
    while ready := select.select([end], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(end, 65_536)
        if not piece:
            break
        data += piece
    os.close(end)
    return json.loads(data) if data else None, not ready


def _content(file: int) -> str:
    size = os.fstat(file).st_size
    text = os.pread(file, min(size, 1 << 20), 0).decode("utf-8", "replace")
    os.close(file)
    return text


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _where(err: str) -> str:
    """The innermost line of the package in what faulthandler printed."""
    found = re.findall(r'File "([^"]*)", line (\d+) in (\w+)', err)
    ours = [each for each in found if "/minip2p/" in each[0]] or found
    return "at {}:{} {}".format(ours[0][0].rpartition("/minip2p/")[2], *ours[0][1:]) if ours else "at an unknown place"


# What is wrong with the result of a command


def snapshot(folder: Path) -> dict[str, tuple]:
    """What is in a folder, so that a change is seen."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = os.lstat(path := os.path.join(place, name))
            found[os.path.relpath(path, folder)] = (status.st_mode, status.st_size * (name in names), status.st_ino)
    return found


def faults_of(ran: Ran, folder: Path, before: dict[str, tuple], own: str | None = None) -> list[str]:
    """All faults of a command: those that it was seen to commit, what it printed, and what it left in the folder.

    own: a folder in it that the command may change.
    """
    faults = list(ran.faults)
    lines = [line for line in re.split(r"[\n\r]", ran.err) if line.startswith("minip2p: error:")]
    if ran.status not in (0, 1, 2, None):
        faults.append(f"status {ran.status}")
    if ran.status == 2 and len(lines) != 1:
        faults.append(f"printed: {len(lines)} lines of error: {ran.err[-300:]!r}")
    if ran.status == 2 and len(lines) == 1 and not ran.err.rstrip("\n").endswith(lines[0]):
        faults.append(f"printed: the error is not the last line: {ran.err[-300:]!r}")
    if ran.status == 2 and lines and "out of memory" in lines[0]:
        faults.append("memory: it ran out of it")
    if ran.status is not None and "Traceback" in ran.err:
        faults.append(f"printed: a traceback: {ran.err[-300:]!r}")
    if ran.status is not None and (found := re.search(r"\w*Warning:.*", ran.err)):
        faults.append(f"printed: a library's warning: {found[0][:200]}")
    if found := re.search(r"[\0-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[A)", ran.out + ran.err):
        faults.append(f"printed: the control character {found[0]!r}")
    if len(ran.err) > 20_000 and "traceback" not in " ".join(faults):
        faults.append(f"printed: {len(ran.err)} characters of error")
    after = snapshot(folder)
    if own is not None:
        before, after = (
            {n: x for n, x in each.items() if Path(own) not in Path(n).parents} for each in (before, after)
        )
    faults += [f"changed: {name} is gone" for name in before if name not in after]
    for name, is_now in after.items():
        if Path(name).suffix in (".part", ".old"):
            faults.append("left: an unfinished file")
        elif name not in before and (why := _broken(folder / name)):
            faults.append(f"left: {why}")
        elif name in before and is_now != before[name]:
            faults.append(f"changed: {name}")
    return faults


def _broken(path: Path) -> str | None:
    """Why a new file is not whole; None if it is, or is of no known kind."""
    ending = path.suffix.lower()
    try:
        if not path.is_file():
            return None
        if ending in (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff"):
            with Image.open(path) as image:
                image.load()
        elif ending == ".safetensors":
            with safe_open(path, "pt") as file:
                list(file.keys())
        elif ending == ".json":
            json.loads(path.read_bytes())
        elif ending == ".jsonl":
            list(map(json.loads, path.read_bytes().splitlines()))
        elif ending == ".tar":
            with tarfile.open(path) as file:
                file.getmembers()
    except Exception as error:
        return f"a broken {ending} ({type(error).__name__})"
    return None


if __name__ == "__main__":
    serve()

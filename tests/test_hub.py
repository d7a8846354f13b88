"""Downloads, from a small copy of the Hugging Face hub on this machine."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from minip2p.checkpoints import CheckpointError
from minip2p.checkpoints.hub import fetch, wanted_files

COMMIT = "0123456789" * 4
FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": bytes(range(256)) * 8000,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.fp16.safetensors": b"half precision alone",
    "text_encoder/config.json": b"{}",
    "text_encoder/pytorch_model.bin": b"a pickle alone",
    "tokenizer/merges.txt": b"",
    "unet/diffusion_pytorch_model.bin": b"the same again",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"others",
    "safety_checker/model.safetensors": b"unused",
    "v1-5.ckpt": bytes(100_000),
}


class Hub(BaseHTTPRequestHandler):
    """Answers for the repository a/b as the hub does; the first answer with a file's bytes breaks off after `cut`."""

    cut, asked, files = None, [], FILES

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/a/b/tree/"):
            self.answer(
                json.dumps([{"type": "file", "path": n, "size": len(d), "oid": n} for n, d in self.files.items()])
            )
        elif path.startswith("/api/models/a/b"):
            self.answer(json.dumps({"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.files]}))
        elif path.startswith("/a/b/resolve/") and (name := path.split("/", 5)[5]) in self.files:
            self.asked.append((self.command, name))
            self.answer(self.files[name], name)
        else:
            self.send_error(404)

    def answer(self, data, tag="x"):
        data = data.encode() if isinstance(data, str) else data
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(data)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{tag.replace("/", "-")}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:end][: self.cut if len(data) > 1000 else None])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, as huggingface_hub would know it by HF_ENDPOINT."""
    constants = pytest.importorskip("huggingface_hub.constants")
    handler = type("Mine", (Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "".join(template[1:]))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield handler
        server.shutdown()


def contents(folder):
    """The files of a folder but for huggingface_hub's own."""
    files = [file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.parts]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_a_repository_comes_without_what_we_do_not_read(hub, tmp_path):
    large = ("GET", "unet/diffusion_pytorch_model.safetensors")
    for _ in range(2):
        folder = fetch("a/b", tmp_path)
        assert folder == tmp_path / "a--b" and contents(folder) == {name: FILES[name] for name in list(FILES)[:8]}
        assert hub.asked.count(large) == 1


def test_one_file_of_a_repository(hub, tmp_path):
    assert fetch("a/b:v1-5.ckpt", tmp_path) == tmp_path / "a--b" / "v1-5.ckpt"
    assert contents(tmp_path / "a--b") == {"v1-5.ckpt": FILES["v1-5.ckpt"]}


@pytest.mark.slow
def test_a_broken_transfer_leaves_no_file(hub, tmp_path, monkeypatch):
    """The error is one line; the next call gets the file."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's five tries
    hub.cut = 1000
    with pytest.raises(CheckpointError, match="^a/b:v1-5.ckpt: not fetched: ") as error:
        fetch("a/b:v1-5.ckpt", tmp_path)
    assert "\n" not in str(error.value) and not contents(tmp_path / "a--b")
    hub.cut = None
    fetch("a/b:v1-5.ckpt", tmp_path)
    assert contents(tmp_path / "a--b") == {"v1-5.ckpt": FILES["v1-5.ckpt"]}


@pytest.mark.parametrize("source", ["a/c", "a/b:missing.ckpt"])
def test_a_missing_repository_or_file(hub, tmp_path, source):
    with pytest.raises(CheckpointError, match=f"^{source}: not fetched: "):
        fetch(source, tmp_path)


def test_no_server(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's five tries
    with pytest.raises(CheckpointError, match="^a/b: not fetched: "):
        fetch("a/b", tmp_path)


@pytest.mark.parametrize("source", ["somewhere", "a/b/c", "file:///etc/passwd", "https://x.org/a.ckpt", ""])
def test_other_sources_are_refused(tmp_path, source):
    with pytest.raises(CheckpointError, match="expected owner/name"):
        fetch(source, tmp_path)


PIPELINE = ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))]
FLAX = [f"{part}/flax_model.msgpack" for part in ("unet", "vae", "text_encoder")]


def weights(ending, unet="unet/diffusion_pytorch_model"):
    return [f"{unet}{ending}", f"vae/diffusion_pytorch_model{ending}", f"text_encoder/model{ending}"]


@pytest.mark.parametrize(
    "files, wanted",
    [
        (["config.json", "model.safetensors", "vocab.json", "merges.txt", "pytorch_model.bin", "tf_model.h5"], 4),
        (
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "tokenizer.model",
                "model.safetensors.index.json",
                "consolidated.safetensors",
                "model-00001-of-00002.fp16.safetensors",
                "pytorch_model-00001-of-00002.bin",
            ],
            5,
        ),
        ([*PIPELINE, *weights(".safetensors"), *weights(".fp16.safetensors"), *weights(".bin"), *FLAX], 7),
        ([*PIPELINE, *weights(".bin"), *FLAX, "README.md"], 7),
        ([*PIPELINE, *weights(".fp16.safetensors"), *weights(".non_ema.safetensors"), "a.ckpt"], 7),
        ([*PIPELINE, *weights(".non_ema.safetensors"), *FLAX], 7),
        ([*PIPELINE, *weights(".ema.safetensors"), *weights(".safetensors")], 7),
        (
            [
                *PIPELINE,
                *weights(".safetensors", unet="unet/diffusion_pytorch_model-00001-of-00001"),
                "unet/diffusion_pytorch_model.safetensors.index.json",
                "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
            ],
            8,
        ),
        (
            [
                *PIPELINE,
                *weights(".fp16.safetensors", unet="unet/diffusion_pytorch_model-00001-of-00001"),
                "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
                "unet/diffusion_pytorch_model-00001-of-00001.bin",
            ],
            8,
        ),
    ],
)
def test_of_a_repository_only_what_we_read_is_fetched(files, wanted):
    assert sorted(wanted_files(files)) == sorted(files[:wanted])


@pytest.mark.parametrize(
    "files, reason",
    [
        ([*PIPELINE, *FLAX], "no weights that we read in unet/; there is flax_model.msgpack"),
        ([*PIPELINE, *weights(".safetensors")[:1], *FLAX], "no weights that we read in vae/"),
        ([*PIPELINE, "unet/model.onnx", "vae/model.onnx"], "there is model.onnx"),
        (
            [*PIPELINE, *weights(".safetensors"), "text_encoder_2/model.safetensors"],
            "a text_encoder_2; expected Stable",
        ),
        (["model_index.json", "transformer/diffusion_pytorch_model.safetensors"], "a transformer; expected Stable"),
        (["v1-5.ckpt", "v1-5.safetensors"], "neither.*give one of its files: a/b:v1-5.ckpt, a/b:v1-5.safetensors"),
        (["README.md"], "neither model_index.json nor config.json$"),
        (["config.json", "tf_model.h5"], "no weights that we read in it; there is tf_model.h5"),
    ],
)
def test_a_repository_without_weights_that_we_read_is_refused_before_anything_is_downloaded(
    hub, files, reason, tmp_path
):
    hub.files = dict.fromkeys(files, b"{}")
    with pytest.raises(CheckpointError, match=f"^a/b: not fetched: .*{reason}"):
        fetch("a/b", tmp_path)
    assert not hub.asked and not list(tmp_path.glob("a--b/*"))


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install"):
        fetch("a/b", tmp_path)

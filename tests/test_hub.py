"""Downloads, against a small server on this machine."""

import hashlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from minip2p.checkpoints import CheckpointError
from minip2p.checkpoints.hub import UNWANTED, WANTED, fetch

DATA = bytes(range(256)) * 20_000


class Files(BaseHTTPRequestHandler):
    """Serves `data` with its ETag and ranges; sends at most `cut` bytes of an answer before it hangs up."""

    data, cut, tag, asked = DATA, None, True, []

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        if not self.path.startswith("/model"):
            self.send_error(404, "Not Found")
            return
        etag = f'"{hashlib.md5(self.data).hexdigest()}"'
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(self.data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        if self.tag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(self.data[start:][: self.cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Mine", (Files,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as it:
        Thread(target=it.serve_forever, args=(0.02,), daemon=True).start()
        handler.url = f"http://127.0.0.1:{it.server_port}"
        yield handler
        it.shutdown()


def test_a_file_comes_whole_and_once(server, tmp_path):
    seen = []
    path = fetch(server.url + "/model%20a.ckpt?download=true", tmp_path / "new", progress=lambda *at: seen.append(at))
    assert path == tmp_path / "new" / "model a.ckpt" and path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and [f.name for f in path.parent.iterdir()] == [path.name]
    assert fetch(server.url + "/model%20a.ckpt", tmp_path / "new") == path and len(server.asked) == 1


def test_a_broken_transfer_is_gone_on_with(server, tmp_path):
    server.cut = 1_500_000
    for _ in range(2):
        with pytest.raises(CheckpointError, match="call again"):
            fetch(server.url + "/model", tmp_path)
    assert not (tmp_path / "model").exists()
    server.cut = None
    assert fetch(server.url + "/model", tmp_path).read_bytes() == DATA
    assert server.asked == [None, "bytes=1500000-", "bytes=3000000-"]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("changed", [DATA[::-1], DATA[:1000]])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, changed):
    server.cut = 1_500_000
    with pytest.raises(CheckpointError):
        fetch(server.url + "/model", tmp_path)
    server.cut, server.data = None, changed
    assert fetch(server.url + "/model", tmp_path).read_bytes() == changed


def test_without_a_servers_word_for_it_a_part_is_not_trusted(server, tmp_path):
    server.cut, server.tag = 1_500_000, False
    with pytest.raises(CheckpointError):
        fetch(server.url + "/model", tmp_path)
    server.cut = None
    assert fetch(server.url + "/model", tmp_path).read_bytes() == DATA and server.asked == [None, None]


@pytest.mark.parametrize("source, said", [
    ("/other", "404"), ("/", "address of a folder"), ("/model/", "address of a folder"),
])  # fmt: skip
def test_what_is_not_there(server, tmp_path, source, said):
    with pytest.raises(CheckpointError, match=said):
        fetch(server.url + source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_server(tmp_path):
    with pytest.raises(CheckpointError, match="not fetched"):
        fetch("http://127.0.0.1:9/model", tmp_path)


@pytest.mark.parametrize("source", ["somewhere", "a/b/c", "file:///etc/passwd", ""])
def test_what_is_no_source(tmp_path, source):
    with pytest.raises(CheckpointError, match="expected https"):
        fetch(source, tmp_path)


def test_the_hub_is_asked_for_what_we_read(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: asked.append((name, how["local_dir"])))
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file, **how: asked.append((name, file)) or tmp_path / file)
    asked = []
    assert fetch("timbrooks/instruct-pix2pix", tmp_path) == tmp_path / "timbrooks--instruct-pix2pix"
    assert fetch("a/b:c/d.safetensors", tmp_path) == tmp_path / "c/d.safetensors"
    assert asked == [
        ("timbrooks/instruct-pix2pix", tmp_path / "timbrooks--instruct-pix2pix"),
        ("a/b", "c/d.safetensors"),
    ]

    def fail(*_, **__):
        raise OSError("401 Client Error\nlong story")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"^a/b: not fetched: 401 Client Error$"):
        fetch("a/b", tmp_path)


@pytest.mark.parametrize("files, wanted", [
    (["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "v1-5.ckpt", "README.md"], 2),
    (["config.json", "model.safetensors", "vocab.json", "merges.txt", "pytorch_model.bin", "tf_model.h5"], 4),
    (["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.model",
      "model.safetensors.index.json", "consolidated.safetensors", "pytorch_model-00001-of-00002.bin"], 5),
])  # fmt: skip
def test_of_a_repository_only_what_we_read_is_fetched(files, wanted):
    filters = pytest.importorskip("huggingface_hub.utils").filter_repo_objects
    assert list(filters(files, allow_patterns=WANTED, ignore_patterns=UNWANTED)) == files[:wanted]


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install"):
        fetch("a/b", tmp_path)

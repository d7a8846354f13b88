"""The page in a real browser without network (`minip2p app`): headless Chromium, and gradio's own client.

The server is the verb itself in a process of its own. There connections to other machines are put down and fail, and
files that are opened for writing outside of its temporary folder are put down. Skipped where gradio, playwright or
Chromium is missing.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import pixels
from PIL import Image
from test_app import png

from minip2p.app.uploads import MOST_BYTES
from minip2p.cli import main, metadata

for _needed, _how in (("gradio", "'.[app]'"), ("playwright", "playwright")):
    pytest.importorskip(_needed, reason=f"the page's tests need {_needed}: pip install {_how}")
from gradio_client import Client, handle_file  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402


def _runs(browser: str | None) -> bool:
    return browser is not None and subprocess.run([browser, "--version"], capture_output=True).returncode == 0


CHROMIUM = next(filter(_runs, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="the page's tests need Chromium: apt-get install chromium"),
    pytest.mark.slow,
]
ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "weights/tiny/example.png"
CLOSED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
log, temporary = open(os.environ["LOG"], "a", buffering=1), os.environ["TMPDIR"]
def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "localhost", "::1"):
        log.write(f"connection to {args[1]}\\n")
        raise OSError("no network here")
    if event == "socket.getaddrinfo" and args[0] not in (None, "", "127.0.0.1", "localhost", b"127.0.0.1", "0.0.0.0"):
        log.write(f"name {args[0]}\\n")
        raise OSError("no network here")
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if not os.path.abspath(args[0]).startswith((temporary, "/dev/", "/proc/")):
            log.write(f"writes {args[0]}\\n")
sys.addaudithook(watch)
from minip2p.cli import main
sys.exit(main(["app", "--port", "0", "--device", "cpu"]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The page's process, with its `url` and its `place`: the folders that it knows.

    After all tests: Ctrl-C ends it in one line, no file is left, and no other machine was asked for anything.
    """
    place = tmp_path_factory.mktemp("server")
    for name in ("tmp", "home", "cwd"):
        (place / name).mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place / "tmp"), "LOG": str(place / "log")}
    env |= dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(place / "home"))
    env |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://192.0.2.1:9")
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    with open(place / "err", "w") as errors:
        how = {"cwd": place / "cwd", "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen([sys.executable, "-c", CLOSED], **how)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, f"{line!r} {(place / 'err').read_text()}"
        process.url, process.place = found[0], place
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
    said = (place / "err").read_text()
    assert said.strip().splitlines()[-1] == "minip2p: stopped; finished results are kept"
    assert str(ROOT / "minip2p") not in said  # no traceback of ours; gradio prints one for a path that it refuses
    assert (place / "log").read_text() == ""
    assert [path for name in ("tmp", "home", "cwd") for path in (place / name).rglob("*")] == []


@pytest.fixture(scope="module")
def chromium():
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(server, chromium):
    """Opens the page in a new session; afterwards none has asked another machine for anything, or failed."""
    contexts, outside = [], []

    def open_page(width=1280):
        context = chromium.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda r: r.url.startswith((server.url, "data:", "blob:")) or outside.append(r.url))
        page.on("pageerror", lambda error: outside.append(str(error)))
        page.goto(server.url)
        expect(page.locator("#picture img")).to_be_visible(timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).first.click()


def set_number(page, label, value, inside="#component-0, body"):
    field = page.locator(inside).get_by_label(f"number input for {label}", exact=True).first
    field.fill(str(value))
    field.press("Tab")


def edit(page, instruction="make it night", steps=5):
    """Edit in the first tab and wait for the result."""
    page.locator("#instruction textarea, #instruction input").first.fill(instruction)
    set_number(page, "Steps", steps)
    page.click("#edit")
    finished(page, f"{instruction}: seed")


def finished(page, text, status="#status"):
    expect(page.locator(status)).to_contain_text(text, timeout=120_000)


def image_of(page, selector) -> np.ndarray:
    """The pixels of an image that the page shows, from its own address."""
    source = page.locator(f"{selector} img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


def by_command_line(*words: str, given=EXAMPLE, steps=5) -> np.ndarray:
    command = ["edit", "--input", str(given), "--steps", str(steps), "--device", "cpu", "--overwrite"]
    assert main([*command, *words, "--output", "cli.png"]) == 0
    return pixels("cli.png")


@pytest.fixture(autouse=True)
def here_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")


def test_the_page_opens_on_an_example_and_edits_it(opened):
    page = opened()
    assert np.array_equal(image_of(page, "#picture"), pixels(EXAMPLE))
    edit(page)
    expected = by_command_line("--edit", "make it night")
    assert np.array_equal(image_of(page, "#result"), expected)
    tab(page, "Slider")
    sources = [each.get_attribute("src") for each in page.locator("#slider img").all()]
    sizes = {Image.open(io.BytesIO(page.request.get(source).body())).size for source in sources}
    assert len(set(sources)) == 2 and sizes == {expected.shape[1::-1]}
    for source in sources:
        assert page.request.get(source).body()[:4] == b"\x89PNG"
    page.get_by_text("turn the flower blue", exact=True).first.click()
    expect(page.locator("#instruction textarea, #instruction input").first).to_have_value("turn the flower blue")


def test_a_download_can_be_made_again(opened, capsys):
    page = opened()
    edit(page, "turn the flower blue")
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "edited.png"
    started.value.save_as("edited.png")
    assert np.array_equal(pixels("edited.png"), by_command_line("--edit", "turn the flower blue"))
    assert metadata.read(Path("edited.png"))["instruction"] == "turn the flower blue"
    assert main(["show", "edited.png"]) == 0 and '"seed": 0' in capsys.readouterr().out
    assert main(["show", "edited.png", "--again", "--input", str(EXAMPLE)]) == 0


def test_the_result_is_edited_in_a_second_turn(opened):
    page = opened()
    edit(page)
    page.click("#again")
    expect(page.locator("#picture img")).to_have_attribute("src", re.compile("edited"))
    edit(page, "turn the flower blue")
    expected = by_command_line("--edit", "make it night", "--edit", "turn the flower blue")
    assert np.array_equal(image_of(page, "#result"), expected)


def test_wrong_uploads_are_one_line_and_the_page_goes_on(opened, server):
    page = opened()
    wrong = (
        ("a.png", b"<svg onload='alert(1)'/>", "the picture is not a picture that can be read"),
        ("bomb.png", png(60000, 60000), "pixels; the limit is"),
        ("large.png", png(8000, 8000, whole=True), "the picture has 8,000 x 8,000 pixels; the limit is 34 megapixels"),
        ("../../../../etc/cron.d/<img src=x>.png", b"no picture", "the picture is not a picture that can be read"),
    )
    for name, data, said in wrong:
        page.locator("#picture input[type=file]").first.set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": data}
        )
        expect(page.locator("#status .wrong")).to_contain_text(said)
        expect(page.locator("#picture img")).to_have_count(0)
        page.click("#edit")
        expect(page.locator("#status .wrong")).to_contain_text("there is no picture; choose one first")
    page.locator("#picture input[type=file]").first.set_input_files(
        {"name": "../a.png", "mimeType": "image/png", "buffer": EXAMPLE.read_bytes()}
    )
    expect(page.locator("#picture img")).to_be_visible()
    edit(page)
    assert np.array_equal(image_of(page, "#result"), by_command_line("--edit", "make it night"))
    named = {path.name for path in (server.place / "tmp").rglob("*") if path.is_file()}
    assert "upload.png" in named and not any("cron" in name or "bomb" in name or "large" in name for name in named)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idles(server) -> None:
    """The server, which computes 250 steps in more than 5 seconds, soon computes nothing."""
    time.sleep(1.5)  # the step that was being computed
    before = cpu_seconds(server.pid)
    time.sleep(3)
    assert cpu_seconds(server.pid) - before < 0.6


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the server's CPU time from /proc")
def test_cancel_stops_the_computation(opened, server):
    page = opened()
    set_number(page, "Steps", 250)
    page.click("#edit")
    finished(page, "of 250")
    first = image_of(page, "#result")
    assert first.shape == pixels(EXAMPLE).shape
    page.click("#cancel")
    finished(page, "cancelled")
    idles(server)
    expect(page.locator("#status")).to_contain_text("cancelled")
    edit(page, steps=2)
    assert np.array_equal(image_of(page, "#result"), by_command_line("--edit", "make it night", steps=2))
    set_number(page, "Steps", 250)
    page.click("#edit")
    finished(page, "of 250")
    page.close()  # nobody waits for the result any more
    idles(server)


def test_two_sessions_at_once(opened):
    texts = "make it night", "turn the flower blue"
    pages = [opened() for _ in texts]
    for page, text in zip(pages, texts):
        page.locator("#instruction textarea, #instruction input").first.fill(text)
        set_number(page, "Steps", 10)
    for page in pages:
        page.click("#edit")
    for page, text in zip(pages, texts):
        finished(page, f"{text}: seed")
        assert np.array_equal(image_of(page, "#result"), by_command_line("--edit", text, steps=10))


def test_what_a_mask_leaves_out_stays(opened):
    page = opened()
    page.click("#mask-fold button.label-wrap")
    canvas = page.locator("#mask canvas").first
    expect(canvas).to_be_visible()
    time.sleep(1)  # the drawing's ground appears with an animation
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    time.sleep(1)
    edit(page)
    source, result = pixels(EXAMPLE), image_of(page, "#result")
    same = (source == result).all(-1)
    assert 0.3 < same.mean() < 0.99 and same[:8].all() and same[-8:].all()
    page.click("#files-fold button.label-wrap")
    expect(page.locator("#files a")).to_have_count(3)
    links = [each.get_attribute("href") for each in page.locator("#files a").all()]
    for link in links:
        Path(link.rpartition("/")[2]).write_bytes(page.request.get(link).body())
    assert {path.name for path in Path().iterdir()} == {"edited.png", "input.png", "mask.png"}
    assert main(["show", "edited.png", "--again"]) == 0


def test_scales_and_seeds_that_are_drawn_are_written_back(opened):
    page = opened()
    fields = [page.get_by_label(f"number input for {name}", exact=True).first for name in ("Text scale", "Image scale")]
    before = [field.input_value() for field in fields]
    for _ in range(4):  # one of 40 draws is the value that was there
        page.click("#random-scales")
        time.sleep(0.5)
        if all(field.input_value() != value for field, value in zip(fields, before)):
            break
    for field, value in zip(fields, before):
        expect(field).not_to_have_value(value)
    text, image = (field.input_value() for field in fields)
    page.get_by_label("random", exact=True).first.check()
    set_number(page, "Steps", 2)
    page.click("#edit")
    finished(page, f"text scale {float(text):g}, image scale {float(image):g}")
    seed = page.get_by_label("Seed", exact=True).first.input_value()
    assert int(seed) > 0
    words = ("--edit", "make it night", "--seed", seed, "--text-scale", text, "--image-scale", image)
    assert np.array_equal(image_of(page, "#result"), by_command_line(*words, steps=2))


def test_seeds_and_a_grid(opened):
    page = opened()
    set_number(page, "Steps", 2)
    page.click("#seeds-fold button.label-wrap")
    page.click("#seeds-go")
    finished(page, "4 seeds from 0")
    expect(page.locator("#gallery img")).to_have_count(4)
    page.locator("#gallery img").nth(2).click()
    expect(page.locator("#result img")).to_have_attribute("src", re.compile("edited-2"))
    assert np.array_equal(image_of(page, "#result"), by_command_line("--edit", "make it night", "--seed", "2", steps=2))
    page.click("#grid-fold button.label-wrap")
    page.click("#grid-go")
    finished(page, "the grid is below")
    text, image = (page.get_by_label(f"{name} scales", exact=True).input_value() for name in ("Text", "Image"))
    grid = ("--grid", f"text-scale={text.replace(' ', '')}", f"image-scale={image.replace(' ', '')}")
    assert np.array_equal(image_of(page, "#sheet"), by_command_line("--edit", "make it night", *grid, steps=2))


@pytest.mark.parametrize("width", [1280, 400])
def test_the_other_tabs_work_and_fit(opened, width):
    page = opened(width)

    def fits():
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    fits()
    tab(page, "Pairs")
    page.click("#pair")
    finished(page, "steps of", "#pair-status")
    assert not np.array_equal(image_of(page, "#pair-source"), image_of(page, "#pair-edited"))
    fits()
    tab(page, "Attention")
    page.click("#look")
    finished(page, "attends to it", "#look-status")
    last = image_of(page, "#look-map")
    page.locator("#word").get_by_label("flower", exact=True).check()
    finished(page, "“flower”, mean of 30 steps", "#look-status")
    assert not np.array_equal(image_of(page, "#look-map"), last)
    set_number(page, "Step (0 is the mean)", 3)
    finished(page, "“flower”, at step 3 of 30", "#look-status")
    fits()
    tab(page, "World")
    page.click("#evaluate")
    finished(page, "the truth is", "#world-status")
    fits()
    page.click("#take")
    tab(page, "Edit")
    expect(page.locator("#instruction textarea, #instruction input").first).to_have_value("let it be night")
    assert np.array_equal(image_of(page, "#picture"), image_of(page, "#world-source"))


def test_a_client_gets_the_pixels_of_the_command_line(server):
    client = Client(server.url, verbose=False)
    asked = {"instruction": "make it night", "text_scale": 1.5, "image_scale": 1.0, "steps": 8, "seed": 3}
    status, result, *_ = client.predict(picture=handle_file(EXAMPLE), **asked, api_name="/edit")
    scales = ("--text-scale", "1.5", "--image-scale", "1")
    expected = by_command_line("--edit", "make it night", "--seed", "3", *scales, steps=8)
    assert np.array_equal(pixels(result), expected) and "seed 3" in status
    assert metadata.read(Path(result))["made_with"]["device"] == "cpu"
    with pytest.raises(Exception, match="the picture is not a picture that can be read"):
        Path("no.png").write_text("no")
        client.predict(picture=handle_file("no.png"), **asked, api_name="/edit")


def test_a_client_gets_no_other_file_and_no_address(server):
    """Paths of this machine, addresses of others, and files over the limit are refused; the page goes on."""
    import httpx

    api = f"{server.url}/gradio_api"
    (server.place / "secret.png").write_bytes(EXAMPLE.read_bytes())
    for path in (str(server.place / "secret.png"), "/etc/passwd", "http://example.org/a.png"):
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [picture, "make it night", 1.5, 1.0, 2, 0, "fixed", "euler_ancestral", None]
        event = httpx.post(f"{api}/call/edit", json={"data": data}).json()["event_id"]
        said = httpx.get(f"{api}/call/edit/{event}", timeout=60).text
        assert said.startswith("event: error") and "Traceback" not in said
        assert httpx.get(f"{api}/file={path}").status_code in (403, 404)
    large = httpx.post(f"{api}/upload", files={"files": ("a.png", bytes(MOST_BYTES + 1))}, timeout=60)
    assert large.status_code == 413
    assert httpx.get(server.url).status_code == 200

"""The live page: what it shows in a browser, and whom it refuses."""

import io
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from chromium import chromium
from conftest import ROOT, environment
from PIL import Image

import fer_jax
from fer_jax.errors import UserError
from fer_jax.inference import cli, live
from fer_jax.inference.results import Faces

pytest.importorskip("cv2", reason="needs the extra 'faces'")
pytest.importorskip("starlette", reason="needs the extra 'live'")
pytest.importorskip("httpx", reason="needs the extra 'test'")
ASTRONAUT = ROOT / "docs/images/astronaut.jpg"
TOKEN = "token"


@pytest.fixture(scope="module")
def detect():
    return fer_jax.load_pretrained().detect


@pytest.fixture(scope="module")
def client(detect):
    from starlette.testclient import TestClient

    app = live.make_app(detect, TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8000")


def post(client, content, path=f"/{TOKEN}/faces", **headers):
    headers = {"origin": "http://127.0.0.1:8000"} | headers
    return client.post(path, content=content, headers=headers)


def test_a_picture_gives_its_faces(client):
    response = post(client, ASTRONAUT.read_bytes())
    answer = response.json()
    assert response.status_code == 200 and answer["size"] == [512, 512]
    (face,) = answer["faces"]
    assert face["label"] == "happy" and face["box"][0] == pytest.approx(176, abs=9)
    assert response.headers["cache-control"] == "no-store"


def test_below_a_confidence_it_is_unsure(detect):
    from starlette.testclient import TestClient

    app = live.make_app(detect, TOKEN, 0.999)
    unsure = TestClient(app, base_url="http://127.0.0.1:8000")
    (face,) = post(unsure, ASTRONAUT.read_bytes()).json()["faces"]
    assert face["label"] == "unsure"


def test_the_page_is_served_below_the_token_alone(client):
    page = client.get(f"/{TOKEN}/")
    assert page.status_code == 200 and "kept nowhere" in page.text
    assert "'none'" in page.headers["content-security-policy"]
    assert (
        client.get(f"/{TOKEN}/live.js")
        .headers["content-type"]
        .startswith("text/javascript")
    )
    for path in ("/", "/other/", "/other/live.js"):
        assert client.get(path).status_code == 403
    for path in (f"/{TOKEN}/live.py", f"/{TOKEN}/..%2flive.py", f"/{TOKEN}/a/b"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": ""},
    ],
)
def test_other_pages_cannot_use_it(client, headers):
    assert post(client, b"x", **headers).status_code == 403


def test_a_tunnel_may_have_another_port(client):
    headers = {"host": "localhost:9999", "origin": "http://localhost:9999"}
    assert post(client, ASTRONAUT.read_bytes(), **headers).status_code == 200


@pytest.mark.parametrize(
    "content, status, words",
    [
        (b"no picture", 400, "not a jpg, png or webp"),
        (b"", 400, "not a jpg"),
        (bytes(live.MAX_BYTES + 1), 413, "larger than 20 MB"),
    ],
)
def test_what_cannot_be_used_is_said(client, content, status, words):
    response = post(client, content)
    assert response.status_code == status and words in response.json()["error"]


def test_a_bomb_is_refused(client, monkeypatch):
    monkeypatch.setattr(live, "MAX_PIXELS", 100)
    file = io.BytesIO()
    Image.new("L", (11, 10)).save(file, "PNG")
    assert "more than 100 pixels" in post(client, file.getvalue()).json()["error"]


def test_a_port_that_is_taken_is_named(detect):
    from fer_jax.system.console import make_console

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            live.serve(detect, make_console(), port, 0.0)


def test_files_and_live_exclude_each_other():
    with pytest.raises(UserError, match="--live shows a webcam; leave the files out"):
        cli.main(["--live", "face.jpg"])
    with pytest.raises(UserError, match="name pictures, videos or a folder, or use"):
        cli.main([])


class Server:
    """The page, served from a thread."""

    def __init__(self, detect):
        import uvicorn

        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/{TOKEN}/"
        app = live.make_app(detect, TOKEN)
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off")
        )
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}
        )
        self.thread.start()

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(20)


@pytest.fixture
def server(detect):
    server = Server(detect)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Frames for the fake camera, as Chromium reads them."""
    path = tmp_path_factory.mktemp("camera") / "clip.mjpeg"
    picture = Image.open(ASTRONAUT).crop((0, 0, 480, 360))
    frame = io.BytesIO()
    picture.save(frame, "JPEG")
    path.write_bytes(frame.getvalue() * 10)
    return path


FAKE = "--use-fake-device-for-media-stream"
ALLOWED = "--use-fake-ui-for-media-stream"


def wait(driver, words, seconds=60):
    """Waits until the message has these words."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if re.search(words, text := driver.find_element("id", "message").text):
            return
        time.sleep(0.1)
    raise AssertionError(f"{words!r} is not in {text!r}")


def errors(driver):
    """What the browser says was wrong, but for a missing icon."""
    return [
        row["message"]
        for row in driver.get_log("browser")
        if row["level"] == "SEVERE" and "favicon" not in row["message"]
    ]


def test_the_camera_is_shown_with_its_faces_until_the_program_ends(server, clip):
    with chromium(FAKE, ALLOWED, f"--use-file-for-fake-video-capture={clip}") as driver:
        driver.get(server.address)
        driver.find_element("id", "camera").click()
        wait(driver, "1 face")
        assert driver.find_element("css selector", "#faces h2").text == "happy"
        assert "frames/s" in driver.find_element("id", "speed").text
        driver.switch_to.new_window("tab")  # a second one beside it
        driver.get(server.address)
        driver.find_element("id", "camera").click()
        wait(driver, "1 face")
        assert not errors(driver)
        server.stop()
        wait(driver, "does not answer")


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "no camera that can be used"),
        ([FAKE, "--deny-permission-prompts"], "not allowed"),
    ],
)
def test_without_a_camera_it_is_said(server, flags, words):
    with chromium(*flags) as driver:
        driver.get(server.address)
        driver.find_element("id", "camera").click()
        wait(driver, words)


def test_a_picture_is_chosen(server, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")  # 27 MB
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (400, 300), "grey").save(tmp_path / "blank.png")
    with chromium() as driver:
        driver.get(server.address)
        file = driver.find_element("id", "file")
        file.send_keys(str(ASTRONAUT))
        wait(driver, "1 face")
        assert driver.find_element("css selector", "#faces h2").text == "happy"
        for name, words in (
            ("large.png", "larger than 20 MB"),
            ("text.jpg", "not a jpg, png or webp"),
            ("blank.png", "No face found"),
        ):
            file.send_keys(str(tmp_path / name))
            wait(driver, words)


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_jax", "predict", "--live"],
        cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        lines = "".join(process.stdout.readline() for _ in range(3))
        address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", lines)[0]
        import httpx

        assert httpx.get(address).status_code == 200
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "kept nowhere" in lines and "Traceback" not in err


def test_no_faces_are_an_empty_answer(client):
    file = io.BytesIO()
    Image.new("RGB", (400, 300), "grey").save(file, "PNG")
    assert post(client, file.getvalue()).json()["faces"] == []
    assert len(Faces([])) == 0

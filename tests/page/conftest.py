"""The page of a tiny model, served in this process, and a real browser to open it with."""

import os
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOCAL = "127.0.0.1"


def free_port():
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


class Meter:
    """Counts how often a decoder's U-Net runs, and how often at once; pause: seconds that each run takes longer."""

    def __init__(self, unet):
        self.runs, self.now, self.most_at_once, self.pause = 0, 0, 0, 0.0
        self.lock = threading.Lock()
        self.hooks = [unet.time_embed.register_forward_pre_hook(self.begin), unet.conv_out.register_forward_hook(self.end)]

    def begin(self, *_):
        with self.lock:
            self.runs, self.now = self.runs + 1, self.now + 1
            self.most_at_once = max(self.most_at_once, self.now)
        time.sleep(self.pause)

    def end(self, *_):
        with self.lock:
            self.now -= 1

    def remove(self):
        for hook in self.hooks:
            hook.remove()


@pytest.fixture
def meter(model):
    meter = Meter(model.decoder.unet)
    yield meter
    meter.remove()


@pytest.fixture(scope="module")
def server(model):
    """url: of the page; strangers: addresses outside of this machine that this process turned to."""
    pytest.importorskip("gradio", reason="gradio is not installed: no page to test")
    from unclip.page import app
    from unclip.page.drawing import Studio

    strangers, connect, look_up = [], socket.socket.connect, socket.getaddrinfo

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in (LOCAL, "localhost", "::1"):
            strangers.append(address)
        return connect(self, address)

    def asked_for(host, *args, **options):
        if host not in (None, LOCAL, "localhost", "::1", "0.0.0.0"):
            strangers.append(host)
        return look_up(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        patch.setattr(socket, "getaddrinfo", asked_for)
        studio = Studio(model)
        page = app.build(studio)
        yield SimpleNamespace(url=app.launch(page, LOCAL, free_port()), strangers=strangers, page=page)
        page.close()
        studio.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to test with")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: no browser to test with")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page as another visitor: a playwright page, with `requests`, the addresses it asked for."""
    contexts = []

    def open_page(width=1280, height=900):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(server.url)
        page.get_by_role("button", name="Draw", exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()

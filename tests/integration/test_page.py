"""The page for people, asked for as a browser does, and in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.server_process import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome

    from tests.integration.server_process import ServerProcess

NORMAL, ANOMALY = b"0 0 0 0 0 0 0 0\n", b"900 0 0 0 0 0 0 0\n"


def get(server: ServerProcess, path: str, token: str = "") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, body


def live(server: ServerProcess, after: str = "", token: str = "") -> dict[str, Any]:
    status, headers, body = get(server, f"/live?after={after}", token)
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    match = re.fullmatch(r"retry: \d+\nevent: state\ndata: (.*)\n\n", body.decode())
    return json.loads(match[1])


@pytest.fixture
def server(start_server) -> Iterator[ServerProcess]:
    with start_server() as process:
        yield process


def test_nothing_but_the_servers_own_files_is_allowed_on_the_page(server):
    for path, media in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, body = get(server, path)
        assert status == 200
        assert headers["content-type"].startswith(media)
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert not re.search(rb"https?://", body)


def test_an_event_tells_rows_anomalies_and_why(server):
    before = live(server)
    assert [model["samples"] for model in before["models"]] == [[]]
    assert server.ask(NORMAL + ANOMALY) == b"OK\nANOMALY\n"
    after = live(server, before["cursor"])
    (model,) = after["models"]
    assert (model["rows"], model["anomalies"]) == (2, 1)
    (anomaly,) = (sample for sample in model["samples"] if sample["anomaly"])
    assert anomaly["score"] > model["threshold"]
    assert anomaly["reasons"][0]["feature"] == "f0"
    assert anomaly["reasons"][0]["value"] == 900
    (tcp,) = (transport for transport in after["transports"] if transport["name"] == "tcp")
    assert (tcp["requests"], tcp["rows"], tcp["anomalies"], tcp["errors"]) == (2, 2, 1, 0)
    assert {backend["name"]: backend["state"] for backend in after["backends"]}["fused"] == "available"
    # No row is told twice.
    assert live(server, after["cursor"])["models"][0]["samples"] == []


@pytest.mark.parametrize("after", ["x", "-1", "9" * 30, "%00", "1&after=2", "%E0%A5%A7"])
def test_a_cursor_that_is_none_is_taken_for_the_start(server, after):
    server.ask(ANOMALY)
    assert len(live(server, after)["models"][0]["samples"]) <= 1


def test_an_event_is_bounded_under_load(server):
    with server.connect() as sock:
        sock.sendall((NORMAL * 50 + ANOMALY) * 400)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
    _, _, body = get(server, "/live")
    assert len(body) < 100_000


def test_without_a_page_there_is_none(start_server):
    with start_server("--no-page") as server:
        assert [get(server, path)[0] for path in ("/", "/page.js", "/live")] == [404] * 3
        assert get(server, "/healthz")[0] == 200


def test_the_numbers_need_the_token(start_server, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with start_server("--token-file", str(tmp_path / "token")) as server:
        assert get(server, "/")[0] == 200  # It shows nothing by itself.
        assert get(server, "/live")[0] == 401
        assert live(server, token="secret")["ready"]


# ------------------------------------------------------------------------------------------- a real browser


@contextmanager
def browser() -> Iterator[Chrome]:
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("no Chromium here (Debian: packages chromium and chromium-driver)")
    options = selenium.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = selenium.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def text_of(chrome: Chrome, selector: str) -> str:
    return chrome.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def wait_for(chrome: Chrome, selector: str, text: str, timeout_s: float = 20.0) -> float:
    """Return how long it took until an element showed a text."""
    started_s = time.monotonic()
    while text not in text_of(chrome, selector):
        assert time.monotonic() < started_s + timeout_s, (
            f"no {text!r} in {selector}: {text_of(chrome, selector)!r}; {chrome.get_log('browser')}"
        )
        time.sleep(0.02)
    return time.monotonic() - started_s


def complaints(chrome: Chrome) -> list[str]:
    return [
        entry["message"] for entry in chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def test_a_browser_shows_what_happens(server):
    with browser() as chrome:
        chrome.get(f"http://{server.host}:{server.http_port}/")
        wait_for(chrome, "#state", "ready")
        server.ask(ANOMALY)
        # Once a second the page asks; a busy machine adds to that.
        assert wait_for(chrome, "#anomalies tbody", "f0 = 900") < 5
        chrome.find_element("id", "try-row").send_keys("900 0 0 0 0 0 0 0")
        chrome.find_element("css selector", "#try button").click()
        wait_for(chrome, "#try-result", "an anomaly. Most of it is from f0 = 900")
        chrome.find_element("id", "try-row").send_keys(" 1")
        chrome.find_element("css selector", "#try button").click()
        wait_for(chrome, "#try-result", "8 numbers are needed")
        assert complaints(chrome) == []


def test_a_page_survives_a_restart_and_a_new_version(artifact, tmp_path):
    folder = tmp_path / "models" / "pump"
    shutil.copytree(artifact, folder / "1")
    with browser() as chrome:
        with serving(folder.parent, tmp_path / "log1") as server:
            port = server.http_port
            chrome.get(f"http://{server.host}:{port}/")
            wait_for(chrome, "#models", "pump, version 1")
            assert complaints(chrome) == []
        wait_for(chrome, "#state", "no connection")
        again = ("--http-port", str(port), "--watch", "--watch-interval-s", "0.1")
        with serving(folder.parent, tmp_path / "log2", *again):
            wait_for(chrome, "#state", "ready")
            shutil.copytree(artifact, tmp_path / "2")
            Path(tmp_path / "2").rename(folder / "2")
            wait_for(chrome, "#models", "pump, version 2")


def test_a_browser_asks_for_the_token(start_server, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with start_server("--token-file", str(tmp_path / "token")) as server, browser() as chrome:
        chrome.get(f"http://{server.host}:{server.http_port}/")
        wait_for(chrome, "#state", "locked")
        chrome.find_element("id", "token").send_keys("secret")
        chrome.find_element("css selector", "#login button").click()
        wait_for(chrome, "#state", "ready")

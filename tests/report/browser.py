"""Headless Chromium by the WebDriver protocol, no package needed; tests that use it are skipped where it is absent."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="looks at pages in Chromium: install the packages chromium and chromium-driver"
)


class Browser:
    """One window; use as a context."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={folder}"]}
        options = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._await()
        self._session = self._post("/session", capabilities={"alwaysMatch": options})["sessionId"]

    def _await(self):
        for _ in range(300):
            try:
                urllib.request.urlopen(self._url + "/status", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def _post(self, path, **body):
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def get(self, url):
        self._post(f"/session/{self._session}/url", url=url)

    def run(self, script):
        """The value of a piece of JavaScript, such as `return document.title`."""
        return self._post(f"/session/{self._session}/execute/sync", script=script, args=[])

    def look(self, width, height=900, scheme="light"):
        """Set the window and the colour scheme that the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._cdp("Emulation.setDeviceMetricsOverride", **size)
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _cdp(self, command, **params):
        return self._post(f"/session/{self._session}/goog/cdp/execute", cmd=command, params=params)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._cdp("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the page wrote to the console."""
        return self._post(f"/session/{self._session}/se/log", type="browser")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        request = urllib.request.Request(f"{self._url}/session/{self._session}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()
        self._driver.terminate()
        self._driver.wait(30)

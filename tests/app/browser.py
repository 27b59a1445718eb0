"""The page served as `kvplan app` serves it, and Debian's Chromium to look at it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

# Chromium as root in a container, and nothing that talks to anybody.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
# What the script's end looks like on screen.
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"
WARNING, ERROR = "[data-testid=stAlertContentWarning]", "[data-testid=stAlertContentError]"
# The numbers on screen: quantity -> (for people, exact).
NUMBERS = """() => Object.fromEntries([...document.querySelectorAll('.numbers div')].map(
    row => [row.querySelector('dt').innerText, [row.querySelector('dd').childNodes[0].data, row.querySelector('dd').title]]))"""
# Milliseconds from now until the numbers on screen are others: the next frame after the change was painted.
CHANGED = """() => { window.kvplanChange = new Promise((done, fail) => {
    const read = () => document.querySelector('.numbers')?.innerText, before = read(), start = performance.now();
    const watch = new MutationObserver(() => {
        const now = read();
        if (now && now !== before) { watch.disconnect(); requestAnimationFrame(() => done(performance.now() - start)); }
    });
    watch.observe(document.body, {subtree: true, childList: true, characterData: true});
    setTimeout(() => { watch.disconnect(); fail(new Error('the numbers did not change')); }, 20000);
}); }"""


def chromium() -> str | None:
    """Where a Chromium is: what KVPLAN_CHROMIUM says, else the one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("KVPLAN_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def served(wait: bool = True) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`kvplan app` on a free port: its address and its process."""
    port = free_port()
    command = [sys.executable, "-m", "kvplan", "app", "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}/"
    try:
        if wait:
            healthy(address, process)
        yield address, process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def healthy(address: str, process: subprocess.Popen[bytes], patience: float = 60) -> None:
    """Waits until the server answers."""
    end = time.monotonic() + patience
    while True:
        try:
            with urlopen(address + "_stcore/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
        time.sleep(0.02)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, through playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def settled(tab: Any, patience: float = 60) -> None:
    """Waits until the script has run and the pictures of the page are drawn."""
    tab.wait_for_selector(IDLE, timeout=patience * 1000)
    tab.wait_for_function(
        """() => document.querySelector('.st-key-view') && !document.querySelector('[data-testid=stSkeleton]')
        && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))""",
        timeout=patience * 1000,
    )
    tab.wait_for_timeout(250)
    tab.wait_for_selector(IDLE, timeout=patience * 1000)

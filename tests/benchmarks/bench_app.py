"""How fast the page is: a slider's change on screen, a cold start, twenty sessions at once.

    python tests/benchmarks/bench_app.py [--moves 60] [--starts 5] [--sessions 20] [--seconds 60]

Targets: numbers on screen 250 ms after a move at the median and 400 ms at p90; first contentful paint 4 s and first number
6.5 s after the command was started on a cold machine; twenty sessions for a minute without an error, p95 under 2 s on two
cores, memory flat after the warm-up. The browser is Chromium, driven by playwright. A tab of it costs several times what
the server does for it, and here both share the cores: of the sessions some are drawn in tabs, the others speak the
browser's protocol. Reports, asserts nothing but that no error was shown and that numbers came.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.app.browser import CHANGED, ERROR, healthy, launched, served, settled

LINK = "?gpu=h100&model=llama-3.1-8b"
# One session: moves the slider, waits for other numbers, thinks, moves again; answers with milliseconds.
SESSION = """async ([seconds, think, seed]) => {
    const slider = document.querySelector('.st-key-context input[type=range]');
    const read = () => document.querySelector('.numbers')?.textContent;
    const end = performance.now() + 1000 * seconds, times = [];
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    const pause = ms => new Promise(done => setTimeout(done, ms));
    const changed = before => new Promise((done, fail) => {
        const watch = new MutationObserver(() => { if (read() && read() !== before) { watch.disconnect(); done(); } });
        watch.observe(document.querySelector('[data-testid=stMain]'), {subtree: true, childList: true, characterData: true});
        setTimeout(() => { watch.disconnect(); fail(new Error('the numbers did not change')); }, 30000);
    });
    await pause(1000 * think * random());
    for (let step = 0; performance.now() < end; step++) {
        const start = performance.now(), key = step % 8 < 4 ? 'ArrowRight' : 'ArrowLeft', shown = changed(read());
        for (const type of ['keydown', 'keyup']) slider.dispatchEvent(new KeyboardEvent(type, {key, bubbles: true, cancelable: true}));
        await shown;
        times.push([start, performance.now() - start]);
        await pause(1000 * think * (0.5 + random()));
    }
    return times;
}"""
PAINTS = """() => [performance.timeOrigin, performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
    performance.timeOrigin + performance.now()]"""


def load() -> str:
    """What else the machine does."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def quantile(values: list[float], share: float) -> float:
    """The value that a share of the values does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def slider(browser: Any, address: str, moves: int) -> None:
    """Moves of the context slider by keyboard, warm: from the key to the frame that shows other numbers."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(address + LINK)
    settled(tab)
    tab.locator(".st-key-context input[type=range]").focus()
    times = []
    for i in range(moves + 4):
        tab.evaluate(CHANGED)
        tab.keyboard.press("ArrowRight" if i % 8 < 4 else "ArrowLeft")
        took = tab.evaluate("() => window.kvplanChange")
        settled(tab)
        times += [took] if i >= 4 else []
    tab.close()
    print(
        f"slider to numbers, {moves} moves: median {statistics.median(times):.0f} ms (target 250), p90 {quantile(times, 0.9):.0f} ms "
        f"(target 400), slowest {max(times):.0f} ms; {load()}"
    )


def forget() -> bool:
    """Drops the machine's file cache, so that a start is cold; False where that is not allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def start(browser: Any) -> tuple[float, float, bool]:
    """Seconds from the command to first contentful paint and to the first number."""
    cold = forget()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    began = time.time()
    with served(wait=False) as (address, process):
        healthy(address, process)
        tab.goto(address + LINK, wait_until="commit")
        tab.wait_for_selector(".numbers dd", timeout=60_000)
        origin, painted, now = tab.evaluate(PAINTS)
        context.close()
    return (origin + painted) / 1000 - began, now / 1000 - began, cold


def resident(pid: int) -> float:
    """MiB of memory that the server holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def visitor(address: str, seconds: int, think: float, seed: int, times: list[float], errors: list[str]) -> None:
    """A session as a browser opens it, without the drawing: Streamlit's own protocol over a websocket.

    Moves the context slider and waits until the numbers have come, as often as a person who thinks ``think`` seconds.
    """
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect

    chance = random.Random(seed)
    with connect(
        address.replace("http", "ws") + "_stcore/stream", subprotocols=["streamlit"], max_size=None, compression=None
    ) as line:

        def ask(stop: str | None) -> tuple[float, Any]:
            """Runs the script once: seconds until the numbers came, and the slider as it was drawn."""
            wanted = BackMsg()
            wanted.rerun_script.query_string = LINK.lstrip("?")
            if stop is not None:
                state = wanted.rerun_script.widget_states.widgets.add(id=drawn.id)
                state.string_array_value.data.append(stop)
            began, took, slider = time.perf_counter(), 0.0, None
            line.send(wanted.SerializeToString())
            while True:
                message = ForwardMsg.FromString(line.recv(timeout=60))
                kind = message.WhichOneof("type")
                if kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    return took, slider
                if kind != "delta":
                    continue
                element = message.delta.new_element
                if element.WhichOneof("type") == "slider" and element.slider.label.startswith("Context"):
                    slider = element.slider
                if element.WhichOneof("type") == "html" and 'class="numbers"' in element.html.body:
                    took = time.perf_counter() - began
                if element.WhichOneof("type") in ("exception", "alert") and element.alert.format == element.alert.ERROR:
                    errors.append(str(element)[:200])

        _, drawn = ask(None)
        stops, at, step = list(drawn.options), 8, 0
        end = time.monotonic() + seconds
        time.sleep(think * chance.random())
        while time.monotonic() < end:
            at, step = at + (1 if step % 8 < 4 else -1), step + 1
            took, _ = ask(stops[at])
            if not took:
                errors.append("no numbers came")
            times.append(1000 * took)
            time.sleep(think * (0.5 + chance.random()))


def crowd(browser: Any, sessions: int, seconds: int, think: float, drawn: int) -> None:
    """Sessions that move sliders at once, ``drawn`` of them in tabs of Chromium: latencies, memory, errors."""
    with served() as (address, process):
        tabs, said = [], []
        for _ in range(drawn):
            tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            tab.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
            tab.on("pageerror", lambda e: said.append(str(e)))
            tab.goto(address + LINK)
            tabs.append(tab)
        for tab in tabs:
            settled(tab, 180)
        arrived: list[float] = []
        errors: list[str] = []
        threads = [
            threading.Thread(target=visitor, args=(address, seconds, think, 100 + i, arrived, errors))
            for i in range(sessions - drawn)
        ]
        for thread in threads:
            thread.start()
        for i, tab in enumerate(tabs):
            tab.evaluate(f"args => {{ window.kvplanSession = ({SESSION})(args) }}", [seconds, think, 1000 + i])
        began, memory = time.monotonic(), []
        while time.monotonic() - began < seconds:
            time.sleep(1)
            memory.append(resident(process.pid))
        during = load()
        for thread in threads:
            thread.join(120)
        painted = [took for tab in tabs for _, took in tab.evaluate("() => window.kvplanSession")]
        errors += [tab.inner_text(ERROR) for tab in tabs if tab.locator(ERROR).count()]
        for tab in tabs:
            tab.context.close()
    third = len(memory) // 3
    total = len(painted) + len(arrived)
    print(
        f"{sessions} sessions, {seconds} s, {total} moves, {total / seconds:.1f} a second (think {think} s); {during}"
    )
    for name, times in (("numbers sent to a session", arrived), (f"numbers on screen, {drawn} in Chromium", painted)):
        if times:
            print(
                f"  {name}: median {statistics.median(times):.0f} ms, p95 {quantile(times, 0.95):.0f} ms (target 2000), "
                f"slowest {max(times):.0f} ms"
            )
    print(
        f"  memory of the server: {memory[third]:.0f} MiB after the warm-up, {memory[-1]:.0f} MiB at the end, "
        f"peak {max(memory):.0f} MiB; errors on pages {len(errors)}, in consoles {len(said)}"
    )
    assert not errors, errors[:3]
    assert not said, said[:3]


def main() -> None:
    """Runs what was asked for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--drawn", type=int, default=1, help="of the sessions, those in tabs of Chromium")
    parser.add_argument("--think", type=float, default=2.0, help="seconds between a session's moves, on average")
    given = parser.parse_args()
    with launched() as browser:
        if given.starts:
            found = [start(browser) for _ in range(given.starts)]
            paints, numbers = [row[0] for row in found], [row[1] for row in found]
            kind = "file cache dropped" if all(row[2] for row in found) else "file cache warm: may not be dropped here"
            print(
                f"start, {len(found)} times ({kind}): first contentful paint {statistics.median(paints):.2f} s at the median, "
                f"{max(paints):.2f} at worst (target 4), first number {statistics.median(numbers):.2f} s, {max(numbers):.2f} at "
                f"worst (target 6.5); {load()}"
            )
        if given.moves:
            with served() as (address, _):
                slider(browser, address, given.moves)
        if given.sessions:
            crowd(browser, given.sessions, given.seconds, given.think, min(given.drawn, given.sessions))


if __name__ == "__main__":
    main()

"""Look at the pages of the built book in Chromium, wide and on a phone, and count faults: `make test-pages`.

Counted on each page, at 1400 and at 400 pixels: blocks that are cut, code that must be scrolled on the wide screen,
blocks that scroll without saying so, pages wider than the screen, images without alt text, errors in the console and
requests to the network; with `--axe`, what axe-core calls serious or critical. Chromium is driven by its own protocol
over tornado, which Jupyter brings along.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

ROOT = Path(__file__).resolve().parents[1]
WIDE, PHONE = 1400, 400
LOCAL = ("file:", "data:", "blob:", "about:", "devtools:")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = "axe-core@4.14.1"  # of npm

COUNT = """
(async (wide) => {
  if (window.MathJax && MathJax.startup && MathJax.startup.promise) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  const found = [];
  const says = (what, node) => found.push([what, (node.className || node.tagName) + ": " +
      (node.textContent || node.getAttribute("src") || "").trim().slice(0, 60)]);
  const blocks = "article pre, article table, article img, article mjx-container, dt.sig";
  for (const node of document.querySelectorAll(blocks)) {
    if (!node.offsetParent) continue;
    const drawn = node.querySelector("svg") && node.tagName.startsWith("MJX") ? node.querySelector("svg") : node;
    const right = drawn.getBoundingClientRect().left + (drawn.scrollWidth || drawn.getBoundingClientRect().width);
    for (let box = node; box && box.tagName != "BODY"; box = box.parentElement) {
      const edge = box.getBoundingClientRect(), overflow = getComputedStyle(box).overflowX;
      if (overflow == "visible" || right <= edge.right + 1.5) continue;
      if (overflow == "hidden" || overflow == "clip") { says("cut", node); break; }
      if (wide && node.tagName == "PRE") says("code or text that must be scrolled", node);
      const paint = getComputedStyle(box).backgroundImage;
      if (!wide && !paint.includes("gradient")) says("scrolls without a hint", node);
      break;
    }
  }
  const over = document.documentElement.scrollWidth - window.innerWidth;
  if (over > 1) found.push(["wider than the screen", `by ${over} pixels`]);
  for (const image of document.images) if (!image.alt.trim()) says("no alt text", image);
  return found;
})(%s)
"""


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, program: str, profile: Path):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        command = [program, *options, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.profile, self.numbers, self.waiting = profile, itertools.count(1), {}
        self.events: list[dict[str, Any]] = []
        self.loaded = asyncio.Event()

    async def open(self) -> None:
        """Connect, and switch on what is listened to."""
        where = self.profile / "DevToolsActivePort"
        for _ in range(300):
            if where.exists() and where.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        else:
            raise SystemExit("Chromium did not start within 30 seconds")
        port, path = where.read_text().split("\n")[:2]
        self.socket = await websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=2**28)
        self.reader = asyncio.create_task(self._read())
        self.session = None
        target = await self.ask("Target.createTarget", url="about:blank")
        self.session = (await self.ask("Target.attachToTarget", flatten=True, **target))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.ask(f"{domain}.enable")

    async def _read(self) -> None:
        while (message := await self.socket.read_message()) is not None:
            message = json.loads(message)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            elif message["method"] == "Page.loadEventFired":
                self.loaded.set()
            else:
                self.events.append(message)
        for answered in (one for one in self.waiting.values() if not one.done()):
            answered.set_exception(ConnectionError("Chromium hung up: it ended, or said more than is read at once."))

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol and wait for its answer."""
        number = next(self.numbers)
        self.waiting[number] = answered = asyncio.get_running_loop().create_future()
        session = {"sessionId": self.session} if self.session else {}
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": parameters} | session))
        answer = await asyncio.wait_for(answered, 300)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def say(self, script: str) -> Any:
        """The value of a script, of a promise when it is kept."""
        answer = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def go(self, page: Path) -> None:
        """Open a page and wait until it has loaded."""
        self.loaded.clear()
        await self.ask("Page.navigate", url=page.as_uri())
        await asyncio.wait_for(self.loaded.wait(), 300)

    async def look(self, page: Path, width: int, axe: str) -> list[tuple[str, str]]:
        """What is wrong with a page at a width: pairs of a kind and where."""
        self.events.clear()
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        await self.go(page)
        found = [tuple(one) for one in await self.say(COUNT % str(width == WIDE).lower())]
        for event in self.events:
            given = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(("error in the console", given["exceptionDetails"]["text"]))
            elif event["method"] == "Log.entryAdded" and given["entry"]["level"] == "error":
                found.append(("error in the console", given["entry"]["text"][:120]))
            elif event["method"] == "Network.requestWillBeSent" and not given["request"]["url"].startswith(LOCAL):
                found.append(("request to the network", given["request"]["url"][:120]))
        if axe:
            await self.say(axe + "; 0")
            kinds = "['critical', 'serious']"
            script = f"axe.run({{preload: false}}).then(r => r.violations.filter(v => {kinds}.includes(v.impact))" + (
                ".flatMap(v => v.nodes.map(n => ['axe: ' + v.id, n.target.join(' ') + ' ' + n.html.slice(0, 90)])))"
            )
            found += [tuple(one) for one in await self.say(script)]
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def program() -> str | None:
    """Where a Chromium is installed here."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def axe_core(folder: Path) -> str:
    """The source of axe-core, fetched by npm into a folder."""
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), AXE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


async def browse(pages: list[Path], html: Path, axe: bool) -> Counter:
    """Print what is wrong with each page, and count it by kind."""
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        source = axe_core(Path(scratch) / "npm") if axe else ""
        browser = Browser(program(), Path(scratch) / "profile")
        try:
            await browser.open()
            for page in pages:
                for width in (WIDE, PHONE):
                    for what, where in await browser.look(page, width, source):
                        counts[what, width] += 1
                        print(f"{page.relative_to(html)}, {width} px, {what}: {' '.join(where.split())}", flush=True)
        finally:
            browser.close()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built book")
    parser.add_argument("--axe", action="store_true", help="run axe-core too, from npm")
    parser.add_argument("pages", nargs="*", help="parts of the addresses of pages; none: all")
    given = parser.parse_args()
    if program() is None or (given.axe and shutil.which("npm") is None):
        print("test-pages: Chromium (and npm, for axe-core) is not installed here: nothing was looked at.")
        return 0
    html = given.html.resolve()
    pages = [page for page in sorted(html.rglob("*.html")) if "_static" not in page.relative_to(html).parts]
    pages = [page for page in pages if 'http-equiv="Refresh"' not in page.read_text()]
    pages = [page for page in pages if not given.pages or any(part in page.as_posix() for part in given.pages)]
    if not pages:
        print(f"test-pages: no page in {html}: build the book first (make pages)")
        return 1
    counts = asyncio.run(browse(pages, html, given.axe))
    for (what, width), number in sorted(counts.items()):
        print(f"{number} at {width} pixels: {what}")
    print(f"{len(pages)} pages, {sum(counts.values())} findings")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())

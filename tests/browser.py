"""A real browser without a window: what a page looks like to it, and to who reads it otherwise."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
AXE_PLACES = (os.environ.get("FP8DOCTOR_AXE", ""), "node_modules/axe-core/axe.min.js")
# The page's own policy lets no script run; the copy that is examined must.
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@functools.lru_cache(maxsize=1)
def missing() -> str:
    """What of the two is not here; "" if nothing."""
    lacking = [] if _chromium() else ["Chromium"]
    return " and ".join(lacking + ([] if _axe() else ["axe-core"]))


def _chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _axe() -> Path | None:
    return next((Path(place) for place in AXE_PLACES if place and Path(place).is_file()), None)


def run(page: str, *flags: str, dark: bool = False, width: int = 1280, height: int = 900) -> str:
    """Open the page; returns its elements as they are once all is drawn (`--dump-dom` is asked for by default)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        command = [
            *(_chromium() or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *("--blink-settings=preferredColorScheme=0",) * dark,
            *(f"--window-size={width},{height}", "--virtual-time-budget=60000"),
            *(flags or ("--dump-dom",)),
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
        return done.stdout


def answer(page: str, script: str, **how: Any) -> Any:
    """What a script says of the page, as JSON: `script` is an expression that may be a promise."""
    asks = (
        f"Promise.resolve({script}).then(found => {{ const shown = document.createElement('pre'); shown.id = 'said';"
        "shown.textContent = JSON.stringify(found); document.body.append(shown) })"
    )
    opened = POLICY.sub("", page, count=1).replace("</body>", f"<script>{asks}</script></body>")
    found = re.search(r'<pre id="said">(.*?)</pre>', run(opened, **how), re.DOTALL)
    assert found, "the script did not end"
    return json.loads(html.unescape(found[1]))


def barriers(page: str, **how: Any) -> list[Any]:
    """What axe-core calls a violation: [rule, how often, the first element]."""
    axe = _axe()
    assert axe is not None
    library = axe.read_text(encoding="utf-8").replace("</script", "<\\/script")
    with_axe = page.replace("</body>", f"<script>{library}</script></body>")
    listed = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
    found: list[Any] = answer(with_axe, listed, **how)
    return found

"""Takes the pictures of the documentation anew, with Chromium: python -m tests.docs.screenshots"""

from __future__ import annotations

from pathlib import Path

from fp8doctor import api
from tests import browser

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
BOX = ROOT / "tests" / "boxes" / "h200-everything.json"
# Name, width, height, dark.
PICTURES = (("report-wide", 1280, 1500, False), ("report-phone", 500, 1500, False), ("report-dark", 1280, 1500, True))


def main() -> None:
    """Write each picture; look at them."""
    page = api.diagnose(BOX, source="demo").to_html()
    IMAGES.mkdir(exist_ok=True)
    for name, width, height, dark in PICTURES:
        browser.run(
            page,
            f"--screenshot={IMAGES / name}.png",
            "--hide-scrollbars",
            width=width,
            height=height,
            dark=dark,
        )
    charts = page.replace(
        "</head>", "<style>header, section:not([aria-labelledby=charts]) { display: none }</style></head>"
    )
    browser.run(charts, f"--screenshot={IMAGES / 'report-charts'}.png", "--hide-scrollbars", height=1900)
    print(*sorted(IMAGES.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()

"""How the pages are built: python -m sphinx -W -n --keep-going -b html docs FOLDER."""

from __future__ import annotations

from pygments.lexers import TextLexer
from sphinx.application import Sphinx

import fp8doctor

project = "fp8doctor"
author = "the authors of fp8doctor"
release = version = fp8doctor.__version__
html_title = f"fp8doctor {release}"
html_theme = "furo"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# As deep as GitHub's own links to headings are used here.
myst_heading_anchors = 3
autodoc_member_order = "bysource"
# The standard library's pages are not at hand, as the build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!fp8doctor).*")]

# What lies outside of this folder and is a page here: links lead to the file on GitHub, and to the page in the build.
OUTSIDE = {
    "../benchmarks/RESULTS.md": "results.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../README.md": "index.md",
    "../examples/bot/README.md": "bots-example.md",
}


def setup(app: Sphinx) -> None:
    """Let links to what lies outside lead to its page, and show a report in a console block as it is."""
    app.connect("source-read", lead_inside)
    app.add_lexer("console", TextLexer)


def lead_inside(app: Sphinx, page: str, source: list[str]) -> None:
    """Exchange the links of a page."""
    for outside, inside in OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({inside}")

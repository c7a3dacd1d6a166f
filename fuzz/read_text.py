"""Is there a text that `fp8doctor.read` crashes on, or takes too long for? Looked for by coverage, with atheris.

    python -m pip install atheris            # CPython 3.8 to 3.12, Linux or macOS
    python fuzz/read_text.py -max_total_time=600 -max_len=8192 CORPUS_FOLDER

CORPUS_FOLDER holds texts to start from, and takes up those that reach something new; it may be empty. A crash leaves
its text in a file `crash-...`; `python fuzz/read_text.py crash-...` runs it again. Without atheris there is a shorter
look for the same in tests/reading/test_hostile.py, by hypothesis; CI runs that.
"""

from __future__ import annotations

import sys
import time
from typing import Any

# A text of a few kilobytes takes milliseconds; coverage makes that several times as long.
MOST_S = 2.0


def one_input(data: bytes) -> None:
    """Read one text; anything but a report or a refusal is a fault."""
    from fp8doctor import api
    from fp8doctor.store import NotAFactsFileError

    started = time.monotonic()
    try:
        report = api.read(data)
    except (api.NothingRecognisedError, NotAFactsFileError):
        return
    api.report_to_json(report)
    api.report_to_markdown(report)
    if any(outcome.outcome == "crashed" for outcome in report.outcomes):
        raise AssertionError("a rule crashed")
    if time.monotonic() - started > MOST_S:
        raise AssertionError("too slow")


def main() -> None:
    """Hand over to atheris."""
    try:
        atheris: Any = __import__("atheris")
    except ImportError:
        sys.exit("atheris is not installed; see the head of this file")
    with atheris.instrument_imports(include=["fp8doctor"]):
        import fp8doctor.api

        fp8doctor.api.knowledge()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

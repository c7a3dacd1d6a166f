"""Is there a file that `fp8doctor.trace` crashes on, or takes too long for? Looked for by coverage, with atheris.

    python -m pip install atheris            # CPython 3.8 to 3.12, Linux or macOS
    python fuzz/read_trace.py -max_total_time=600 -max_len=8192 CORPUS_FOLDER

CORPUS_FOLDER holds traces to start from (small ones: JSON, gzip, SQLite), and takes up those that reach something new;
it may be empty. A crash leaves its file `crash-...`; `python fuzz/read_trace.py crash-...` runs it again. Without
atheris there is a shorter look for the same in tests/reading/trace/test_properties.py, by hypothesis; CI runs that.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# A trace of a few kilobytes takes milliseconds; coverage makes that several times as long.
MOST_S = 2.0
MAX_BYTES = 64 << 20
PATH = Path(tempfile.gettempdir()) / f"fuzzed-{os.getpid()}.trace"


def one_input(data: bytes) -> None:
    """Read one trace; anything but a report or a refusal of one sentence is a fault."""
    from fp8doctor import api
    from fp8doctor.reading.trace import NotATraceError, add_up

    PATH.write_bytes(data)
    started = time.monotonic()
    try:
        trace = add_up([PATH], api.knowledge().kernels, max_bytes=MAX_BYTES)
    except NotATraceError as error:
        if "\n" in str(error):
            raise AssertionError("more than a sentence") from error
        return
    if trace.us_by_kind is not None:
        busy, span = trace.busy_us or 0.0, trace.span_us or 0.0
        if not 0 <= busy <= span:
            raise AssertionError(f"busy for {busy} of {span} us")
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
        import fp8doctor.reading.trace

        fp8doctor.api.knowledge()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

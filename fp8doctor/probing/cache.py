"""Where does the doctor keep what it makes, so that the user's own caches stay as they are?"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def cache_folder(keep: bool) -> Iterator[str | None]:
    """The doctor's own cache folder, or one that is gone afterwards; None if neither can be had."""
    folder = _own_cache() if keep else None
    if folder is not None:
        yield str(folder)
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="fp8doctor-", ignore_cleanup_errors=True)
    except OSError:
        yield None
        return
    with temporary as name:
        yield name


def own_folder() -> Path:
    """The doctor's own cache folder, whether it is there or not.

    Raises:
        RuntimeError: if no home folder is known.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fp8doctor"


def _own_cache() -> Path | None:
    try:
        folder = own_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None

"""Does the system let the doctor work here at all?"""

from __future__ import annotations

import sys

# Each child takes some five descriptors while it starts, and ten may run side by side.
FILES = 128


def why_not_python() -> str | None:
    """Why this Python cannot run the doctor, None if it can."""
    if sys.flags.optimize > 1:
        return "started with PYTHONOPTIMIZE=2 or -OO, Python leaves out the texts that the rules are; use 1 or less"
    return None


def why_no_children() -> str | None:
    """Why no probe can be run, None if they can. A limit that may be raised is raised, for this process alone."""
    try:
        import resource
    except ImportError:  # Windows, where nothing is examined
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        return f"only {hard} files may be open at a time (ulimit -n), and {FILES} are needed to examine anything"
    if soft != resource.RLIM_INFINITY and soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    return None

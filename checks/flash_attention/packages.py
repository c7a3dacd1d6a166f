"""Where are the FlashAttention packages? Looked up without importing one of them.

Imported in children by several subjects: nothing but the standard library at module level.
"""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation

# Names of the distributions: setup.py, hopper/setup.py (its history for the older name) and the wheel of FlashAttention
# 4. hopper/setup.py of v2.7.3 called FlashAttention 3 "flash_attn", too: told apart by the version.
_DISTRIBUTIONS = {2: ("flash-attn",), 3: ("flash-attn-3", "flashattn-hopper", "flash-attn"), 4: ("flash-attn-4",)}
# Where flash_attn_func lives; the first that is there is imported (two names of FlashAttention 3 are one extension).
MODULES = {
    2: ("flash_attn",),
    3: ("flash_attn_interface", "flash_attn_3.flash_attn_interface"),
    4: ("flash_attn.cute",),
}


def find() -> FlashAttention:
    """What is there of each generation, and what the name `flash_attn` leads to."""
    return FlashAttention(
        generations=tuple(_find(number) for number in MODULES),
        flash_attn_name=_kind("flash_attn"),
        namespace_folders=_entries("flash_attn") if _kind("flash_attn") == "namespace" else None,
    )


def _find(number: int) -> Generation:
    distribution, version = _distribution(number)
    modules = tuple(name for name in MODULES[number] if _has_code(name))
    if number == 4 and distribution is None and _kind("flash_attn") == "package":
        # FlashAttention 2 brings an early copy of flash_attn/cute (2.8.3 does); that is not FlashAttention 4.
        modules = ()
    return Generation(
        generation=number,
        installed=distribution is not None or bool(modules),
        distribution=distribution,
        version=version,
        modules=modules,
    )


def _distribution(number: int) -> tuple[str | None, str | None]:
    for name in _DISTRIBUTIONS[number]:
        try:
            version = metadata.version(name)
        except Exception:  # not there, or metadata that cannot be read
            continue
        if name != "flash-attn" or (number == 3) == str(version).startswith("3."):
            return name, str(version) if version else None
    return None, None


def _kind(name: str) -> str:
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):
        return "absent"
    if spec is None:
        return "absent"
    # A namespace package has no file of its own.
    return "package" if spec.origin is not None else "namespace"


def _has_code(name: str) -> bool:
    """True if the module has a file; the parents' code, which may crash, is not run to find out."""
    top, *rest = name.split(".")
    if not rest:
        return _kind(top) == "package"
    return any(
        (folder.joinpath(*rest) / "__init__.py").is_file() or folder.joinpath(*rest).with_suffix(".py").is_file()
        for folder in _folders(top)
    )


def _folders(name: str) -> tuple[Path, ...]:
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):
        return ()
    return tuple(Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ())


def _entries(name: str) -> tuple[str, ...]:
    return tuple(sorted({entry.name for folder in _folders(name) for entry in folder.iterdir()}))

"""Libraries: which packages are installed, and which shared libraries does torch really load?"""

from fp8doctor.checks.libraries.facts import Libraries, LoadedLibrary, Overwritten, release

__all__ = ["Libraries", "LoadedLibrary", "Overwritten", "release"]

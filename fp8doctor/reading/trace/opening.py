"""Which bytes does a trace file hold, compressed or not?"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from fp8doctor.reading.trace.refusal import NotATraceError

# A profile of 8 GB takes minutes to read and hours to look at; what unpacks to more is a mistake or an attack.
MAX_UNPACKED_BYTES = 8 * 1024**3
SQLITE = b"SQLite format 3\x00"
_GZIP = b"\x1f\x8b"
# Formats that people take for one that can be read, by their first bytes, and what to do instead.
_OTHERS = (
    (b"PK\x03\x04", "is a zip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first"),
    (b"BZh", "is compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed with xz: unpack it first"),
    (b"QDSTRM", "is a raw recording of Nsight Systems: export it with `nsys export --type sqlite`"),
)
_READ_BYTES = 1 << 20


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, by which its format is told.

    Raises:
        NotATraceError: if it cannot be read, is empty or in a format known to be none of ours.
    """
    if path.is_dir():
        raise NotATraceError(f"{path} is a folder: name the trace file in it")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise NotATraceError(f"{path} cannot be read: {error.strerror or error}") from None
    if not head:
        raise NotATraceError(f"{path} is empty")
    if path.suffix == ".nsys-rep":
        raise NotATraceError(f"{path} is a report of Nsight Systems: export it with `nsys export --type sqlite`")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise NotATraceError(f"{path} {what}")
    return head


class Source:
    """The unpacked bytes of one file, piece by piece; `cut` says afterwards that a compressed file ended too early."""

    def __init__(self, path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.read_bytes = 0
        self.cut = False

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order.

        Raises:
            NotATraceError: if there are more than `max_bytes`, or the compressed data is broken from the start.
        """
        packed = first_bytes(self.path).startswith(_GZIP)
        try:
            with self.path.open("rb") as file:
                blocks = iter(lambda: file.read(_READ_BYTES), b"")
                for piece in self._unpacked(blocks) if packed else blocks:
                    self.read_bytes += len(piece)
                    if self.read_bytes > self.max_bytes:
                        size = f"{self.max_bytes / 1024**3:.3g} GiB"
                        raise NotATraceError(f"{self.path} holds more than {size} unpacked: record fewer steps")
                    yield piece
        except OSError as error:
            raise NotATraceError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _unpacked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        # Not gzip.open: that raises at a cut end and loses what it had unpacked until there.
        stream = zlib.decompressobj(wbits=31)
        for block in blocks:
            while block:
                try:
                    piece = stream.decompress(block, _READ_BYTES)
                except zlib.error:
                    if not self.read_bytes:
                        raise NotATraceError(f"{self.path} is gzip by its first bytes, and broken") from None
                    self.cut = True
                    return
                if piece:
                    yield piece
                block = stream.unconsumed_tail
                if stream.eof:  # gzip files may be several, one after the other
                    block = stream.unused_data.lstrip(b"\0")
                    if block:
                        stream = zlib.decompressobj(wbits=31)
        self.cut = not stream.eof

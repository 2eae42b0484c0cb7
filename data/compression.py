"""Files as they are read: from disk or object storage, compressed or not."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

# By the end of a file's name.
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


def open_file(path: str) -> io.BufferedReader:
    """A file to read, from disk or object storage; decompressed when its name says it must be.

    Raises:
        OSError: it cannot be opened. Reading from it raises EOFError where compression is broken.
    """
    import fsspec

    opened: Any = fsspec.open(path, "rb")
    raw: Any = opened.open()
    suffix = path[path.rfind(".") :].lower()
    decompressor = DECOMPRESSORS.get(suffix)
    return io.BufferedReader(_Decompressed(raw, decompressor) if decompressor else raw, 1 << 20)


class _Decompressed(io.RawIOBase):
    """Every frame of a compressed file, up to the very place where it breaks off.

    Breaking off is an EOFError, never an end.
    The libraries' own file objects lose what they had decompressed before an error, or (Zstandard)
    notice none.
    """

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]):
        self._file, self._new = file, decompressor
        self._frame, self._ready, self._input = None, b"", b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._input = self._input or self._file.read(1 << 16)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends inside it")
                return 0
            if self._frame is None:
                self._input = self._input.lstrip(b"\0")  # padding between frames
                if not self._input:
                    continue
                self._frame = self._new()
            try:
                self._ready = self._frame.decompress(self._input)
            except Exception as error:  # each library has its own
                raise EOFError(str(error)) from error
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

"""Cuts files into numbered raw rows without holding more than a row or a chunk in memory."""

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from pipeline.errors import UserError

CHUNK_BYTES = 1 << 16
MAX_ELEMENT_CHARACTERS = 1 << 24
"""Longest JSON array element, so that a broken file is refused before it fills the memory."""
JSON_BLANKS = re.compile(r"[ \t\r\n]*")


@contextmanager
def open_for_reading(path: Path) -> Iterator[BufferedReader]:
    """Open a file as bytes; one that is missing, cannot be read, or breaks off is the user's mistake."""
    if os.path.isdir(path):  # unlike `Path.is_dir`, it takes any name, also one that is too long
        raise UserError(f"{path}: is a directory; name a file in it.")
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path.") from error
    except (OSError, ValueError) as error:  # a ValueError is a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path and its permissions.") from error
    with handle:
        try:
            yield handle
        except OSError as error:
            raise UserError(f"{path}: cannot be read to its end ({error.strerror}); check the disk.") from error


def numbered_lines(handle: Iterable[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its number, without line end (LF or CRLF) and byte order mark.

    Only LF ends a line: texts hold characters such as U+2028 that Python's ``splitlines`` would cut at. Blank lines are
    yielded (as empty) only where another row follows; at the end of a file they mean nothing.

    Args:
        handle: The lines, up to and with the LF.
        first: The number of the first of them; a byte order mark stands in line 1 only.
    """
    num_blank = 0
    for number, line in enumerate(handle, start=first):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if not line.strip():
            num_blank += 1
            continue
        for blank in range(number - num_blank, number):
            yield blank, b""
        num_blank = 0
        yield number, line


def numbered_blocks(handle: BufferedReader, num_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield a file in blocks of whole lines, each with the number of its first line.

    Blank lines at the end of a block are moved to the next one, and dropped at the end of the file.

    Args:
        handle: The file, at its beginning.
        num_bytes: What a block holds more or less: its last line is completed.
    """
    number, blank_lines = 1, b""
    while read := handle.read(num_bytes):
        block = blank_lines + read + handle.readline()
        rows = block.rstrip()
        if not rows or (number == 1 and rows == codecs.BOM_UTF8):
            blank_lines = block
            continue
        end = block.find(b"\n", len(rows)) + 1 or len(block)
        block, blank_lines = block[:end], block[end:]
        yield number, block
        number += block.count(b"\n")


def numbered_elements(handle: BufferedReader, source: str) -> Iterator[tuple[int, object]]:
    """Yield each element of a JSON array with the line it begins on.

    Args:
        handle: The file, at its beginning.
        source: Its name, for messages.

    Raises:
        UserError: If the file is not a JSON array. Nothing can be skipped then, because where the next element begins
            is unknown.
    """
    window = _Window(handle, source)
    if window.next_character() == "":
        return
    window.take("[")
    if window.next_character() != "]":
        while True:
            window.next_character()
            yield window.line, window.take_element()
            if window.next_character() != ",":
                break
            window.take(",")
    window.take("]")
    if window.next_character():
        raise window.fault("text after the closing `]`")


class _Window:
    """The part of a JSON text that is in memory, and the place in it."""

    def __init__(self, handle: BufferedReader, source: str) -> None:
        self.line = 1
        self._handle, self._source = handle, source
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text, self._place, self._ended = "", 0, False

    def next_character(self) -> str:
        """Skip blanks and return the character there without taking it; nothing at the end of the file."""
        while True:
            blanks = JSON_BLANKS.match(self._text, self._place)
            assert blanks is not None  # matches the empty text too
            self._advance(blanks.end())
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._grow()

    def take(self, character: str) -> None:
        if self.next_character() != character:
            raise self.fault(f"`{character}` expected")
        self._advance(self._place + 1)

    def take_element(self) -> object:
        while True:
            try:
                element, end = self._json.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                # The element may only be cut off by the end of the chunk.
                if self._ended or len(self._text) - self._place > MAX_ELEMENT_CHARACTERS:
                    self._advance(getattr(error, "pos", self._place))
                    raise self.fault(getattr(error, "msg", str(error))) from error
            else:
                # A number may go on in the next chunk: of `1e+` here, only the `1` is read.
                if self._ended or end + 2 < len(self._text):
                    self._advance(end)
                    return element
            self._grow()

    def fault(self, what: str) -> UserError:
        return UserError(f"{self._source}:{self.line}: not a valid JSON array ({what}); correct it, or write JSONL.")

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _grow(self) -> None:
        chunk = self._handle.read(CHUNK_BYTES)
        self._text, self._place = self._text[self._place :], 0
        self._ended = not chunk
        try:
            self._text += self._utf8.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n") + error.object[: error.start].count(b"\n")
            raise UserError(f"{self._source}:{line}: not UTF-8; save the file as UTF-8.") from error

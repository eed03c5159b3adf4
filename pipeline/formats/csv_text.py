"""Rows and cells of a table in text: its encoding, delimiter, quotes and decimal mark, each by a rule or by an error.

Python's csv module parses; its Sniffer, which estimates a delimiter from frequencies of characters, is not used.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

from pipeline.formats.text_files import parse_number

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


class Dialect(NamedTuple):
    """Form of a text: the delimiter of its cells, and its encoding."""

    delimiter: str
    encoding: str


class Row(NamedTuple):
    """Cells of a row without surrounding spaces, and its line in the file, from 1."""

    line: int
    cells: list[str]


def find_encoding(beginning: bytes) -> str:
    """Return UTF-16 for a text that begins with its byte order mark, else UTF-8, with or without one."""
    return "utf-16" if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_rows(stream: IO[bytes], dialect: Dialect, *, file: str) -> Iterator[Row]:
    """Yield the rows that are not empty, in one pass, and close the stream.

    A cell that holds a delimiter or a quote is in double quotes; a quote in it is doubled. No cell holds a line break.

    Args:
        file: its name in messages

    Raises:
        ValueError: with file and line, if the text is not of this form.
    """
    with io.TextIOWrapper(stream, encoding=dialect.encoding, newline="") as lines:
        rows = csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=True, strict=True)
        try:
            yield from _check_rows(rows, file=file)
        except UnicodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from None
        except csv.Error as error:
            raise ValueError(
                f"{file}: line {rows.line_num} cannot be read as CSV ({error}); correct its quotes"
            ) from None


class _Parser(Protocol):
    """What csv.reader returns."""

    @property
    def line_num(self) -> int: ...
    def __iter__(self) -> Iterator[list[str]]: ...


def _check_rows(rows: _Parser, *, file: str) -> Iterator[Row]:
    line = 0
    for cells in rows:
        if rows.line_num > line + 1:
            raise ValueError(
                f"{file}: the cell that begins in line {line + 1} ends in line {rows.line_num}; close its quote"
            )
        line = rows.line_num
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield Row(line, stripped)


class Numbers:
    """Reads the numbers of a file, which all have a decimal point or all a decimal comma.

    A comma counts as decimal mark if it is not the delimiter.
    """

    def __init__(self, delimiter: str) -> None:
        self._has_commas = delimiter != ","
        self._lines: dict[str, tuple[int, str]] = {}

    def read(self, text: str, *, line: int) -> float:
        """Return a number, NaN for anything else."""
        number = parse_decimal(text) if self._has_commas else parse_number(text)
        if self._has_commas and math.isfinite(number):
            for mark in ",.":
                if mark in text:
                    self._lines.setdefault(mark, (line, text))
        return number

    def check(self, *, file: str) -> None:
        """Raise a ValueError if some numbers have a decimal point and others a comma."""
        if len(self._lines) == 2:
            (comma, first), (point, second) = self._lines[","], self._lines["."]
            raise ValueError(
                f"{file}: line {comma} has {first} and line {point} has {second}, so it is not known whether the comma "
                "is a decimal mark; write all numbers alike"
            )


def parse_decimal(text: str) -> float:
    """Return a number with a decimal point or a decimal comma, NaN for anything else."""
    if "," in text and "." in text:
        return math.nan
    return parse_number(text.replace(",", "."))

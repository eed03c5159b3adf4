"""Rows and cells of a table in text: encoding, delimiter, quotes and decimal mark are given, or follow from a rule.

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
from pipeline.params.data import Table

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


class Dialect(NamedTuple):
    """Form of a text.

    Attributes:
        delimiter: of cells.
        quote: around a cell that holds a delimiter; None: quotes are ordinary characters.
        decimal: mark of numbers; None: a point, or a comma that is not the delimiter.
    """

    delimiter: str
    encoding: str
    quote: str | None = '"'
    decimal: str | None = None

    @property
    def has_commas(self) -> bool:
        """Whether a number may have a decimal comma."""
        return self.delimiter != "," if self.decimal is None else self.decimal == ","


class Row(NamedTuple):
    """Cells of a row without surrounding spaces, and its line in the file, from 1."""

    line: int
    cells: list[str]


def find_encoding(beginning: bytes) -> str:
    """Return UTF-16 for a text that begins with its byte order mark, else UTF-8, with or without one."""
    return "utf-16" if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def find_dialects(beginning: bytes, form: Table | None = None) -> list[Dialect]:
    """Return the forms that a text may have: as given, else with each delimiter."""
    encoding = find_encoding(beginning)
    if form is None:
        return [Dialect(delimiter, encoding) for delimiter in DELIMITERS]
    quote = '"' if form.quote is None else form.quote
    delimiters = DELIMITERS if form.delimiter is None else [form.delimiter]
    return [
        Dialect(one, encoding, None if quote == "none" else quote, form.decimal) for one in delimiters if one != quote
    ]


def read_rows(stream: IO[bytes], dialect: Dialect, *, file: str) -> Iterator[Row]:
    """Yield the rows that are not empty, in one pass, and close the stream.

    A cell that holds a delimiter or a quote is in quotes; a quote in it is doubled. No cell holds a line break.

    Args:
        file: its name in messages

    Raises:
        ValueError: with file and line, if the text is not of this form.
    """
    with io.TextIOWrapper(stream, encoding=dialect.encoding, newline="") as lines:
        rows = csv.reader(
            lines,
            delimiter=dialect.delimiter,
            quotechar=dialect.quote,
            quoting=csv.QUOTE_NONE if dialect.quote is None else csv.QUOTE_MINIMAL,
            skipinitialspace=True,
            strict=True,
        )
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

    Without a given mark, a comma is one if it is not the delimiter.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lines: dict[str, tuple[int, str]] = {}

    def read(self, text: str, *, line: int) -> float:
        """Return a number, NaN for anything else."""
        number = parse_decimal(text, self._dialect)
        if self._dialect.decimal is None and math.isfinite(number):
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
                "is a decimal mark; write all numbers alike, or set data.csv.decimal"
            )


def parse_decimal(text: str, dialect: Dialect) -> float:
    """Return a number with the decimal mark of the text, NaN for anything else."""
    if not dialect.has_commas:
        return parse_number(text)
    is_other = "." in text and (dialect.decimal is not None or "," in text)
    return math.nan if is_other else parse_number(text.replace(",", "."))

"""Manifests: CSV and TSV with any column names, JSON lists, JSON lines (NeMo manifests)."""

from __future__ import annotations

import codecs
import csv
import json
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TextIO

from myna.data.sources.rows import RowContext, bad_row, find_columns, to_recording
from myna.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from myna.samples import Recording, Refusal

MAX_FIELD_CHARACTERS = 1_000_000  # one CSV field; more is a quote that was never closed
MAX_JSON_BYTES = 1 << 30  # a JSON list is read as a whole
MAX_LINE_CHARACTERS = 1_000_000
_ROWS_TO_LEARN_KEYS_FROM = 1000


def read_table(path: Path, columns: Mapping[str, str], context: RowContext) -> Iterator[Recording | Refusal]:
    """Rows of a manifest: a JSON list, JSON lines or CSV, told by its first character.

    Raises:
        SourceError: when it is none of these, or lacks a column for the audio or the transcript.
    """
    try:
        with path.open(encoding=text_encoding(path), errors="surrogateescape", newline="") as file:
            start = file.read(1024).lstrip()
            file.seek(0)
            if start.startswith("["):
                yield from _read_records(_json_list(path, file), columns, context)
            elif start.startswith("{"):
                yield from _read_records(_json_lines(file), columns, context)
            else:
                yield from _read_csv(file, start, path.suffix.casefold() == ".tsv", columns, context)
    except (OSError, UnicodeError) as error:
        raise SourceError(f"{context.origin}: expected a manifest to read; received {error}") from None


def text_encoding(path: Path) -> str:
    """UTF-8, unless a byte order mark says UTF-16: spreadsheets on Windows write that."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _read_records(
    records: Iterator[tuple[str, Any]], columns: Mapping[str, str], context: RowContext
) -> Iterator[Recording | Refusal]:
    """Rows from (row name, JSON object) pairs; a str in the place of the object says what is wrong with the row."""
    first = list(islice(records, _ROWS_TO_LEARN_KEYS_FROM))
    keys = {key: None for _, record in first if isinstance(record, dict) for key in record}
    roles = find_columns(list(keys), columns, context)
    for row_name, record in chain(first, records):
        if isinstance(record, dict):
            yield to_recording({role: record.get(key) for role, key in roles.items()}, row_name, context)
        else:
            problem = record if isinstance(record, str) else f"received a {type(record).__name__}"
            yield bad_row({}, f"{row_name}: expected an object with keys; {problem:.200}", context)


def _json_list(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise SourceError(
            f"{path}: expected a JSON list of at most {MAX_JSON_BYTES:,} bytes; received {path.stat().st_size:,}",
            "Write it as JSON lines, one object a line: those are read row by row",
        )
    try:
        records = json.load(file)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected a JSON list; received {error}") from None
    return ((f"item {number}", record) for number, record in enumerate(records, 1))


def _json_lines(file: TextIO) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(file):
        if line is None:
            yield f"line {number}", f"received over {MAX_LINE_CHARACTERS:,} characters in one line"
        elif line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number}", f"received {error}"


def _lines(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """Numbered lines, None for one that is too long to hold."""
    number = 1
    while line := file.readline(MAX_LINE_CHARACTERS):
        too_long = len(line) == MAX_LINE_CHARACTERS and not line.endswith("\n")
        while too_long and (rest := file.readline(MAX_LINE_CHARACTERS)) and not rest.endswith("\n"):
            pass
        yield number, None if too_long else line
        number += 1


def _read_csv(
    file: TextIO, start: str, tabs: bool, columns: Mapping[str, str], context: RowContext
) -> Iterator[Recording | Refusal]:
    header_line = start.splitlines()[0] if start else ""
    delimiter = "\t" if tabs else max(",;\t|", key=header_line.count)
    # Tab-separated files are seldom quoted: a quote at the start of a sentence would swallow all rows to the next one.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(file, delimiter=delimiter, quoting=quoting)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise SourceError(f"{context.origin}: expected a header line; received {error}") from None
    roles = find_columns(header, columns, context)
    positions = {role: header.index(name) for role, name in roles.items()}
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield bad_row({}, f"line {reader.line_num}: expected CSV; received {error}", context)
            continue
        if not row:
            continue
        if delimiter == "\t":
            row = [_unquoted(field) for field in row]
        yield _csv_row(row, positions, len(header), f"line {reader.line_num}", context)


def _csv_row(
    row: list[str], positions: Mapping[str, int], width: int, row_name: str, context: RowContext
) -> Recording | Refusal:
    values = {role: row[position] for role, position in positions.items() if position < len(row)}
    if len(row) > width:
        problem = f"expected {width} fields as in the header; received {len(row)}: quote texts that hold the delimiter"
        return bad_row(values, f"{row_name}: {problem}", context)
    missing = [role for role in context.required if role not in values]
    if missing:
        problem = f"expected {width} fields as in the header; received {len(row)}, without {' and '.join(missing)}"
        return bad_row(values, f"{row_name}: {problem}", context)
    return to_recording(values, row_name, context)


def _unquoted(field: str) -> str:
    """A tab-separated field without the quotes that a careful writer put around it."""
    inner = field[1:-1]
    is_quoted = len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else field

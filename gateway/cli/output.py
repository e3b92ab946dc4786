"""Printing: results on stdout, for people or for programs; talk on stderr."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import json
import sys
from collections.abc import Mapping, Sequence


def say(text: str) -> None:
    """Say something that is no result."""
    sys.stderr.write(clean(text, keeps_lines=True) + "\n")


def print_json(value: object) -> None:
    """Print one line of JSON, at once: a program may wait for it."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns: drawn on a terminal, else lines that programs can cut."""
    texts = [["-" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column == columns[0])
        for row in texts:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
    for row in [[column.upper() for column in columns], *texts]:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one record, a field a line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        shown = "-" if value is None else clean(str(value))
        print(f"{name.ljust(width)}  {shown}")


def clean(text: str, *, keeps_lines: bool = False) -> str:
    """Return `text` without what a terminal would obey."""
    return "".join(
        char
        if char.isprintable() or (keeps_lines and char == "\n")
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )

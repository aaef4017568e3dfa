"""Rows of results as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = "-"

Row = dict[str, Any]
Column = Callable[[Mapping[str, Any]], str]


def number(key: str, form: str) -> Column:
    """A column that formats `row[key]`, and shows a dash where there is no value."""
    return lambda row: MISSING if row.get(key) is None else format(row[key], form)


def cells(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> tuple[list[str], list[list[str]]]:
    """Column titles and formatted cells; a column that has no value in any row is left out."""
    table = {title: [column(row) for row in rows] for title, column in columns.items()}
    titles = [title for title, texts in table.items() if any(text != MISSING for text in texts)]
    return titles, [[table[title][index] for title in titles] for index in range(len(rows))]


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> str:
    """The rows as a Markdown table whose source is aligned."""
    titles, body = cells(rows, columns)
    widths = [max(len(line[index]) for line in [titles, *body]) for index in range(len(titles))]

    def line(texts: Sequence[str]) -> str:
        first, *others = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
        return "| " + " | ".join([first, *(text.strip().rjust(len(text)) for text in others)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(titles), rule, *map(line, body)])

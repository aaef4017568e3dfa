"""Facts for people: one a line, what lies deeper indented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(facts: Mapping[str, Any], indent: str = "") -> str:
    """`facts` as text."""
    found = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += [f"{indent}{key}", lines(value, indent + "  ")] if value else [f"{indent}{key}: none"]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            found.append(f"{indent}{key}: {text}")
    return "\n".join(found)

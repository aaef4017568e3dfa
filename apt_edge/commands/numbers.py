"""Numbers as arguments of commands."""

from __future__ import annotations

import argparse
import math
import os

MOST = 10**9  # what is larger was mistyped, and overflows somewhere


def count(text: str, least: int = 1, most: int = MOST) -> int:
    """A whole number from `least` to `most`."""
    number = int(text) if text.isdecimal() and len(text) <= len(str(MOST)) else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text} is no number from {least} to {most}")
    return number


def threads(text: str) -> int:
    """A number of threads: as many as there are cores, at most."""
    return count(text, most=os.cpu_count() or 1)


def length(text: str) -> float:
    """A number above 0."""
    number = _number(text)
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a length: give a number above 0, up to {MOST}")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no probability: give a number from 0 to 1, as 0.6")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

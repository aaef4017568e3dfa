"""A command whose options may stand before, between and behind its files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class OptionsAnywhere(argparse.ArgumentParser):
    """A parser of any number of files, which argparse by itself wants all behind one another.

    Of `MODEL --json FILE` it gives `FILE ...` nothing, as it could be empty, and then does not know what FILE is.
    """

    _mixing = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """All options first, then the files."""
        if self._mixing or not any(action.nargs == "*" for action in self._get_positional_actions()):
            return super().parse_known_args(args, namespace)
        self._mixing = True  # it comes back here, in older versions of Python
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

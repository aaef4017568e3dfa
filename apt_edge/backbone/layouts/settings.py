"""What is said beside the tensors, in config.json or by the run that wrote them: read with its type, or refused.

A key that is absent or null says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_edge.errors import BackboneError

Settings = Mapping[str, Any]


def whole(settings: Settings, key: str, least: int = 1) -> int | None:
    """A whole number from `least` on; raises BackboneError when it is something else."""
    value = settings.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise _nonsense(key, value, f"a whole number from {least} on")
    return value


def side(settings: Settings, key: str) -> int | None:
    """Pixels of a side, which may be said for height and width: the same twice."""
    value = settings.get(key)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return whole({key: value}, key)


def epsilon(settings: Settings, key: str) -> float | None:
    """A number above 0 and below 1; raises BackboneError when it is something else."""
    value = settings.get(key)
    if value is not None and (not isinstance(value, float) or not 0 < value < 1):
        raise _nonsense(key, value, "a number above 0 and below 1")
    return value


def text(settings: Settings, key: str) -> str | None:
    """A text; raises BackboneError when it is something else."""
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise _nonsense(key, value, "a text")
    return value


def class_names(settings: Settings, key: str) -> dict[int, str]:
    """`{"0": name, ...}`; raises BackboneError when it is something else."""
    value = settings.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        str(index).isdecimal() and isinstance(name, str) for index, name in value.items()
    ):
        raise _nonsense(key, value, 'class names by their numbers: {"0": "push", "1": "pull"}')
    return {int(index): name for index, name in value.items()}


def _nonsense(key: str, value: object, wanted: str) -> BackboneError:
    plain = isinstance(value, str | int | float | list | tuple | dict)
    return BackboneError(
        f"{key} beside the weights is not {wanted}",
        found=f"{key} = {value!r}"[:200] if plain else f"{key} is a {type(value).__name__}",
        fix=f"correct {key} in the config.json or final_args.json beside the checkpoint",
    )

"""What every runtime offers: named inputs and outputs, and one call. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from apt_edge.errors import ModelError

FAILED = "close other programs if memory is short; if `apt-edge doctor MODEL` fails as well, export the model again"


class TensorSpec(NamedTuple):
    """Shape and type of one input or output; an axis whose length is free is None."""

    shape: tuple[int | None, ...]
    dtype: np.dtype


class Session(Protocol):
    """An exported model, loaded and ready.

    Attributes:
        inputs, outputs: name to `TensorSpec`, in the model's order.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on the host's arrays and return every output; raises ModelError when `feeds` do not fit."""
        ...


class Held:
    """Values of inputs that a session keeps where it reads them from: no run copies them again.

    On a CPU these are the caller's own arrays, which must not change as long as anybody holds them.

    Args:
        values: name to array; sessions with a memory of their own make a subclass of this.
        inputs: those of the session that has checked the values; None when none has.
    """

    def __init__(self, values: Mapping[str, np.ndarray], inputs: Mapping[str, TensorSpec] | None = None) -> None:
        self._values = {name: np.ascontiguousarray(array) for name, array in values.items()}
        self.names, self.inputs = frozenset(self._values), inputs

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """The values on the host; a session that keeps them in its own memory alone copies them from there."""
        return self._values


class HoldingSession(Session, Protocol):
    """A session that can keep values of inputs for later runs, of as many tasks as there is memory for."""

    def hold(self, values: Mapping[str, np.ndarray]) -> Held:
        """Keep values of some inputs; raises ModelError when they do not fit these.

        The arrays must not change afterwards: a session on the CPU reads them in every run.
        """
        ...

    def run(self, feeds: Mapping[str, np.ndarray], held: Held | None = None) -> dict[str, np.ndarray]:
        """Run once with `feeds` for the inputs that `held` has no values of; raises ModelError when they do not fit."""
        ...


def check_run(inputs: Mapping[str, TensorSpec], feeds: Mapping[str, np.ndarray], held: Held | None) -> None:
    """Raise ModelError unless `held`, where another session made it or none, and `feeds` fit `inputs` together."""
    if held and held.inputs is not inputs:
        check_held(inputs, held.values)
    kept = held.names if held else frozenset()
    check_feeds({name: spec for name, spec in inputs.items() if name not in kept}, feeds)


def check_held(inputs: Mapping[str, TensorSpec], values: Mapping[str, np.ndarray]) -> None:
    """Raise ModelError unless all `values` are of inputs, each of its type and shape."""
    unknown = sorted(set(values) - set(inputs))
    if unknown:
        raise ModelError(
            f"the model has no input {', '.join(unknown)}", found=f"inputs {', '.join(inputs)}", fix="leave it out"
        )
    check_feeds({name: inputs[name] for name in values}, values)


def check_feeds(inputs: Mapping[str, TensorSpec], feeds: Mapping[str, np.ndarray]) -> None:
    """Raise ModelError unless `feeds` holds exactly `inputs`, each of its type and shape: nothing is ever converted."""
    if set(inputs) != set(feeds):
        raise ModelError(
            f"the model's inputs are {', '.join(sorted(inputs))}", found=", ".join(sorted(feeds)) or "no input"
        )
    for name, (shape, dtype) in inputs.items():
        array = feeds[name]
        fits = len(shape) == array.ndim and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            wanted = "x".join("?" if length is None else str(length) for length in shape)
            found = "x".join(str(length) for length in array.shape)
            raise ModelError(f"input {name} must be {dtype} of shape {wanted}", found=f"{array.dtype} of shape {found}")

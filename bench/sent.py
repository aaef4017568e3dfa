"""What devices send back, read and checked: the `results.json` of a bundle and of the GPU suite.

`apt_edge.runtime.results` and `bench.gpu.suite` have their forms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from apt_edge.errors import ConfigError
from apt_edge.runtime import results as bundle
from apt_edge.runtime.machine import device_name
from apt_edge.runtime.statistics import summarise
from apt_edge.tables import Row
from bench import numbers
from bench.form import Count, Energy, Form, Machine, Memory, Ms, Name
from bench.rows import check_rows

BUNDLE, SUITE = bundle.SCHEMA, "apt-edge rows"
VERSIONS = {BUNDLE: bundle.VERSION, SUITE: 1}
# Names of a bundle's times -> what the suite's name says of them; a session's need no word.
TIMES = {"compute": ", kernels alone", "with_transfers": ", with transfers", "inference": ""}
KEPT = "results-{}.json"  # a file of the GPU suite beside the rows that were taken from it, by its sha256
DIGITS_MS = 1e-4  # of times on disk
SEND_AGAIN = "send the file again as the device wrote it; nothing in it is edited by hand"


class Step(Form):
    """Something that failed or was not run; `gate` says that a proof failed."""

    step: str
    what: str
    gate: bool


class Sent(Form):
    """What both forms have."""

    created: str
    failed: list[Step]


class SentRows(Sent):
    """`results.json` of the GPU suite: rows, and what it measured beside latencies."""

    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]
    parity: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    switch: list[dict[str, Any]]
    runtime: list[dict[str, Any]] = Field(default=[])  # older files lack it

    def checked(self, path: Path) -> list[Row]:
        """Its rows; raises ConfigError when they cannot be trusted."""
        check_rows(self.rows, path)
        return self.rows


class Ran(Form):
    """What ran a bundle; `threads` is null for all cores."""

    name: Name
    threads: Count | None


class Timed(Form):
    """One entry of a bundle's `times`; files of before energy and memory were known lack those."""

    median: Ms
    p99: Ms
    max: Ms
    n: int
    batch: Annotated[int, Field(ge=1)]
    warnings: list[str]
    session: Ran
    energy: Energy | None = None
    memory: Memory | None = None
    times_ms: Annotated[list[Ms], Field(min_length=1)]


class Model(Form):
    """The model of a bundle; `prompt_tokens` counts the prompts of each block."""

    onnx_sha256: Name
    pack_sha256: Name | None
    backbone: dict[str, str] | None = None
    method: str | None
    precision: Name
    prompt_tokens: dict[str, int] | None
    trainable_parameters: Count | None


class Target(Form):
    """What a bundle was made for."""

    name: Name
    runtime: Name
    version: str | None


class SentBundle(Sent):
    """`results.json` of a bundle."""

    target: Target
    model: Model
    machine: Machine
    parity: dict[str, Any] | None
    times: dict[str, Timed | None]


def read_sent(path: Path) -> SentBundle | SentRows:
    """Read a file that a device sent; raises ConfigError when it is something else or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read", found=str(error), fix="name a results.json that a device wrote"
        ) from None
    form = data.get("schema") if isinstance(data, dict) else None
    if form not in VERSIONS:
        raise ConfigError(
            f"{path} is not what a device sends",
            found=f"schema {form!r}",
            fix=f"give files of the forms {', '.join(VERSIONS)}; rows of bench.run need no ingest",
        )
    if data.get("version") != VERSIONS[form]:
        raise ConfigError(
            f"{path} is of another version of {form}",
            found=f"version {data.get('version')!r}, this project reads {VERSIONS[form]}",
            fix="use the project's version that made the bundle, or measure again with a new bundle",
        )
    try:
        return (SentBundle if form == BUNDLE else SentRows).model_validate(data)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise ConfigError(f"{path} is damaged", found=found, fix=SEND_AGAIN) from None


def bundle_rows(path: Path, sent: SentBundle, gmacs: Mapping[str, float]) -> Iterator[Row]:
    """One row for each measurement of a bundle, as `bench.form.Measured` says, but for what compares it with others.

    Args:
        path: the file, for messages.
        sent: its content.
        gmacs: by sha256 of the graph, where they are known.
    """
    known = {name: timed for name, timed in sent.times.items() if timed is not None}
    if not known or not set(known) <= set(TIMES):
        raise ConfigError(
            f"{path} has no measurement", found=", ".join(known) or "none", fix="run measure.sh of the bundle"
        )
    facts = _facts(sent.model)
    for name, timed in known.items():
        times = np.array(timed.times_ms)
        _check_statistics(path, name, timed, times)
        session, where = _session(sent, timed)
        engine = session.startswith("tensorrt")
        yield {
            "kind": "measured",
            "suite": " ".join([sent.target.name, *_backbone(sent.model)]) + TIMES[name],
            "contender": " ".join(str(facts[key]) for key in ("method", "tokens", "precision") if facts[key]),
            "session": session,
            "clock": "cuda events" if name == "compute" else "host",
            "built": "apt-edge",
            "device": device_name(where, gpu=engine or "cuda" in session),
            "mode": "single-stream" if timed.batch == 1 else "offline",
            "batch": timed.batch,
            **facts,
            **numbers.timed(times, timed.batch),
            "gmacs": gmacs.get(sent.model.onnx_sha256),
            **dict.fromkeys(("accuracy", "agreement", "stages", "point")),
            "memory": timed.memory and timed.memory.model_dump(),
            "energy": timed.energy and timed.energy.model_dump(),
            "clips": "random pixels of trtexec" if engine else "the bundle's first golden clip",
            "environment": where,
            "warnings": [*timed.warnings, *numbers.drifted(times)],
            "parity": sent.parity,
        }


def _check_statistics(path: Path, name: str, timed: Timed, times: np.ndarray) -> None:
    found = summarise(times)
    for key in ("median", "p99", "max", "n"):
        if not isclose(getattr(timed, key), found[key], rel_tol=1e-6, abs_tol=DIGITS_MS):
            raise ConfigError(
                f"{path} contradicts itself",
                found=f"times.{name}.{key} is {getattr(timed, key):.6g}, its times_ms give {found[key]:.6g}",
                fix=SEND_AGAIN,
            )


def _backbone(model: Model) -> list[str]:
    return [model.backbone["name"]] if model.backbone else []


def _facts(model: Model) -> Row:
    counts = model.prompt_tokens
    return {
        "method": model.method,
        "precision": model.precision,
        "tokens": None if counts is None else max(counts.values(), default=0),
        "trainable_parameters": model.trainable_parameters,
        "model_sha256": model.onnx_sha256,
        "pack_sha256": model.pack_sha256,
    }


def _session(sent: SentBundle, timed: Timed) -> tuple[str, dict[str, Any]]:
    """The session's name, and the environment with its threads and the TensorRT that trtexec found."""
    where = sent.machine.model_dump() | {"threads": timed.session.threads}
    if not sent.target.runtime.startswith("tensorrt"):
        return timed.session.name, where
    found = where.get("tensorrt") or sent.target.version
    return sent.target.runtime, where | {"packages": where["packages"] | {"tensorrt": found}}

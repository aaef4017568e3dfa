"""One model on its way to its targets: traced once, rewritten for each, proved before anything is put in place."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from safetensors.numpy import save_file
from torch import nn

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, GateError, ModelError
from apt_edge.files import atomic_directory, scratch, sha256, write_json
from apt_edge.runtime.model_dir import GOLDEN, INPUT, ONNX, PROMPTS, SIDECAR
from apt_edge.video.preprocess import normalise
from export.engine.gate import prove_compiled
from export.graph.dialect import Form, emulated, typed, untyped
from export.graph.opset import check_operators
from export.graph.prompts import only_prompts
from export.graph.quantise import judged, quantise
from export.graph.trace import TaskInputs, constants, trace
from export.parts import write_parts
from export.proof.numerics import Numerics
from export.proof.parity import check_values, compare, gate, torch_logits
from export.proof.ranges import measure
from export.rewrites import Pixels, backbone_of, rewritten
from export.sidecar import describe_graph, describe_model, describe_numerics, ports, profiles
from export.target import UNFED, Prompts, Target

GOLDEN_CLIPS = 2
CALIBRATION_CLIPS = 8
INT8_CLIPS = 32


class Export:
    """A model, its clips and PyTorch's logits of them; `to` exports it for one target.

    Args:
        model: `FoldedModel`, or another module `clip -> logits` with a `vit` and a `head`, in float32.
        frames: real clips, uint8 `[M, T, S, S, 3]`.
        clip: the input contract.
        labels: class names.
        facts: more entries for the sidecar.
        classes: class numbers of the clips `[M]`, where they are known: then accuracy is reported.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        frames: np.ndarray,
        clip: ClipSpec,
        labels: tuple[str, ...],
        facts: Mapping[str, Any],
        classes: np.ndarray | None = None,
    ) -> None:
        self.model, self.frames, self.clip, self.labels, self.facts = model, frames, clip, labels, facts
        self.classes = classes
        self.reference = torch_logits(model, frames, clip)
        self.golden = _standing_out(self.reference)
        self._traces: dict[tuple[str, bool], tuple[ir.Model, Mapping[str, np.ndarray]]] = {}
        self._numerics: Numerics | None = None
        self._parities: dict[tuple[str, int, Form, str], dict[str, Any]] = {}
        self._builds: dict[tuple[str, str], dict[str, Any]] = {}

    def to(self, target: Target, out: str | Path) -> dict[str, Any]:
        """Export for one target; the directory `out` is replaced as a whole when everything has passed.

        The target's precision is tried first, then its repairs in their order; the first form that does not overflow on
        the calibration clips, keeps parity and compiles is taken, and the sidecar says why the others were not.

        Returns:
            The sidecar.

        Raises:
            ConfigError: the target lacks an operator.
            GateError: no form passes.
        """
        self._check(target, Path(out))
        with scratch(out) as folder:
            return self._first_form(target, Path(out), self._ranges(target, folder), folder)

    def _check(self, target: Target, out: Path) -> None:
        if out.is_dir() and any(out.iterdir()) and not (out / SIDECAR).is_file():
            raise ModelError(f"{out} holds something else than an export", fix="choose another directory")
        depth = backbone_of(self.model).config.depth
        if target.split_at and target.split_at[-1] >= depth:
            raise ConfigError(
                f"there is no block {target.split_at[-1]} to cut in front of", fix=f"choose among 0 to {depth - 1}"
            )
        if target.batch.dynamic and len(self.frames) < 2:
            raise ConfigError("a free batch axis cannot be proved with one clip", fix="give a list of more clips")

    def _first_form(self, target: Target, out: Path, numerics: Numerics, folder: Path) -> dict[str, Any]:
        """The first form that passes; `folder` is for what is not kept."""
        tried: list[dict[str, str]] = []
        for name in [target.precision, *target.repairs]:
            fed = name != "bfloat16" or target.takes_bfloat16
            reason = numerics.refusal(name, target.repairs) if fed else UNFED
            if not reason:
                try:
                    return self._write(target, out, name, numerics, tried, folder)
                except GateError as error:
                    reason = error.wrong
                    if target.int8 or not target.repairs:
                        raise
            tried.append({"form": name, "refused": reason})
            print(f"{target.name}: {name} is refused: {reason}", file=sys.stderr)
        raise GateError(
            f"no form of this model passes for {target.name}",
            found="; ".join(f"{item['form']}: {item['refused']}" for item in tried),
            fix="allow another repair on the target's page, or train with smaller prompts",
        )

    def _write(
        self,
        target: Target,
        out: Path,
        name: str,
        numerics: Numerics,
        tried: list[dict[str, str]],
        folder: Path,
    ) -> dict[str, Any]:
        form = numerics.form(name, target)
        traced, values = self._trace(target)
        graph, attention = untyped(
            traced,
            values,
            target.prompts,
            form,
            dynamic=target.batch.dynamic,
            early_pooling=target.early_pooling,
            patches_apart=0 in target.split_at,
        )
        graph, int8 = self._quantised(graph, form, values, target, folder)
        written = typed(graph.clone(), form)
        ops = check_operators(written, target.operators, target.name)
        written.metadata_props.update(
            {"apt_edge.clip": self.clip.to_json(), "apt_edge.labels": json.dumps(self.labels)}
        )
        with atomic_directory(out) as directory:
            path = directory / ONNX
            ir.save(written, path)
            onnx.checker.check_model(str(path), full_check=True)
            stored = check_values(path, values)
            if target.prompts.mode == "bound":
                save_file(stored, directory / PROMPTS)
            inputs = ports(written.graph.inputs, target, stored)
            parity = (self._held_out() if int8 else self)._parity(path, graph, form, stored, target, folder)
            if int8:
                int8 = judged(int8, written, parity, target.bounds)
            else:
                gate(parity, target.bounds)
            compiled = self._compiled(path, attention, stored, inputs, target) if target.gate != "none" else None
            np.savez(directory / GOLDEN, frames=self.frames[self.golden], logits=self.reference[self.golden])
            steps, clips = backbone_of(self.model).config.grid[0], self.frames[self.golden]
            sidecar = {
                **describe_model(target, self.clip, self.labels),
                **describe_graph(form, written, attention, ops),
                "inputs": inputs,
                **write_parts(written, form, target, stored, clips, self.clip, steps, directory),
                "prompts": list(only_prompts(values)),
                "onnx_sha256": sha256(path),
                "prompts_sha256": sha256(directory / PROMPTS) if target.prompts.mode == "bound" else None,
                "parity": parity,
                "numerics": describe_numerics(name, target, numerics, tried),
                "int8": int8,
                "gate": compiled,
                **self.facts,
            }
            write_json(directory / SIDECAR, sidecar)
        return sidecar

    def _quantised(
        self, graph: ir.Model, form: Form, values: Mapping[str, np.ndarray], target: Target, folder: Path
    ) -> tuple[ir.Model, dict[str, Any] | None]:
        """The graph as it is, or with int8 layers, calibrated on every second clip, and what the sidecar says."""
        if not target.int8:
            return graph, None
        if len(self.frames) < 2:
            raise ConfigError(
                "int8 needs two clips at least: it is calibrated on one half and judged on the other",
                found=f"{len(self.frames)} clip",
                fix="give a list of more clips, or more of it (--count)",
            )
        clips = 2 * np.unique(np.linspace(0, (len(self.frames) - 1) // 2, INT8_CLIPS).astype(int))
        bound = {} if target.prompts.mode == "folded" else values
        feeds = [{**self._feed(target, self.frames[clip]), **bound} for clip in clips]
        return quantise(graph, form.keep(graph.graph), feeds, target.compiler is not None, folder)

    def _held_out(self) -> Export:
        """The same on the clips alone that int8 is not calibrated on."""
        held_out = copy(self)
        held_out.frames, held_out.reference = self.frames[1::2], self.reference[1::2]
        held_out.classes = None if self.classes is None else self.classes[1::2]
        held_out.golden = _standing_out(held_out.reference)
        held_out._parities = {}
        return held_out

    def _feed(self, target: Target, frames: np.ndarray) -> dict[str, np.ndarray]:
        return {INPUT: frames[None] if target.input == "uint8" else normalise(frames, self.clip)[None]}

    def _parity(
        self,
        path: Path,
        graph: ir.Model,
        form: Form,
        values: Mapping[str, np.ndarray],
        target: Target,
        folder: Path,
    ) -> dict[str, Any]:
        """Parity of a float32 file; below that of a twin that rounds, and of the file itself on one golden clip.

        Args:
            path: the file.
            graph: the same before its types were written.
            form: the types.
            values: prompts and head, for those that are inputs.
            target: gives the clips a run, as many as its batch takes, and the runtime.
            folder: for the twin.
        """
        rows = min(target.batch.max, len(self.frames))
        name = "openvino-float32" if target.runtime == "openvino" else "onnxruntime-cpu"
        key = (sha256(path), rows, form, name)
        if key in self._parities:  # platforms share graphs
            return self._parities[key]
        if form.precision == "float32":
            report = compare(path, self.reference, self.frames, self.clip, values, rows, self.classes, name)
        else:
            twin = folder / ONNX
            ir.save(emulated(graph.clone(), form), twin)
            wide = {name: array.astype(np.float32) for name, array in values.items()}
            report = compare(twin, self.reference, self.frames, self.clip, wide, rows, self.classes)
            report["session"] = f"ONNX Runtime, CPU, float32 rounded to {form.precision} wherever the types say so"
            report["file"] = None
            if form.precision != "bfloat16":  # which ONNX Runtime's CPU has no products for
                one = self.golden[: target.batch.min]
                own = compare(path, self.reference[one], self.frames[one], self.clip, values, len(one))
                gate(own, target.bounds)
                report["file"] = {"max_abs": own["max_abs"], "clips": len(one)}
        self._parities[key] = report
        return report

    def _compiled(
        self,
        path: Path,
        attention: int,
        values: Mapping[str, np.ndarray],
        inputs: Mapping[str, dict[str, Any]],
        target: Target,
    ) -> dict[str, Any]:
        """The compile gate's report, from the same graph's earlier build where platforms share one."""
        key = (sha256(path), json.dumps(profiles(inputs)))
        if key not in self._builds:
            names = list(only_prompts(values)) if target.prompts.mode == "folded" else []
            self._builds[key] = prove_compiled(path, attention, names, profiles=profiles(inputs))
        return self._builds[key]

    def _trace(self, target: Target) -> tuple[ir.Model, Mapping[str, np.ndarray]]:
        absorb = target.input == "uint8" and target.precision == "float32"
        key = (target.input, absorb)
        if key not in self._traces:
            print(f"tracing ({target.input} input)", file=sys.stderr)
            pixels = Pixels(self.clip, not absorb) if target.input == "uint8" else None
            module = TaskInputs(rewritten(self.model, self.clip if absorb else None), pixels)
            example = self.frames[:1] if pixels else normalise(self.frames[0], self.clip)[None]
            self._traces[key] = trace(module, torch.from_numpy(example)), constants(module)
        return self._traces[key]

    def _ranges(self, target: Target, folder: Path) -> Numerics:
        """Ranges on the calibration clips, run once for all targets below float32; `folder` is for the graph."""
        traced, values = self._trace(target)
        prompts = only_prompts(values)
        if target.precision == "float32":
            return Numerics([], prompts)
        if self._numerics is None:
            graph, _ = untyped(traced, values, Prompts(), Form("float32", "decomposed", 20))
            clips = self.frames[np.unique(np.linspace(0, len(self.frames) - 1, CALIBRATION_CLIPS).astype(int))]
            feeds = [self._feed(target, frames) for frames in clips]
            self._numerics = Numerics(measure(graph, feeds, folder), prompts)
        return self._numerics


def _standing_out(reference: np.ndarray) -> np.ndarray:
    """Golden clips: those whose first label stands out; among so few, no rounding may change it."""
    margins = np.diff(np.sort(reference, axis=1)[:, -2:], axis=1).sum(axis=1)
    return np.argsort(-margins, kind="stable")[:GOLDEN_CLIPS]

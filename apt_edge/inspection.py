"""What a file of this project holds, in words: packs, backbones, exported models and engines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from apt_edge.errors import AptEdgeError
from apt_edge.files import sha256
from apt_edge.pack import FORMAT as PACK_FORMAT
from apt_edge.pack import PromptPack
from apt_edge.runtime.model_dir import ENGINE, SIDECAR, ModelDir

OURS = "apt-edge "  # every format of ours begins with it


def inspect(path: Path) -> dict[str, Any]:
    """Describe a pack, a backbone, an exported model directory or an engine; raises AptEdgeError for anything else."""
    if path.is_dir() and (path / SIDECAR).is_file():
        return {"kind": "exported model", **_model(ModelDir.load(path))}
    if path.name == ENGINE and path.is_file():
        return {"kind": "engine", **_engine(path)}
    if path.suffix == ".safetensors" and path.is_file():
        return _safetensors(path)
    raise AptEdgeError(
        f"{path} is nothing that can be inspected" if path.exists() else f"{path} does not exist",
        fix=f"give a pack or backbone (.safetensors), an exported model's directory, or its {ENGINE}; "
        "a checkpoint of others: python -m train.convert",
    )


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
        config = json.loads(header.get("config", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise AptEdgeError(
            f"{path} is not a readable safetensors file", found=str(error), fix="copy it again"
        ) from None
    if header.get("format") == PACK_FORMAT:
        return {"kind": "prompt pack", **_pack(path, PromptPack.load(path))}
    own = header.get("format", "").startswith(OURS)
    facts: dict[str, Any] = {
        "kind": header["format"] if own else "safetensors file of others",
        "numbers": sum(map(math.prod, shapes)),
    }
    if own:
        facts |= {key: value for key, value in header.items() if key != "format"} | {"config": config}
    else:
        facts["hint"] = f"weights of a backbone are read by: python -m train.convert {path}"
    return facts | {"bytes": path.stat().st_size}


def _pack(path: Path, pack: PromptPack) -> dict[str, Any]:
    largest = {
        part: max((float(np.abs(getattr(kv, part)).max()) for kv in pack.kv.values()), default=0.0)
        for part in ("key", "value")
    }
    return {
        "method": pack.method,
        "settings": dict(pack.settings),
        "prompts": {
            f"block {block}": f"{kv.key.shape[1]} x {kv.key.shape[0]} head(s)" for block, kv in pack.kv.items()
        },
        **({"half precision": f"prompts rounded by {pack.rounding:.2g} at most"} if pack.rounding else {}),
        "form": pack.form or "the backbone as it is",
        "changed_numbers": sum(array.size for array in pack.changes.values()),
        "largest |key|, |value|": [round(largest["key"], 3), round(largest["value"], 3)],
        "trainable_parameters": pack.trainable_parameters,
        "backbone": f"{pack.backbone.name} (sha256 {pack.backbone.sha256[:12]})",
        "clip": pack.clip.to_dict(),
        "labels": list(pack.labels),
        "training": dict(pack.training),
        "bytes": path.stat().st_size,
    }


def _model(model: ModelDir) -> dict[str, Any]:
    keys = (
        *("method", "form", "precision", "opset", "attention"),
        *("trainable_parameters", "prompt_tokens", "backbone", "parity"),
    )
    facts = {key: model.facts[key] for key in keys if key in model.facts}
    facts |= {"clip": model.clip.to_dict(), "labels": list(model.labels), "onnx_bytes": model.onnx.stat().st_size}
    if model.engine.is_file():
        facts["engine"] = _engine(model.engine)
    return facts


def _engine(path: Path) -> dict[str, Any]:
    """An engine is a raw plan: what is known of it stands in the sidecar, if the hash says that it is the same one."""
    facts: dict[str, Any] = {"bytes": path.stat().st_size, "plan_sha256": sha256(path)}
    sidecar = path.with_name(SIDECAR)
    if not sidecar.is_file():
        return facts | {"known": f"nothing: there is no {SIDECAR} beside it"}
    recorded = json.loads(sidecar.read_text(encoding="utf-8")).get("engine", {})
    if recorded.get("plan_sha256") != facts["plan_sha256"]:
        return facts | {"known": f"nothing: {SIDECAR} describes another engine; run export.to_engine again"}
    return facts | recorded

"""Backbone weights on disk: canonical safetensors with the sizes in the header, and the hash that packs refer to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from apt_edge.backbone.vit import SIZES, Vit, VitConfig, size_by_name
from apt_edge.errors import BackboneError
from apt_edge.files import atomic

EMBEDDED = Path(__file__).parent / "weights"
UNSEEN = {
    field.name: field.default for field in fields(VitConfig) if field.name in ("eps", "head_eps", "family", "per_frame")
}


def backbone_hash(vit: Vit) -> str:
    """sha256 over names, shapes and float32 bytes of every tensor, in the order of their names.

    What no tensor shows (`UNSEEN`) counts where it is not VideoMAE's own: the same weights with other epsilons are
    another backbone.
    """
    digest = hashlib.sha256()
    own = {name: getattr(vit.config, name) for name in UNSEEN}
    digest.update("".join(f"{name}={value}" for name, value in own.items() if value != UNSEEN[name]).encode())
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_backbone(path: str | Path, vit: Vit, half: bool = False, notes: dict[str, str] | None = None) -> None:
    """Write the canonical safetensors file, in float16 when `half`; `notes` go into the header as they are."""
    tensors = {k: v.detach().cpu().to(torch.float16 if half else torch.float32) for k, v in vit.state_dict().items()}
    header = {"format": "apt-edge backbone 1", "config": json.dumps(asdict(vit.config)), **(notes or {})}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_backbone(source: str | Path) -> Vit:
    """Load weights as a frozen float32 `Vit` in eval mode.

    Args:
        source: a canonical `.safetensors` file, or the name of an embedded backbone (`nano`),
            or `random:<size>` for random weights from seed 0 (benchmarks and tests).

    Raises:
        BackboneError: the file is missing, damaged or not a backbone.
    """
    text = str(source)
    if text.startswith("random:"):
        return random_backbone(text.removeprefix("random:"))
    path = EMBEDDED / f"{text}.safetensors" if text in SIZES else Path(source)
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in EMBEDDED.glob("*.safetensors"))) or "none"
        raise BackboneError(
            f"there are no backbone weights at {path}", fix=f"give a .safetensors file, or an embedded one: {shipped}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise BackboneError(
            f"{path} is not a readable safetensors file", found=str(error), fix="copy it again"
        ) from None
    if "config" not in header:
        raise BackboneError(f"{path} holds no backbone configuration", found=f"header {sorted(header)}")
    vit = Vit(VitConfig(**json.loads(header["config"])))
    try:
        vit.load_state_dict(tensors)
    except RuntimeError as error:
        raise BackboneError(f"the tensors in {path} do not fit its own configuration", found=str(error)) from None
    return freeze(vit)


def random_backbone(size: str, seed: int = 0) -> Vit:
    """A frozen backbone with random weights; the global random state is left as it was."""
    config = size_by_name(size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return freeze(Vit(config))


def freeze(vit: Vit) -> Vit:
    """Switch off every gradient and set eval mode."""
    return vit.requires_grad_(False).eval()

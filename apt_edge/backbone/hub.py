"""Weights by their name on the Hugging Face hub: config.json and the weights alone, from the local cache when there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from apt_edge.errors import BackboneError, MissingDependency

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".json")


def is_hub_name(source: str) -> bool:
    """Whether this looks like owner/name."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)) and not source.endswith(FILES)


def fetch(name: str) -> Path:
    """Path of the weights file, or of the index of its parts; config.json lies beside it when the repository has one.

    What is in the local cache is taken from there without asking the network.

    Raises:
        BackboneError: no such repository, none that may be read, no weights in it, or neither network nor cache.
        MissingDependency: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise MissingDependency(
            f"{name} is not a path here, and huggingface_hub is not installed, which finds it on the hub",
            fix="pip install 'apt-edge[train]', or give the path of a file or folder",
        ) from None
    try:
        found = _get(name, cached=True) or _get(name, cached=False)
    except LocalEntryNotFoundError:
        raise BackboneError(
            f"{name} is neither a path here, nor in the cache of the Hugging Face hub, and the hub cannot be reached",
            fix=f"if a path is meant: {_look(name)}; if a name on the hub: run `hf download {name}` where there is a "
            "network and copy the folder here",
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise BackboneError(
            f"{name} is not a path here, and the Hugging Face hub does not give it",
            found=str(error).strip().split("\n")[-1],
            fix=f"if a path is meant: {_look(name)}; if a name on the hub: check it, and for what is not public: "
            "hf auth login",
        ) from None
    if found is None:
        raise BackboneError(
            f"the repository {name} has no weights", found=f"none of {', '.join(WEIGHTS)}", fix="give another one"
        )
    return found


def _look(name: str) -> str:
    """Where a mistyped relative path ends to be true."""
    folder = Path(name).parent
    if not folder.is_dir():
        return f"there is no folder {folder} here"
    return f"the folder {folder} here holds {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"


def _get(name: str, cached: bool) -> Path | None:
    if not _file(name, CONFIG, cached) and cached:  # half a snapshot
        return None
    for weights in WEIGHTS:
        if path := _file(name, weights, cached):
            parts = shards(path) if path.suffix == ".json" else []
            return path if all(_file(name, part, cached) for part in parts) else None
    return None


def _file(name: str, file: str, cached: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, local_files_only=cached))
    except LocalEntryNotFoundError:
        if not cached:  # the network
            raise
    except EntryNotFoundError:
        pass
    return None


def shards(index: Path) -> list[str]:
    """Names of the files that an index lists; they lie beside it, and are never found elsewhere.

    Raises:
        BackboneError: not an index, or one that names anything but plain files of weights.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        wrong = [name for name in names if not re.fullmatch(r"[^/\\\0:]+\.(safetensors|bin)", name)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneError(f"{index} is not an index of weights", found=str(error), fix="copy it again") from None
    if wrong or not names:
        raise BackboneError(
            f"{index} names other things than files of weights beside it",
            found=str(wrong[0]) if wrong else "nothing at all",
            fix="an index lists .safetensors or .bin files of its own folder: copy it again",
        )
    return names

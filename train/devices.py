"""Where a training tool computes, and with how many decoding processes."""

from __future__ import annotations

import argparse
import os

import torch
from accelerate import Accelerator

from apt_edge.errors import ConfigError
from apt_edge.runtime.machine import usable_cores

MOST_WORKERS = 8  # each holds two batches of clips ready


def add_device_arguments(parser: argparse.ArgumentParser, by_recipe: bool = False) -> None:
    """Add `--device` and `--workers`: they change the speed of a run and no recipe holds them.

    With `by_recipe` the default of `--workers` is None: it is `default_workers` of each run's recipe.
    """
    exception = ", none where views are kept (augment.views), as each clip is decoded only once" if by_recipe else ""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one, else cpu")
    parser.add_argument(
        "--workers",
        type=int,
        default=None if by_recipe else spare_cores(),
        help="processes that decode ahead, 0 decodes in this one; "
        f"default: one a core, {MOST_WORKERS} at most{exception}",
    )


def spare_cores() -> int:
    """How many processes can decode at once beside those that `torchrun` starts on this machine."""
    return min(MOST_WORKERS, max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_device(name: str | None) -> torch.device:
    """The device asked for; raises ConfigError when there is none, and never takes another instead."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("there is no CUDA device that this PyTorch can use", fix="use --device cpu")
    return torch.device(name or ("cuda" if available else "cpu"))


def make_accelerator(device: torch.device, precision: str = "no", accumulate: int = 1) -> Accelerator:
    """Accelerate's device placement, precision and processes; started by `torchrun` it joins the others.

    Raises:
        ConfigError: this device cannot compute in that precision.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("a CPU does not train in fp16", fix="set optim.precision to bf16 or no, or use a CUDA device")
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision, gradient_accumulation_steps=accumulate)

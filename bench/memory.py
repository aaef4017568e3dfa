"""Memory of one contender, in a process of its own: `python -m bench.memory '{"session": ..., ...}'` prints it as JSON.

    session          name of what runs it
    threads, batch   as in the suite
    model            directory of the graph; or
    random           the random model whose module PyTorch runs

Counted is what opening the session and one run add to the resident memory at its peak, beyond the process with the
runtime's package imported. The weights count; for a module what was needed to make them does not, where a graph's
session pays for reading its file.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ConfigError, ModelError, run_tool
from apt_edge.runtime import memory
from apt_edge.runtime.model_dir import INPUT, ModelDir, feeds
from apt_edge.runtime.sessions import open_session
from apt_edge.runtime.tensorrt_log import MODULES

ROOT = Path(__file__).parents[1]
PACKAGES = {"pytorch": "bench.torch_session"}
HUGGING_FACE = "transformers.models.videomae.modeling_videomae"
KEYS = ("session", "threads", "batch")


def memory_of(description: dict[str, Any]) -> dict[str, float | None]:
    """Measure in a fresh process.

    Args:
        description: see the module's docstring; JSON-ready.

    Returns:
        `rss_mb`, None where the system does not tell it or does not forget an earlier peak; `gpu_mb`, None for what
        does not run on a GPU in PyTorch; `activation_mb`, None: these runtimes do not tell their activations from the
        rest.

    Raises:
        ModelError: the contender cannot be run there.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "bench.memory", json.dumps(description)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        raise ModelError(
            "a contender that was opened here does not run in a process of its own",
            found=done.stderr.strip()[-600:] or f"exit code {done.returncode}",
            fix="is there memory for it twice? Close other programs, or leave the contender out",
        )
    return json.loads(done.stdout.splitlines()[-1])


def _measured(description: dict[str, Any]) -> dict[str, float | None]:
    name = description["session"]
    package = MODULES.get(name, name.partition("-")[0])
    import_module(PACKAGES.get(package, package))
    if description.get("random", {}).get("huggingface"):
        import_module(HUGGING_FACE)
    gc.collect()
    before = memory.resident()
    known, gpu = (_run_module if "random" in description else _run_graph)(description)
    after = memory.peak() if known else None
    rss = None if before is None or after is None else (after - before) / 1e6
    return {"rss_mb": rss, "activation_mb": None, "gpu_mb": gpu}


def _run_graph(description: dict[str, Any]) -> tuple[bool, None]:
    """Returns whether the peak is that of what ran here, and no GPU's memory."""
    known = memory.reset_peak()
    model = ModelDir.load(description["model"])
    session = open_session(model, description["threads"], description["session"])
    frames = np.zeros((description["batch"], model.clip.frames, model.clip.size, model.clip.size, 3), np.uint8)
    session.run(feeds(session.inputs, frames, model.clip, model.prompts))
    return known, None


def _run_module(description: dict[str, Any]) -> tuple[bool, float | None]:
    """Returns whether the peak is that of what ran here, and the GPU's in MB."""
    import torch

    from bench.modules import clip_of, random_model
    from bench.suite import RandomModel
    from bench.torch_session import TorchSession

    request = RandomModel.model_validate(description["random"])
    module = random_model(request)[0]
    gc.collect()
    known = memory.reset_peak()
    session = TorchSession(
        description["session"], module, clip_of(request), description["threads"], description["batch"]
    )
    session.run({INPUT: np.zeros(session.inputs[INPUT].shape, np.uint8)})  # type: ignore[arg-type] # its axes are fixed
    return known, torch.cuda.max_memory_allocated() / 1e6 if session.on_gpu else None


def main() -> None:
    """Open one contender, run it once, and print what that took as JSON."""
    parser = argparse.ArgumentParser(prog="bench.memory", description=main.__doc__)
    parser.add_argument("contender", help="JSON object: session, threads, batch, and model or random")
    args = parser.parse_args()
    try:
        description = json.loads(args.contender)
    except ValueError:
        description = None
    if not isinstance(description, dict) or not {*KEYS} <= {*description}:
        raise ConfigError(
            f"the contender is no JSON object with {', '.join(KEYS)}, and model or random",
            found=args.contender[:80],
            fix="let bench.run write it",
        )
    print(json.dumps(_measured(description)))


if __name__ == "__main__":
    run_tool(main, "bench.memory")

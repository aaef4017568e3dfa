"""PyTorch behind the `Session` protocol: eager or compiled, and on a GPU in float16 as one CUDA graph, too.

Every session takes uint8 frames, as exported graphs do: normalising them is part of a run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from apt_edge.clip import ClipSpec
from apt_edge.errors import AptEdgeError
from apt_edge.runtime.model_dir import INPUT, OUTPUT
from apt_edge.runtime.session import TensorSpec, check_feeds
from bench.modules import FromFrames

CUDA = "pytorch-cuda"
FORMS = 1024  # of one function that may be compiled in this process: more than a suite has contenders
WARM_UP = 3  # runs before a CUDA graph is captured, in which libraries choose their kernels and take their memory


class TorchSession:
    """A module, ready to run on batches of one size.

    Args:
        name: `pytorch-eager`, `pytorch-compile`, `pytorch-cuda-eager`, `pytorch-cuda-compile` or `pytorch-cuda-graph`;
            on a GPU it computes in float16, our own head in float32.
        module: normalised clips `[B, 3, T, S, S]` to logits, in float32; it is moved and rounded in place.
        clip: the input contract.
        threads: of PyTorch in this process.
        batch: clips a run.

    Attributes:
        precision: what it computes in.

    Raises:
        AptEdgeError: no GPU, or nothing that compiles.
    """

    def __init__(self, name: str, module: nn.Module, clip: ClipSpec, threads: int, batch: int = 1) -> None:
        torch.set_num_threads(threads)
        self.on_gpu = name.startswith(CUDA)
        model = _on_gpu(name, module, clip) if self.on_gpu else FromFrames(module, clip)
        self.precision = "float16" if self.on_gpu else "float32"
        shape = (batch, clip.frames, clip.size, clip.size, 3)
        self.inputs = {INPUT: TensorSpec(shape, np.dtype(np.uint8))}
        with torch.inference_mode():  # as runs have theirs: else the first run would compile a second time
            self._frames = torch.zeros(shape, dtype=torch.uint8, device="cuda" if self.on_gpu else "cpu")
        self._call: Callable[[Tensor], Tensor] = model.eval()
        if name.endswith("-compile"):
            self._call = _compiled(model, self._frames)
        elif name == "pytorch-cuda-graph":
            self._call = _captured(model, self._frames)
        with torch.inference_mode():
            classes = self._call(self._frames).shape[1]
        self.outputs = {OUTPUT: TensorSpec((batch, classes), np.dtype(np.float32))}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on the host's arrays; `feeds` must have the input's name, type and shape, else ModelError."""
        check_feeds(self.inputs, feeds)
        with torch.inference_mode():
            return {OUTPUT: self._call(self._upload(feeds)).cpu().numpy()}  # the copy waits for the GPU

    def transfer(self, feeds: Mapping[str, np.ndarray]) -> None:
        """The first part of a run alone: frames to where they are computed on."""
        with torch.inference_mode():
            self._upload(feeds)
        if self.on_gpu:
            torch.cuda.synchronize()

    def _upload(self, feeds: Mapping[str, np.ndarray]) -> Tensor:
        frames = torch.from_numpy(feeds[INPUT])
        return self._frames.copy_(frames) if self.on_gpu else frames  # a CUDA graph reads one place for ever


def _on_gpu(name: str, module: nn.Module, clip: ClipSpec) -> FromFrames:
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise AptEdgeError(
            f"{name} needs an NVIDIA GPU, and PyTorch finds none",
            found=f"PyTorch {torch.__version__}, {built}",
            fix="run this suite on a machine with a GPU and a PyTorch for CUDA, or leave the contender out",
        )
    head = copy.deepcopy(getattr(module, "head", None))  # ours, which Hugging Face's model does not have by that name
    module = module.to("cuda", torch.float16)
    if isinstance(head, nn.Module):
        module.add_module("head", head.to("cuda"))  # float32 throughout: logits are never half
    return FromFrames(module, clip, "cuda", torch.float16)


def _compiled(model: nn.Module, frames: Tensor) -> Callable[[Tensor], Tensor]:
    """The whole model compiled, or an error: PyTorch would go on without compiling, and say so in a warning at most.

    It keeps 8 compiled forms of one function by default, and the modules of a suite share theirs.
    """
    call: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, dynamic=False)
    limits = {"recompile_limit": FORMS, "accumulated_recompile_limit": FORMS}
    try:
        with torch.inference_mode(), torch._dynamo.config.patch(limits):
            call(frames)
    except Exception as error:  # the compiler's exceptions share no base class but Exception
        message, _, _ = str(error).strip().partition("\n")
        raise AptEdgeError(
            "torch.compile cannot compile the model",
            found=f"{type(error).__name__}: {message}",
            fix="install a C++ compiler (apt install g++) and Python's headers (apt install python3-dev), or leave "
            "the compiled contenders out",
        ) from None
    return call


def _captured(model: nn.Module, frames: Tensor) -> Callable[[Tensor], Tensor]:
    """The model as one CUDA graph that reads `frames` and writes one tensor."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                model(frames)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            logits: Tensor = model(frames)

    def replay(_: Tensor) -> Tensor:
        graph.replay()
        return logits

    return replay

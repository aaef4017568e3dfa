"""What the GPU suite has found so far, on disk after every step, so that what fails or overruns loses itself alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apt_edge.errors import AptEdgeError, GateError
from apt_edge.files import write_json
from apt_edge.tables import Row

if TYPE_CHECKING:
    import torch

Kind = Literal["rows", "parity", "steps", "switch", "runtime"]
PUBLISHED = 400  # prompts a block of the paper's best models


@dataclass(frozen=True)
class Settings:
    """What the suite measures.

    Attributes:
        device: `cuda`, or `cpu` to try the suite itself.
        sizes: backbone sizes.
        tokens: prompts a block.
        batches: clips a run.
        rounds: timed rounds at most.
        model: exported model whose engine was built on this machine; None leaves engines out.
    """

    device: str
    sizes: tuple[str, ...]
    tokens: tuple[int, ...]
    batches: tuple[int, ...]
    rounds: int
    model: Path | None = None

    @property
    def some_tokens(self) -> int:
        """Prompts a block where one number must do: 400, as in the paper, or the first of those given."""
        return PUBLISHED if PUBLISHED in self.tokens else self.tokens[0]

    @property
    def place(self) -> torch.device:
        """Where models run."""
        import torch  # late, as below: the part `runtime` has none

        return torch.device(self.device)

    @property
    def graphs(self) -> bool:
        """Whether this device has CUDA graphs."""
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations: half on a GPU; a CPU tries the suite in float32."""
        import torch

        return torch.float16 if self.device == "cuda" else torch.float32

    @property
    def precision(self) -> str:
        """`dtype` as rows name it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass
class Record:
    """Results of one part of the suite.

    Attributes:
        path: JSON file, written after every addition.
        end: of the part's budget, on `time.monotonic`; a clock that all processes of a machine share.
        data: what the file holds.
    """

    path: Path
    end: float
    data: dict[str, Any] = field(default_factory=lambda: {"failed": []})

    def share(self, steps_left: int) -> float:
        """Seconds for the next of `steps_left` steps, the rest of the budget divided evenly."""
        return max(0.0, self.end - time.monotonic()) / max(1, steps_left)

    def add(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Keep results."""
        self.data.setdefault(kind, []).extend(rows)
        write_json(self.path, self.data)

    def fail(self, step: str, what: str, gate: bool = False) -> None:
        """Keep a failure; `gate` says that a proof failed."""
        print(f"failed: {step}: {what}", file=sys.stderr, flush=True)
        self.data["failed"].append({"step": step, "what": what, "gate": gate})
        write_json(self.path, self.data)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what begins; an error within, out of memory too, is a failure of this step and of nothing else."""
        print(f"  {name} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            yield
        except AptEdgeError as error:
            self.fail(
                name, f"{error.wrong} ({error.found})" if error.found else error.wrong, isinstance(error, GateError)
            )
        except (RuntimeError, MemoryError) as error:  # PyTorch's own, those of CUDA among them
            self.fail(name, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        else:
            print(f"  {name}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)

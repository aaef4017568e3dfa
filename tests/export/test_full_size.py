"""ViT-B at full size with 400 prompts: traced, proved and compiled within the memory of a small machine.

The time that it takes is shown by `python -m pytest tests/export/test_full_size.py --durations=1`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

# In a process of its own: the peak memory of this one would count every test before.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.backbone.folded import FoldedModel
from apt_edge.backbone.vit import Head
from apt_edge.clip import ClipSpec
from apt_edge.methods import Apt
from bench.build import random_clips
from export.target import load_target
from export.model import Export

out = Path(sys.argv[1])
vit = random_backbone("vit-base")
torch.manual_seed(0)
head = Head(768, 101, init_scale=1.0).requires_grad_(False)
model = FoldedModel(vit, head, Apt(vit.config, tokens=400).fold(vit)).eval()
labels = tuple(f"class {i}" for i in range(101))
target = load_target("export/targets/tensorrt-rtx.toml")
export = Export(model, frames=random_clips(ClipSpec(), 2), clip=ClipSpec(), labels=labels, facts={})
sidecar = export.to(target, out)
report = sidecar["gate"] | {"parity": sidecar["parity"], "file_bytes": (out / "model.onnx").stat().st_size}
report["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.slow
def test_vit_base_with_400_prompts(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["fused_attention"], report["attention"], report["prompt_constants"]) == (12, 12, 24)
    assert report["deterministic"]
    assert report["activation_bytes"] < 30e6
    assert report["parity"]["max_abs"] < 5e-3
    assert report["peak_gigabytes"] < 3.2

"""Reading a checkpoint executes nothing: what would is refused by name, what is harmless is read."""

from __future__ import annotations

import os
import pathlib
import sys
import types
from argparse import Namespace

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.unpickle import Inert, read_pickle
from apt_edge.errors import BackboneError
from tests.apt_edge.foreign import official


class Bomb:
    """Calls what it is given when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (os.system, ("touch {path}",), r"posix\.system|nt\.system"),
        (eval, ("open('{path}', 'w')",), "eval"),
        (pathlib.Path.touch, (pathlib.Path("{path}"),), "getattr|touch"),
        (__import__, ("os",), "__import__"),
        (torch.load, ("{path}",), r"torch\.serialization\.load"),
    ],
)
def test_code_is_refused_by_name_and_not_run(call, arguments, named, zipped, tmp_path):
    trace = tmp_path / "trace"
    arguments = [type(argument)(str(argument).format(path=trace)) for argument in arguments]
    tree = {"model": official(), "args": Bomb(call, *arguments)}
    torch.save(tree, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BackboneError, match=rf"would execute code(.|\n)*it names ({named})"):
        load_backbone(tmp_path / "c.pth")
    assert not trace.exists()
    if call is os.system:  # the file is armed: an unrestricted reader runs it
        torch.load(tmp_path / "c.pth", weights_only=False)
        assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_what_published_checkpoints_keep_beside_their_weights_is_read(zipped, tmp_path, monkeypatch):
    names = "deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16", "deepspeed.runtime.fp16.loss_scaler"
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    scaler = type("DynamicLossScaler", (), {"__module__": names[-1], "__init__": lambda self: setattr(self, "s", 2)})
    sys.modules[names[-1]].DynamicLossScaler = scaler
    arguments = Namespace(
        num_frames=8, out=pathlib.Path("x"), best=np.float64(0.5), count=np.int64(3), curve=np.arange(3), on=np.bool_(1)
    )
    tree = {"module": {"w": torch.ones(3)}, "args": arguments, "loss_scaler": scaler(), "shape": torch.Size([1])}
    torch.save(tree, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    found = read_pickle(tmp_path / "c.pth")
    assert torch.equal(found["module"]["w"], torch.ones(3))
    assert found["args"].num_frames == 8
    assert {type(found["loss_scaler"]), type(found["args"].best), type(found["args"].curve)} == {Inert}
    assert not any(name in sys.modules for name in names)


def test_a_torchscript_archive_gives_its_tensors_and_runs_nothing(tmp_path):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).half()
    inner.register_buffer("table", torch.randn(2, 3).t())
    script = torch.jit.script(torch.nn.Sequential(inner, torch.nn.Linear(4, 2)))
    script.save(str(tmp_path / "c.pt"))
    found, expected = read_pickle(tmp_path / "c.pt"), script.state_dict()
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_cut_file_is_no_checkpoint(share, zipped, tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"model": official()}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BackboneError, match="cut, damaged or of another kind"):
        load_backbone(path)


@pytest.mark.parametrize("tree", [[1, 2], {"epoch": 3}, {"model": {"epoch": 3}}, torch.ones(3)])
def test_a_file_without_named_tensors_is_no_checkpoint(tree, tmp_path):
    torch.save(tree, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match="holds no tensors by name"):
        load_backbone(tmp_path / "c.pth")


def test_other_weights_are_refused_with_their_names(tmp_path):
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"no backbone in a layout(.|\n)*2 tensors: weight, bias"):
        load_backbone(tmp_path / "c.pth")

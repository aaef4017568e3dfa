"""Reading a checkpoint executes nothing: what would is refused by name, what is harmless is read."""

from __future__ import annotations

import collections
import datetime
import decimal
import os
import pathlib
import pickle
import random
import sys
import types
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch

from apt_edge.backbone.checkpoints import load_backbone
from apt_edge.backbone.harmless import Inert
from apt_edge.backbone.unpickle import read_pickle
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
        (eval, ("open('{path}', 'w')",), r"builtins\.eval"),
        (pathlib.Path.touch, (pathlib.Path("{path}"),), r"builtins\.getattr|pathlib\S*\.touch"),
        (__import__, ("os",), r"builtins\.__import__"),
        (torch.load, ("{path}",), r"torch\.serialization\.load"),
    ],
)
def test_code_is_refused_by_name_and_not_run(call, arguments, named, zipped, tmp_path):
    trace = tmp_path / "trace"
    arguments = [type(argument)(str(argument).format(path=trace)) for argument in arguments]
    tree = {"model": official(), "args": Bomb(call, *arguments)}
    torch.save(tree, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BackboneError, match=rf"names ({named}), which is not among the harmless classes: reading it could execute"
    ):
        load_backbone(tmp_path / "c.pth")
    assert not trace.exists()
    if call is os.system:  # the file is armed: an unrestricted reader runs it
        torch.load(tmp_path / "c.pth", weights_only=False)
        assert trace.exists()


class Filled(Namespace):
    """Is a Namespace filled with what runs when it is unpickled."""

    def __reduce__(self):
        return Namespace, (), {"inner": Bomb(os.system, self.command)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["zip", "old", "plain"])
@pytest.mark.parametrize("place", ["itself", "nested", "filled"])
def test_every_protocol_names_what_it_would_run(place, kind, protocol, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "c.pth"
    bomb = Bomb(os.system, f"touch {trace}")
    nested = {"model": {"w": torch.ones(2)}, "args": {"deep": [({"x": bomb},)]}}
    tree = {"itself": bomb, "nested": nested, "filled": {"args": Filled(command=f"touch {trace}")}}[place]
    if kind == "plain":
        path.write_bytes(pickle.dumps(tree, protocol))
    else:
        torch.save(tree, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(BackboneError, match=r"reading it could execute(.|\n)*it names .*(posix|nt)\.system"):
        load_backbone(path)
    assert not trace.exists()
    if place == "itself":
        torch.load(path, weights_only=False) if kind != "plain" else pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_protocol_that_is_not_read_is_named(protocol, zipped, tmp_path):
    torch.save(official(), tmp_path / "c.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BackboneError, match=rf"pickle protocol {protocol}, which(.|\n)*without pickle_protocol"):
        read_pickle(tmp_path / "c.pth")


def test_harmless_classes_of_python_are_read(tmp_path):
    beside = {
        "when": [datetime.datetime.now(datetime.timezone.utc), datetime.date(2020, 1, 2), datetime.timedelta(3)],
        "losses": collections.defaultdict(list, {"train": [1.0]}),
        "kinds": [frozenset([1]), {2}, decimal.Decimal("1.5"), pathlib.PurePosixPath("x")],
        "args": types.SimpleNamespace(num_frames=4),
    }
    torch.save({"model": official(), **beside}, tmp_path / "c.pth")
    found = read_pickle(tmp_path / "c.pth")
    assert (found["losses"], found["kinds"][:2]) == ({"train": [1.0]}, [{1}, {2}])
    assert {type(value) for value in (*found["when"], *found["kinds"][2:])} == {Inert}
    assert found["args"].num_frames == 4


def test_a_whole_module_is_told_from_an_attack(tmp_path):
    torch.save({"model": torch.nn.Linear(3, 4)}, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"holds a whole module(.|\n)*linear\.Linear(.|\n)*model\.state_dict"):
        load_backbone(tmp_path / "c.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_what_published_checkpoints_keep_beside_their_weights_is_read(zipped, tmp_path, monkeypatch):
    """The names are those of DeepSpeed's published code; it is not installed here: its classes are made up."""
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


def repacked(source, target, change, compression=zipfile.ZIP_STORED):
    """The same archive, the bytes of each entry as `change(name, bytes)` makes them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_the_tensors_of_a_torchscript_archive_are_mapped_and_changing_them_leaves_the_file(tmp_path):
    path = tmp_path / "c.pt"
    script = torch.jit.script(torch.nn.Linear(1024, 4096))
    script.save(str(path))
    before, size = path.read_bytes(), resident()
    found = read_pickle(path)
    assert resident() - size < 4 << 20  # 16 MiB of weights
    found["weight"].zero_()
    assert path.read_bytes() == before


def resident() -> int:
    """Bytes of this process that are in memory and no file's."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is counted from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("kind", ["torch.save", "TorchScript"])
def test_compressed_storages_are_refused(kind, tmp_path):
    model = torch.nn.Linear(8, 8)
    if kind == "TorchScript":
        torch.jit.script(model).save(str(tmp_path / "c.pt"))
    else:
        torch.save(model.state_dict(), tmp_path / "c.pt")

    def larger(name, data):
        return bytes(1 << 20) if name.endswith("data/0") else data

    repacked(tmp_path / "c.pt", tmp_path / "bomb.pt", larger, zipfile.ZIP_DEFLATED)
    with pytest.raises(BackboneError, match=r"compressed entries(.|\n)*bytes that become"):
        read_pickle(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "a memo of 2147483647 objects in 9 bytes"),
        (b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}X\x01\x00\x00\x00aq\x02h\x01sb.", "RecursionError"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "ValueError"),
        (b"\x80\x02K\x01.", "'int' object"),
        (b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R.", r"names os\.system"),
    ],
)
def test_absurd_torchscript_archives_are_refused_with_a_reason(pickled, reason, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "c.pt"))
    repacked(tmp_path / "c.pt", tmp_path / "x.pt", lambda name, data: pickled if name.endswith("/data.pkl") else data)
    with pytest.raises(BackboneError, match=reason):
        read_pickle(tmp_path / "x.pt")


def test_what_asks_for_more_memory_than_there_is_is_refused(tmp_path):
    # A flat storage of 2^60 numbers, named before any of them is read.
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    number = b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10"
    torch.save({}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    head = (tmp_path / "c.pth").read_bytes().rpartition(b"\x80\x02}")[0]
    (tmp_path / "x.pth").write_bytes(head + b"\x80\x02" + storage + number + b"NtQ.\x80\x02]q\x00.")
    with pytest.raises(BackboneError, match="not a readable checkpoint"):
        read_pickle(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "TorchScript"])
def test_damaged_files_are_read_or_refused_and_never_crash(kind, tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "damaged"
    if kind == "TorchScript":
        torch.jit.script(torch.nn.Linear(4, 4)).save(str(whole))
    else:
        torch.save({"model": {"w": torch.ones(3)}}, whole, _use_new_zipfile_serialization=kind == "zip")
    refused = []
    for seed in range(300):
        draw, data = random.Random(seed), bytearray(whole.read_bytes())
        start = len(data) - 1000 if seed % 2 else 0
        for _ in range(3):
            data[draw.randrange(max(start, 0), max(start, 0) + min(1000, len(data)))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read_pickle(path)
        except BackboneError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not any("weights_only" in text for text in refused)


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

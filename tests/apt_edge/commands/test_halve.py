"""`apt-edge halve`: a smaller pack, and how much it was rounded."""

from __future__ import annotations

from apt_edge.pack import PromptPack
from tests.conftest import tiny_pack


def test_the_rounding_is_told(apt_edge, tiny_vit, tmp_path):
    tiny_pack(tiny_vit, tokens=64).save(tmp_path / "pack.safetensors")
    done = apt_edge("halve", tmp_path / "pack.safetensors", tmp_path / "half.safetensors")
    rounding = PromptPack.load(tmp_path / "half.safetensors").rounding
    assert 0 < rounding < 2**-9
    assert (done.returncode, f"more than {rounding:.2g}" in done.stdout) == (0, True)
    assert f"rounded by {rounding:.2g} at most" in apt_edge("inspect", tmp_path / "half.safetensors").stdout
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "pack.safetensors").stat().st_size


def test_what_float16_cannot_hold_is_refused(apt_edge, tiny_vit, tmp_path):
    pack = tiny_pack(tiny_vit, tokens=2)
    pack.kv[1].value[0, 1, 3] = 1e5
    pack.save(tmp_path / "pack.safetensors")
    done = apt_edge("halve", tmp_path / "pack.safetensors", tmp_path / "half.safetensors")
    assert (done.returncode, "kv.1.value is beyond float16" in done.stderr, "1e+05" in done.stderr) == (1, True, True)
    assert not (tmp_path / "half.safetensors").exists()

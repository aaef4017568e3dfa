"""Configuration is strict, and its errors name the nearest spelling."""

from __future__ import annotations

import pytest
from pydantic import Field

from apt_edge.clip import ClipSpec
from apt_edge.config import Strict, load_toml
from apt_edge.errors import ConfigError


class Inner(Strict):
    rate: float = Field(gt=0)
    name: str = "x"


class Outer(Strict):
    seed: int
    inner: Inner


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("seed = 1\n[inner]\nrate = 0.5\n")
    return path


def test_values_and_overrides(recipe):
    assert load_toml(recipe, Outer) == Outer(seed=1, inner=Inner(rate=0.5))
    changed = load_toml(recipe, Outer, ["inner.rate=2.0", "inner.name=apt", "seed = 3"])
    assert changed == Outer(seed=3, inner=Inner(rate=2.0, name="apt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\n[inner]\nrat = 0.5", r"inner\.rat: unknown key, did you mean rate\?"),
        ("seed = 1\nsed = 1\n[inner]\nrate = 0.5", r"sed: unknown key, did you mean seed\?"),
        ("seed = 1\n[inner]\nrate = -1.0", r"inner\.rate: .*greater than 0 \(got -1\.0\)"),
        ("seed = 'one'\n[inner]\nrate = 1.0", r"seed: .*integer \(got 'one'\)"),
        ("[inner]\nrate = 1.0", r"seed: .*required"),
        ("seed = ", "not valid TOML"),
    ],
)
def test_bad_files_are_explained(recipe, text, message):
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_toml(recipe, Outer)


def test_a_misspelt_path_names_its_neighbours(recipe):
    with pytest.raises(ConfigError, match=r"did you mean recipe\.toml"):
        load_toml(recipe.with_name("recpe.toml"), Outer)


@pytest.mark.parametrize("text", ["rate", "=1", "seed.x=1"])
def test_bad_overrides_are_explained(recipe, text):
    with pytest.raises(ConfigError, match="--set"):
        load_toml(recipe, Outer, [text])


def test_clip_specs_round_trip_and_refuse_nonsense():
    spec = ClipSpec(frames=8, size=48, sampling="segments")
    assert ClipSpec.from_dict(spec.to_dict()) == spec
    assert spec.shape == (3, 8, 48, 48)
    assert spec.difference(ClipSpec(frames=8, size=64, sampling="segments")) == "size 48 against 64"
    for bad in ({"frames": 0}, {"sampling": "random"}, {"colour": "BGR"}, {"std": (0.0, 1.0, 1.0)}):
        with pytest.raises(ConfigError):
            ClipSpec(**bad)
    with pytest.raises(ConfigError, match="unknown clip field sise"):
        ClipSpec.from_dict({"sise": 3})


def test_a_directory_is_asked_for_a_page(recipe):
    with pytest.raises(ConfigError, match=r"is a directory\s+found: recipe\.toml\s+fix:   name a page in it"):
        load_toml(recipe.parent, Outer)

"""The house keeps its rules: arrows between rooms, what a device imports, sizes, wheel contents, shipped TOML files."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.programs import usage_of

ROOT = Path(__file__).parents[1]
ROOMS = ("apt_edge", "train", "export", "bench")
ALLOWED = {"apt_edge": (), "train": ("apt_edge",), "export": ("apt_edge",), "bench": ("apt_edge", "train", "export")}
# Inside the library: what may be imported from where. methods -> backbone, never the other way round.
GROUND = ("errors", "files", "clip", "pack", "config")
INSIDE = {
    **{name: ("errors", "files", "clip") for name in GROUND},
    "backbone": GROUND,
    "methods": (*GROUND, "backbone"),
    "video": GROUND,
    "runtime": (*GROUND, "video"),
    "inspection": (*GROUND, "runtime"),
    "doctor": (*GROUND, "runtime"),
    "stream": (*GROUND, "runtime", "video"),
    "commands": (*GROUND, "runtime", "stream", "video", "inspection", "doctor"),
    "cli": (*GROUND, "commands"),
}
DEVICE_MODULES = [
    "apt_edge.errors",
    "apt_edge.clip",
    "apt_edge.pack",
    "apt_edge.cli",
    "apt_edge.inspection",
    *(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("runtime", "doctor", "stream", "commands", "video", "video/decoders", "video/formats")
        for path in sorted((ROOT / "apt_edge" / room).rglob("[a-z]*.py"))
    ),
]
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_arrows(path):
    room, *rest = path.relative_to(ROOT).with_suffix("").parts
    for name in imports(path):
        other, *inner = name.split(".")
        if other in ROOMS and other != room:
            assert other in ALLOWED[room], f"{path} imports {name}"
        if room == other == "apt_edge" and inner and rest and rest[0] != inner[0]:
            assert inner[0] in INSIDE[rest[0]], f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_and_public_functions_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py" and not tree.body:
        return
    assert ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name != "main":
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("module", DEVICE_MODULES)
def test_a_device_needs_neither_torch_nor_onnx(module):
    forbidden = "torch=None, onnx=None, onnxruntime=None, onnx_ir=None, pydantic=None, matplotlib=None, tqdm=None"
    code = f"import sys; sys.modules.update({forbidden}); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_library_alone(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"apt_edge"}
    assert "apt_edge/backbone/weights/nano.safetensors" in names
    assert "apt_edge/py.typed" in names


def test_every_shipped_configuration_loads():
    from apt_edge.config import load_toml
    from bench.roofline import Devices, Published
    from bench.suite import StepSuite, Suite
    from export.target import load_target
    from train.league import League
    from train.pretrain import PretrainRecipe
    from train.recipe import Recipe
    from train.sweep import Page

    for path in (ROOT / "export" / "targets").glob("*.toml"):
        assert load_target(path).name == path.stem
    for path in (ROOT / "bench" / "suites").glob("*.toml"):
        load_toml(path, StepSuite if path.stem.startswith("steps-") else Suite)
    load_toml(ROOT / "bench" / "devices.toml", Devices)
    load_toml(ROOT / "bench" / "published.toml", Published)
    pages = sorted((ROOT / "train" / "recipes").rglob("*.toml"))
    assert len(pages) >= 44
    others = {"nano-motion": PretrainRecipe, "demo-league": League}
    for path in pages:
        sweep = "\n[grid]\n" in path.read_text(encoding="utf-8")
        load_toml(path, Page if sweep else others.get(path.stem, Recipe))


TOOLS = [
    "train.clips",
    "train.convert",
    "train.tune",
    "train.sweep",
    "train.league",
    "train.evaluate",
    "train.pretrain",
    "export.to_onnx",
    "export.to_engine",
    "export.to_bundle",
    "bench.flops",
    "bench.aa",
    "bench.run",
    "bench.memory",
    "bench.matrix",
    "bench.steps",
    "bench.bank",
    "bench.trunk",
    "bench.report",
    "bench.readme",
    "bench.demo",
    "bench.gpu.suite",
    "bench.predict",
    "bench.compare",
    "bench.ingest",
    "bench.soak",
    "apt_edge.cli",
]


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_help(tool):
    assert "usage:" in usage_of(tool)

"""What TensorRT's Python bindings have, and what a piece of our code asks of them.

`python -m tests.export.engine.api tensorrt` prints the public attributes of the installed bindings' classes that our
code may use, as they stand in `tests/fixtures/tensorrt_api`.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[2] / "fixtures" / "tensorrt_api"
CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserFlag",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
)
Api = Mapping[str, Iterable[str]]

MODULE = "the module"
FUNCTIONS = ("nptype",)  # of the module; every version has them
# Names that variables, and attributes of self, have in our code.
NAMES = {
    "trt": MODULE,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
RETURNS = {
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("ITimingCache", "serialize"): "IHostMemory",
    ("OnnxParser", "get_error"): "ParserError",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
}


def public(module: Any) -> dict[str, list[str]]:
    """Class -> public attributes, of the installed bindings."""
    return {
        name: [attribute for attribute in dir(getattr(module, name)) if not attribute.startswith("_")]
        for name in CLASSES
        if hasattr(module, name)
    }


def dumps() -> dict[str, Api]:
    """Version -> API, of the real bindings of every supported release line."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*.json"))}


class Uses(ast.NodeVisitor):
    """Attributes of TensorRT objects that code uses, against the versions that can get there.

    A test `hasattr(object, "name")` narrows the versions of its branches; a branch that returns or raises narrows what
    follows it. Each function stands alone.

    Args:
        apis: version -> API.

    Attributes:
        checked: how many uses were seen.
        findings: `line: Class.attribute is not in VERSIONS`.
    """

    def __init__(self, apis: Mapping[str, Api]) -> None:
        self.apis = apis
        self.versions = set(apis)
        self.variables = dict(NAMES)
        self.checked = 0
        self.findings: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.versions, self.variables
        self.versions, self.variables = set(self.apis), dict(NAMES)
        self.generic_visit(node)
        self.versions, self.variables = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name) and (kind := self.kind(node.value)):
                self.variables[target.id] = kind

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        inside, outside = self.narrowed(node.test)
        self.block(node.body, inside)
        self.block(node.orelse, outside)
        if isinstance(node.body[-1], ast.Return | ast.Raise):
            self.versions = outside

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        inside, outside = self.narrowed(node.test)
        self.block([node.body], inside)
        self.block([node.orelse], outside)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if owner := self.kind(node.value):
            self.use(node.lineno, owner, node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name))]):
                if owner := self.kind(value):
                    self.use(node.lineno, owner, name)

    def use(self, line: int, owner: str, name: str) -> None:
        """Check one use."""
        self.checked += 1
        lacking = [version for version in sorted(self.versions) if not self.has(version, owner, name)]
        if lacking:
            self.findings.append(f"{line}: {owner}.{name} is not in {', '.join(lacking)}")

    def has(self, version: str, owner: str, name: str) -> bool:
        """Whether a version's class, or its module, has an attribute."""
        api = self.apis[version]
        if name.startswith("__") or (owner == MODULE and name in FUNCTIONS):
            return True
        return name in api if owner == MODULE else name in api.get(owner, ())

    def block(self, nodes: Iterable[ast.AST], versions: set[str]) -> None:
        """Visit a branch with the versions that get there."""
        before, self.versions = self.versions, versions
        for node in nodes:
            self.visit(node)
        self.versions = before

    def narrowed(self, test: ast.expr) -> tuple[set[str], set[str]]:
        """The versions for which a condition may hold, and those for which it may not."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.narrowed(operand)[::-1]
            case ast.Call(func=ast.Name(id="hasattr"), args=[value, ast.Constant(value=str(name))]):
                if owner := self.kind(value):
                    having = {version for version in self.versions if self.has(version, owner, name)}
                    return having, self.versions - having
        return self.versions, self.versions

    def kind(self, node: ast.expr) -> str | None:
        """The class of an expression, or the class that it is; None when it is nothing of TensorRT's."""
        match node:
            case ast.Name(id=name):
                return self.variables.get(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return NAMES.get(name.lstrip("_"))
            case ast.Attribute(value=value, attr=name):
                owner = self.kind(value)
                if (owner, name) == ("ILogger", "Severity"):
                    return owner  # the severities are attributes of both
                return name if owner == MODULE and name[0].isupper() else None
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                owner = self.kind(value)
                return name if owner == MODULE else RETURNS.get((owner or "", name))
        return None


def uses(code: str, apis: Mapping[str, Api]) -> Uses:
    """What a piece of code asks of the bindings."""
    found = Uses(apis)
    found.visit(ast.parse(code))
    return found


if __name__ == "__main__":
    classes = public(importlib.import_module(sys.argv[1])).items()
    print("{\n" + ",\n".join(f' "{name}": {json.dumps(attributes)}' for name, attributes in classes) + "\n}")

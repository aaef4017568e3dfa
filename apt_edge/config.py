"""TOML files into frozen, strict models: the one way in which recipes, targets and suites are read.

Needs pydantic (extras `train`, `export`, `bench`); a device does not import this file.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from apt_edge.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Strict(BaseModel):
    """Base of every configuration model: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=Strict)


def load_toml(path: str | Path, model: type[Model], overrides: list[str] | None = None) -> Model:
    """Read a TOML file into `model`.

    Args:
        path: the TOML file.
        model: the `Strict` subclass that describes it.
        overrides: strings `a.b=value`, the value in TOML syntax (a bare word counts as a string).

    Raises:
        ConfigError: the file is missing, is not TOML, has an unknown key or a value out of range.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], 3)
        raise ConfigError(f"{path} does not exist", fix=f"did you mean {', '.join(near)}?" if near else "") from None
    except IsADirectoryError:
        pages = ", ".join(sorted(page.name for page in path.glob("*.toml"))) or "it holds no .toml file"
        raise ConfigError(f"{path} is a directory", found=pages, fix="name a page in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML", found=str(error)) from None
    for text in overrides or []:
        override(data, text)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path} does not validate", found=_describe(error, model), fix="correct the file") from None


def override(data: dict[str, Any], text: str) -> None:
    """Set one value in place: `text` is `a.b=value`, the value in TOML syntax (a bare word counts as a string).

    Raises:
        ConfigError: another form, or a value where a table should be.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {text} is not of the form a.b=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *parents, last = name.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {text}: {parent} is a value, not a table")
    data[last] = parsed


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        line = f"{where}: {item['msg']}"
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
            line = f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f"; known: {', '.join(known)}")
        elif item["type"] == "value_error":  # written by us, and it names what it found
            line = f"{where}: {item['ctx']['error']}"
        elif item["type"] != "missing":
            line += f" (got {item['input']!r})"
        lines.append(line)
    return "; ".join(lines)


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)

"""A grid of settings over seeds, as one table and one picture.

python -m train.sweep train/recipes/demo-apt.toml --grid method.tokens=16,64 optim.epochs=4,8 --seeds 0,1
python -m train.sweep train/recipes/ablations/*.toml

A page holds the grid with the question it answers. The runs lie in OUT/<page>/, and a second call makes only those that
are missing. `report.md` has a table and a picture for each page, `<page>.json` every number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from apt_edge.config import load_toml
from apt_edge.errors import ConfigError, run_tool
from apt_edge.files import atomic, write_json
from apt_edge.tables import Column, Row, markdown_table, number
from train.comparison.campaign import (
    ACCURACY,
    FAILED,
    Campaign,
    Outcome,
    Run,
    add_campaign_arguments,
    raise_failures,
    run_groups,
    run_options,
    summarise_seeds,
)
from train.comparison.plots import save_sweep
from train.comparison.seeds import MOST_SEEDS, paired_difference

COLUMNS: dict[str, Column] = {
    **ACCURACY,
    "training loss": number("train_loss", ".3f"),
    "trainable": number("trainable_parameters", ","),
    "epochs": number("epochs", "g"),
    "seconds": number("seconds", ".0f"),
    **FAILED,
}


class Page(Campaign):
    """A sweep on a page of its own, such as those in `train/recipes/ablations`.

    Attributes:
        question: what is asked, and what the paper says to it.
        verdict: written by hand when the numbers are there; every report repeats it.
        set: settings of all runs.
        grid: settings and their values, `"a.b" = [...]`; every combination is run. The picture shows the first setting.
    """

    question: str = ""
    verdict: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(min_length=1)

    @field_validator("grid")
    @classmethod
    def _has_values(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values")
        return grid


@dataclass(frozen=True)
class Point:
    """One combination of the grid and its runs, one a seed."""

    settings: dict[str, Any]
    runs: list[Run]


def points(page: Page, out: Path) -> list[Point]:
    """The grid in its order, the last setting going round fastest; runs lie in `out`."""
    found = []
    for values in itertools.product(*page.grid.values()):
        settings = dict(zip(page.grid, values, strict=True))
        name = "-".join(f"{key}-{value}" for key, value in settings.items())
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        found.append(
            Point(settings, [page.run(out, f"{name}-seed-{seed}", seed, page.set, settings) for seed in page.seeds])
        )
    return found


def sweep(page: Page, out: Path, jobs: int = 1, options: Sequence[str] = ()) -> tuple[dict[str, Any], list[Outcome]]:
    """Make what is missing of a page's runs in `out`; its result, ready for JSON, and the outcome of every run.

    Raises:
        AptEdgeError: the clips cannot be made. Runs that fail are told in their rows.
    """
    grid = points(page, out)
    groups = run_groups(page, [point.runs for point in grid], jobs, options)
    rows = [_row(point, outcomes) for point, outcomes in zip(grid, groups, strict=True)]
    result = page.model_dump(mode="json") | {"rows": rows, "best": best_row(rows, page.seeds)}
    return result, [outcome for group in groups for outcome in group]


def _row(point: Point, outcomes: Sequence[Outcome]) -> Row:
    curves = [_loss_curve(outcome.run.out) for outcome in outcomes if outcome.evaluation]
    return {
        "settings": point.settings,
        **summarise_seeds(outcomes),
        "loss_curve": [round(sum(losses) / len(losses), 4) for losses in zip(*curves, strict=False)],  # to the shortest
    }


def _loss_curve(run: Path) -> list[float]:
    """Training loss of every epoch."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def best_row(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """The best point in words, and which others the seeds cannot tell from it."""
    done = [row for row in rows if row["accuracy"] is not None]
    if not done:
        return "No run ended well."
    best = max(done, key=lambda row: row["accuracy"])
    text = f"Best: {_words(best)} with {best['accuracy']:.1%}."
    if len(seeds) < 2:
        return f"{text} One seed says nothing about noise."
    equal = [row for row in done if row is not best and not _is_better(best, row)]
    if not equal:
        return f"{text} Its lead over every other row has a paired 95 % interval above 0."
    return f"{text} {len(seeds)} seeds cannot tell it from {'; '.join(map(_words, equal))}."


def _is_better(best: Row, row: Row) -> bool:
    lead = paired_difference(best["accuracies"], row["accuracies"])
    return lead is not None and lead.low > 0


def _words(row: Row) -> str:
    return ", ".join(f"{key} = {value}" for key, value in row["settings"].items())


def write_report(results: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Write `report.md`, and `<name>.json` and `<name>.png` of every result; returns the report.

    Args:
        results: of `sweep`, by the names of their pages.
        folder: is made when it is not there.
    """
    sections = []
    for name, result in results.items():
        write_json(folder / f"{name}.json", result)
        save_sweep(result["rows"], result["title"], folder / f"{name}.png")
        rows = [row["settings"] | row for row in result["rows"]]
        settings: dict[str, Column] = {key: _cell(key) for key in result["grid"]}
        lines = [
            f"## {result['title']}",
            result["question"].strip(),
            f"`{result['recipe']}`, seeds {', '.join(map(str, result['seeds']))}; spread is the standard deviation.",
            markdown_table(rows, settings | COLUMNS),
            result["best"],
            f"![{result['title']}]({name}.png)",
            f"**Verdict.** {result['verdict'].strip() or 'Not written yet.'}",
        ]
        sections += [line for line in lines if line]
    report = "\n\n".join(sections) + "\n"
    with atomic(folder / "report.md") as temporary:
        temporary.write_text(report, encoding="utf-8")
    return report


def _cell(key: str) -> Column:
    return lambda row: str(row[key])


def read_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`["a.b=1,2", "c=x,y"]` as `{"a.b": [1, 2], "c": ["x", "y"]}`; raises ConfigError."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, separator, values = text.partition("=")
        if not (key and separator and values):
            raise ConfigError(f"--grid {text} is not of the form a.b=value,value")
        try:
            grid[key] = json.loads(f"[{values}]")  # numbers, booleans and arrays are written as in a recipe
        except ValueError:
            grid[key] = [_value(part) for part in values.split(",")]
    return grid


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_pages(paths: Sequence[str], grid: Sequence[str], seeds: list[int] | None) -> dict[str, Page]:
    """Pages by the stems of their files; with a grid the one file is a recipe. Raises ConfigError."""
    if grid:
        if len(paths) > 1:
            raise ConfigError("--grid is for one recipe", found=", ".join(paths), fix="give pages without --grid")
        name = Path(paths[0]).stem
        return {name: Page(title=name, recipe=paths[0], seeds=seeds or [0], grid=read_grid(grid))}
    overrides = [f"seeds={seeds}"] if seeds else []
    pages = {Path(path).stem: load_toml(path, Page, overrides) for path in paths}
    if len(pages) < len(paths):
        raise ConfigError("two pages have the same name", found=", ".join(paths), fix="rename one")
    return pages


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",")]
    if len(seeds) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"at most {MOST_SEEDS} seeds")
    return seeds


def main() -> None:
    """Parse, run, write, print."""
    parser = argparse.ArgumentParser(prog="train.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="+", metavar="PAGE", help="pages of sweeps, or one recipe with --grid")
    parser.add_argument("--grid", nargs="+", default=[], metavar="a.b=x,y", help="settings and their values")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1", help="default: the page's, or 0")
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"), help="folder of the runs (%(default)s)")
    add_campaign_arguments(parser)
    arguments = parser.parse_args()
    pages = read_pages(arguments.pages, arguments.grid, arguments.seeds)
    results, outcomes = {}, []
    for name, page in pages.items():
        results[name], more = sweep(page, arguments.out / name, arguments.jobs, run_options(arguments))
        outcomes += more
    report = write_report(results, arguments.publish or arguments.out)
    print(json.dumps(results, indent=2) if arguments.json else report)
    raise_failures(outcomes)


if __name__ == "__main__":
    run_tool(main, "train.sweep")

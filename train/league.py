"""Every tuning method under the same rules: `python -m train.league train/recipes/demo-league.toml`.

All contenders get the same clips, views and order for the same seed, and the same evaluation; a page holds what they
share and what is each one's own. The runs lie in OUT/<contender>-seed-<n>/, and a second call makes only those that are
missing. `league.md` is the table, `league.json` holds every number, `accuracy.png` shows accuracy against parameters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from tqdm import tqdm

from apt_edge.config import load_toml
from apt_edge.errors import run_tool
from apt_edge.files import atomic, write_json
from apt_edge.runtime.statistics import paired_ratio
from apt_edge.runtime.timing import measure_interleaved
from apt_edge.tables import MISSING, Column, Row, markdown_table, number
from train.advice import warning
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
from train.comparison.plots import save_league
from train.comparison.seeds import paired_difference
from train.devices import choose_device
from train.engine.data import read_items
from train.engine.stepcost import Step, make_step, peak_bytes
from train.recipe import Recipe
from train.rundir import environment
from train.tune import build_model

ROUNDS, WARMUP = 20, 2


class League(Campaign):
    """A comparison of methods.

    Attributes:
        baseline: the contender that the others' accuracies are compared with, seed by seed.
        steps_against: the contender whose step time the others' are divided by.
        common: settings of all runs.
        contenders: settings of each one, its method and rates among them.
    """

    baseline: str = "linear"
    steps_against: str = "full"
    common: dict[str, Any] = Field(default_factory=dict)
    contenders: dict[str, dict[str, Any]] = Field(min_length=2)

    @model_validator(mode="after")
    def _has_references(self) -> League:
        for reference in (self.baseline, self.steps_against):
            if reference not in self.contenders:
                raise ValueError(f"the reference {reference} is none of {', '.join(self.contenders)}")
        return self


def league_runs(league: League, out: Path) -> dict[str, list[Run]]:
    """The runs of every contender, one a seed, in `out`."""
    return {
        name: [league.run(out, f"{name}-seed-{seed}", seed, league.common, settings) for seed in league.seeds]
        for name, settings in league.contenders.items()
    }


def play(league: League, out: Path, jobs: int = 1, options: Sequence[str] = ()) -> tuple[list[Row], list[Outcome]]:
    """Make what is missing of a league's runs in `out`; one row a contender, and the outcome of every run.

    Raises:
        AptEdgeError: the clips cannot be made. Runs that fail are told in their rows.
    """
    runs = league_runs(league, out)
    groups = run_groups(league, list(runs.values()), jobs, options)
    rows = [_row(name, outcomes) for name, outcomes in zip(runs, groups, strict=True)]
    baseline = next(row for row in rows if row["method"] == league.baseline)
    for row in rows:
        gain = None if row is baseline else paired_difference(row["accuracies"], baseline["accuracies"])
        row["gain"], row["gain_low"], row["gain_high"] = gain or (None, None, None)
    return rows, [outcome for group in groups for outcome in group]


def below_baseline(league: League, outcomes: Sequence[Outcome]) -> list[str]:
    """What to try with each run that ends below the baseline's of the same seed."""
    done = {outcome.run.out.name: outcome for outcome in outcomes if outcome.evaluation}
    messages = []
    for outcome in done.values():
        other = done.get(f"{league.baseline}-seed-{outcome.run.seed}")
        if other and outcome.evaluation and other.evaluation:
            messages.append(warning(outcome.run.resolve(), outcome.evaluation, other.evaluation))
    return [message for message in messages if message]


def _row(name: str, outcomes: Sequence[Outcome]) -> Row:
    row: Row = {"method": name, **summarise_seeds(outcomes)}
    run = next((outcome.run for outcome in outcomes if outcome.evaluation), None)
    if run:  # what is the same under every seed
        recipe = run.resolve()
        classes = len(read_items(recipe.data, "train").labels)
        row["gmacs"] = build_model(recipe, classes).method.clip_macs(classes, deployed=True) / 1e9
        row["pack_kb"] = (run.out / "pack.safetensors").stat().st_size / 1000
        row["environment"] = json.loads((run.out / "environment.json").read_text(encoding="utf-8"))
        row["recipe"] = recipe.model_dump(mode="json")
    return row


def step_costs(rows: Sequence[Row], against: str, path: Path, device: torch.device) -> dict[str, Any]:
    """Under `costs`, by method: median ms of a step, its ratio to the step of `against`, its peak memory in MB.

    A step of all clips that are computed at once: `accumulate` of them make an optimiser's step. All methods take turns
    in this process, in float32, each on what its runs trained on: kept prefixes, where they had them. What was measured
    is kept in `path` with its circumstances, and measured again when a recipe or the device has changed.
    """
    recipes = {row["method"]: row["recipe"] for row in rows if "recipe" in row}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["recipes"] == recipes and kept["environment"]["device"] == environment(device, 1)["device"]:
            return kept
    steps = {name: _step(Recipe.model_validate(recipe), device) for name, recipe in recipes.items()}
    with tqdm(total=ROUNDS, desc="steps", unit="round", disable=None) as bar:
        times = measure_interleaved(steps, ROUNDS, WARMUP, progress=lambda _: bar.update())
    costs: dict[str, Row] = {
        name: {"step_ms": float(np.median(times[name])), "peak_mb": peak_bytes(step) / 1e6}
        for name, step in steps.items()
    }
    for name in costs if against in times else ():
        ratio = paired_ratio(times[name], times[against])
        costs[name] |= {"step_ratio": ratio.median, "step_ratio_low": ratio.low, "step_ratio_high": ratio.high}
    measured = {"recipes": recipes, "rounds": ROUNDS, "environment": environment(device, 1), "costs": costs}
    write_json(path, measured)
    return measured


def _step(recipe: Recipe, device: torch.device) -> Step:
    model = build_model(recipe, len(read_items(recipe.data, "train").labels)).to(device)
    at_once = recipe.optim.batch // recipe.optim.accumulate * recipe.augment.num_sample
    return make_step(model, at_once, bool(recipe.augment.views) and recipe.cache.use, recipe.optim)


def write_results(league: League, rows: Sequence[Row], steps: dict[str, Any], folder: Path) -> str:
    """Write `league.json`, `league.md` and `accuracy.png` into a folder; returns the table."""
    columns: dict[str, Column] = {
        "method": lambda row: str(row["method"]),
        **ACCURACY,
        f"over {league.baseline}": number("gain", "+.1%"),
        "95 % interval": lambda row: (
            MISSING if row["gain"] is None else f"{row['gain_low']:+.1%} to {row['gain_high']:+.1%}"
        ),
        "frames shuffled": number("accuracy_shuffled", ".1%"),
        "trainable": number("trainable_parameters", ","),
        "GMACs deployed": number("gmacs", ".4g"),
        "pack, kB": number("pack_kb", ",.0f"),
        "step, ms": number("step_ms", ".4g"),
        f"step / {league.steps_against}'s": number("step_ratio", ".2f"),
        "peak memory, MB": number("peak_mb", ",.0f"),
        **FAILED,
    }
    table = markdown_table(rows, columns)
    circumstances = {key: steps[key] for key in ("rounds", "environment")}
    write_json(folder / "league.json", league.model_dump(mode="json") | {"rows": rows, "steps": circumstances})
    save_league(rows, league.title, folder / "accuracy.png")
    with atomic(folder / "league.md") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    return table


def main() -> None:
    """Parse, play, write, print."""
    parser = argparse.ArgumentParser(prog="train.league", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", help="a league, see train/recipes/demo-league.toml")
    parser.add_argument("--out", type=Path, help="folder of the runs, default runs/<page>")
    add_campaign_arguments(parser)
    arguments = parser.parse_args()
    league = load_toml(arguments.page, League)
    out = arguments.out or Path("runs") / Path(arguments.page).stem
    rows, outcomes = play(league, out, arguments.jobs, run_options(arguments))
    steps = step_costs(rows, league.steps_against, out / "steps.json", choose_device(arguments.device))
    rows = [row | steps["costs"].get(row["method"], {}) for row in rows]
    table = write_results(league, rows, steps, arguments.publish or out)
    print(json.dumps(rows, indent=2) if arguments.json else table)
    for message in below_baseline(league, outcomes):
        print(f"train.league: warning: {message}", file=sys.stderr)
    raise_failures(outcomes)


if __name__ == "__main__":
    run_tool(main, "train.league")

"""Many tuning runs: each one is `train.tune` in a process of its own, resumable, and one that fails stops no other."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from tqdm import tqdm

from apt_edge.config import Strict, load_toml
from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.runtime.machine import usable_cores
from apt_edge.tables import MISSING, Column, Row, number
from train.advice import read_evaluation
from train.clips import make_clips
from train.comparison.seeds import MOST_SEEDS, mean_and_spread
from train.devices import add_device_arguments
from train.recipe import Recipe, toml_text

TOOL = "train.tune"
POLL_SECONDS = 0.1
MEANS = ("accuracy_shuffled", "train_loss", "epochs", "seconds")
ACCURACY: dict[str, Column] = {"accuracy, mean": number("accuracy", ".1%"), "spread": number("accuracy_spread", ".1%")}
FAILED: dict[str, Column] = {"failed": lambda row: "; ".join(row["failed"]).replace("|", "/") or MISSING}


class RunsFailed(AptEdgeError):
    """Some runs of a campaign failed; the tables of the others are written."""


class SeedClips(Strict):
    """Labelled clips of `train.clips`, made when they are missing; each seed has its own, training and held-out.

    Attributes:
        folder: of seed 0 is `<folder>-0`.
        train, val: number of clips.
    """

    folder: str
    train: int = Field(ge=1)
    val: int = Field(ge=1)


class Campaign(Strict):
    """What the page of a sweep or a league begins with.

    Attributes:
        recipe: what all runs are, but for the settings that the page changes.
        seeds: each of them decides the clips, their order and views, and what is drawn at random, for all runs alike.
        clips: made for each seed; without them the recipe's data serve all seeds.
    """

    title: str
    recipe: str
    seeds: Annotated[list[int], Field(min_length=1, max_length=MOST_SEEDS)]
    clips: SeedClips | None = None

    def make_clips(self) -> None:
        """Make the clips of every seed, or find them; raises ConfigError when their folder holds others."""
        if self.clips:
            for seed in self.seeds:
                make_clips(f"{self.clips.folder}-{seed}", seed, self.clips.train, self.clips.val)

    def run(self, out: Path, name: str, seed: int, *tables: Mapping[str, Any]) -> Run:
        """The run `out/<name>` under nested settings; later tables win."""
        settings = [text for table in (*tables, {"name": name, "seed": seed}) for text in set_strings(table)]
        if self.clips:
            files = {"train": "train.csv", "val": "val.csv", "labels": "labels.txt"}
            settings += [f'data.{key}="{self.clips.folder}-{seed}/{file}"' for key, file in files.items()]
        return Run(self.recipe, tuple(settings), out / name, seed)


@dataclass(frozen=True)
class Run:
    """One run that is wanted.

    Attributes:
        recipe: its TOML file.
        overrides: what `train.tune --set` takes.
        out: its folder; `<out>.log` receives what the run says.
        seed: as the overrides set it.
    """

    recipe: str
    overrides: tuple[str, ...]
    out: Path
    seed: int

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.out.with_name(f"{self.out.name}.log")

    def resolve(self) -> Recipe:
        """The recipe with its overrides; raises ConfigError."""
        return load_toml(self.recipe, Recipe, list(self.overrides))

    def is_finished(self) -> bool:
        """Whether the folder holds the result of exactly this recipe; raises ConfigError when the recipe is wrong."""
        wanted = self.resolve()
        try:
            return (self.out / "evaluation.json").is_file() and load_toml(self.out / "recipe.toml", Recipe) == wanted
        except ConfigError:  # written under other rules, or no recipe at all
            return False


@dataclass(frozen=True)
class Outcome:
    """A run's `evaluation.json`, or None and the reason."""

    run: Run
    evaluation: dict[str, Any] | None
    error: str = ""


def set_strings(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`a.b=value` for every setting of nested tables; a table with a `name`, such as [method], is set as a whole."""
    for key, value in table.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from set_strings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={toml_text(value)}"


def run_groups(
    campaign: Campaign, groups: Sequence[Sequence[Run]], jobs: int = 1, options: Sequence[str] = ()
) -> list[list[Outcome]]:
    """Make the clips of a campaign and what is missing of its runs; the outcomes in the groups of the runs.

    Raises:
        AptEdgeError: the clips cannot be made. Runs that fail are told in their outcomes.
    """
    campaign.make_clips()
    outcomes = iter(run_all([run for group in groups for run in group], jobs, options))
    return [[next(outcomes) for _ in group] for group in groups]


def run_all(runs: Sequence[Run], jobs: int = 1, options: Sequence[str] = ()) -> list[Outcome]:
    """Make the runs that are not finished yet; the outcomes of all of them, in the same order.

    A finished run whose recipe has changed is made again. After Ctrl-C a second call goes on where the first one was.

    Args:
        runs: in folders of their own.
        jobs: runs at a time; the processor's cores are shared out among them.
        options: more options of `train.tune`.
    """
    if jobs < 1:
        raise ConfigError("there is nothing to do for less than one job", found=f"--jobs {jobs}")
    if len({run.out for run in runs}) < len(runs):
        raise ConfigError("two runs would share one folder", fix="give every setting once")
    errors: dict[Run, str] = {}
    waiting = []
    for run in runs:
        run.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not run.is_finished():
                waiting.append(run)
        except AptEdgeError as error:
            run.log.write_text(f"{TOOL}: {error}\n", encoding="utf-8")
            errors[run] = _last_words(run.log, error.exit_code)
    with tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", disable=None) as bar:
        for run, code in _execute(waiting, jobs, options, bar):
            if code:
                errors[run] = _last_words(run.log, code)
                bar.write(f"{run.out.name} failed: {errors[run]}", file=sys.stderr)
    return [
        Outcome(run, None, errors[run]) if run in errors else Outcome(run, read_evaluation(run.out)) for run in runs
    ]


def _execute(runs: Sequence[Run], jobs: int, options: Sequence[str], bar: tqdm) -> Iterator[tuple[Run, int]]:
    """Every run and its exit code, as they end."""
    threads = max(1, usable_cores() // jobs)
    waiting, running = list(runs), dict[Run, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = _start(run, options, threads)
            bar.set_description(", ".join(run.out.name for run in running))
            ended = [run for run, process in running.items() if process.poll() is not None]
            for run in ended:
                code = running.pop(run).returncode
                bar.update()
                yield run, code
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:  # after Ctrl-C: what they had reached is in their checkpoints
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(run: Run, options: Sequence[str], threads: int) -> subprocess.Popen[bytes]:
    overrides = [part for text in run.overrides for part in ("--set", text)]
    command = [sys.executable, "-m", TOOL, run.recipe, *overrides, "--out", str(run.out), "--resume", *options]
    with open(run.log, "wb") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": f"{threads}"},
        )


def _last_words(log: Path, code: int) -> str:
    """The message of a failed run, or the end of its traceback."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith(f"{TOOL}: ")]
    if not said:
        return f"{lines[-1].strip() if lines else 'it said nothing'} (exit code {code})"
    message, found = lines[said[-1]].removeprefix(f"{TOOL}: "), lines[said[-1] + 1 : said[-1] + 2]
    return message + "".join(f": {line.removeprefix('  found: ')}" for line in found if line.startswith("  found: "))


def summarise_seeds(outcomes: Sequence[Outcome]) -> Row:
    """What the runs of one setting under several seeds say together: means, and the reasons of those that failed."""
    done = [(outcome.run, outcome.evaluation) for outcome in outcomes if outcome.evaluation]
    accuracy, spread = mean_and_spread([evaluation["accuracy"] for _, evaluation in done])
    return {
        "accuracy": accuracy,
        "accuracy_spread": spread,
        "accuracies": {run.seed: evaluation["accuracy"] for run, evaluation in done},
        **{key: mean_and_spread([e[key] for _, e in done if e[key] is not None])[0] for key in MEANS},
        "trainable_parameters": done[0][1]["trainable_parameters"] if done else None,
        "failed": [f"seed {outcome.run.seed}: {outcome.error}" for outcome in outcomes if not outcome.evaluation],
    }


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """End a tool that has written its tables: raises RunsFailed if any run failed."""
    bad = [outcome for outcome in outcomes if outcome.evaluation is None]
    if bad:
        raise RunsFailed(
            f"{len(bad)} of {len(outcomes)} runs failed; the tables hold the others",
            found=f"{bad[0].run.out.name}: {bad[0].error}",
            fix=f"read {bad[0].run.log}, correct the settings and repeat the command: finished runs are kept",
        )


def add_campaign_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--jobs`, `--publish`, `--json` and what `train.tune` takes beside its recipe."""
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores (%(default)s)")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="write tables and pictures here, not beside the runs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_arguments(parser, by_recipe=True)


def run_options(arguments: argparse.Namespace) -> list[str]:
    """The options of `train.tune` among those of `add_campaign_arguments`."""
    device = ["--device", arguments.device] if arguments.device else []
    return [*device, *([] if arguments.workers is None else ["--workers", str(arguments.workers)])]

"""Two runs of one suite, before and after: `python -m bench.compare A B --fail-if-slower 3%`.

Runs at different times cannot be paired round by round: the machine may have been slower. So each contender is compared
by its ratio to the baseline of its own run. What slows both alike cancels, and is not seen: the baseline itself cannot
be compared, and should be what has not changed. Between two runs of equal code the ratio itself may move a little
(memory is laid out anew), which no interval of one run knows: leave it room in the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.errors import ConfigError, GateError, run_tool
from apt_edge.runtime.statistics import Ratio, paired_ratio, verdict
from apt_edge.tables import MISSING, Column, Row, markdown_table, number
from bench.numbers import NOT_PAIRED
from bench.rows import ROWS, read_rows

LIMIT = 0.03
CANNOT_TELL = "cannot tell"
KEY = ("suite", "contender", "session", "mode", "batch")
POWER_MODE = "nvpmodel -q"


def hardware(row: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for two rows to be compared: the machine, its power mode, threads, clock, and precision."""
    facts = row["environment"]
    return {
        "device": row["device"],
        "cpu": facts["cpu"],
        "gpus": [gpu.get("name") for gpu in facts["gpus"]],
        "power mode": facts["commands"].get(POWER_MODE),
        "threads": facts["threads"],
        "clock": row["clock"],
        "precision": row["precision"],
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """`threads: 1, 2`: where the `hardware` of two rows differs."""
    of_a, of_b = hardware(a), hardware(b)
    return [f"{key}: {of_a[key]}, {of_b[key]}" for key in of_a if of_a[key] != of_b[key]]


def ratio_of_ratios(a: Ratio, b: Ratio) -> Ratio:
    """`b` over `a`, two independent estimates: their log-intervals are joined by recovered variances (MOVER).

    Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008.
    """
    middle = log(b.median / a.median)
    low = middle - sqrt(log(b.median / b.low) ** 2 + log(a.high / a.median) ** 2)
    high = middle + sqrt(log(b.high / b.median) ** 2 + log(a.median / a.low) ** 2)
    return Ratio(exp(middle), exp(low), exp(high))


def judge(ratio: Ratio, limit: float) -> str:
    """`verdict`, but `cannot tell` instead of `no difference` when the interval leaves the limit around 1."""
    within = 1 / (1 + limit) <= ratio.low and ratio.high <= 1 + limit
    named = verdict(ratio)
    return CANNOT_TELL if named == "no difference" and not within else named


def compare(a: Sequence[Row], b: Sequence[Row], limit: float = LIMIT, across_machines: bool = False) -> list[Row]:
    """Every contender that both runs have, by its ratio to the baseline.

    Args:
        a: checked rows of the run before.
        b: of the run after.
        limit: fraction by which a difference matters.
        across_machines: compare although machine, threads or precision differ.

    Returns:
        One row a contender: the names, `baseline`, `change` with `change_low` and `change_high` (ratio to the baseline
        in `b` over that in `a`, 95 %), `verdict`, `beyond_limit` (slower than the limit: `yes`, `no`, `perhaps`, null
        where it cannot be told), `median_ms_before` and `median_ms_after`, `model_changed`, `hardware` (what differs),
        and `why` a verdict lacks.

    Raises:
        ConfigError: no contender is in both, or machine, threads or precision differ.
    """
    before, after = ({tuple(row[key] for key in KEY): row for row in rows} for rows in (a, b))
    common = [key for key in before if key in after]
    if not common:
        names = [", ".join(dict.fromkeys(str(row["contender"]) for row in rows)) for rows in (a, b)]
        raise ConfigError(
            "the two runs have no contender in common",
            found=f"{names[0]}; {names[1]}",
            fix=f"compare runs of one suite: {', '.join(KEY)} must be equal",
        )
    other = dict.fromkeys(text for key in common for text in differences(before[key], after[key]))
    if other and not across_machines:
        raise ConfigError(
            "the two runs are not of the same machine",
            found="; ".join(other),
            fix="measure both on one machine with one setting, or give --across-machines",
        )
    return [_compared(before[key], after[key], a, b, limit) for key in common]


def _compared(before: Row, after: Row, a: Sequence[Row], b: Sequence[Row], limit: float) -> Row:
    found = {key: before[key] for key in KEY}
    found |= {"baseline": before["baseline"], "change": None, "change_low": None, "change_high": None}
    found |= {"verdict": CANNOT_TELL, "beyond_limit": None, "why": _obstacle(before, after)}
    if not found["why"]:
        ratio = ratio_of_ratios(_to_baseline(before, a), _to_baseline(after, b))
        beyond = "yes" if ratio.low > 1 + limit else "perhaps" if ratio.high > 1 + limit else "no"
        found |= {"change": ratio.median, "change_low": ratio.low, "change_high": ratio.high}
        found |= {"verdict": judge(ratio, limit), "beyond_limit": beyond}
    return found | {
        "median_ms_before": before["latency_ms_median"],
        "median_ms_after": after["latency_ms_median"],
        "model_changed": before["model_sha256"] != after["model_sha256"],
        "hardware": differences(before, after),
    }


def _obstacle(before: Row, after: Row) -> str | None:
    """Why two rows cannot be compared; None when they can."""
    if NOT_PAIRED in (before["verdict"], after["verdict"]):
        return "not measured in turns with a baseline"
    if before["baseline"] != after["baseline"]:
        return f"the baselines are {before['baseline']} and {after['baseline']}"
    return "it is the baseline" if before["verdict"] == "baseline" else None


def _to_baseline(row: Row, rows: Sequence[Row]) -> Ratio:
    keys = {key: row[key] for key in ("suite", "mode", "batch")} | {"contender": row["baseline"]}
    base = next(other for other in rows if all(other[key] == value for key, value in keys.items()))
    return paired_ratio(np.array(row["times_ms"]), np.array(base["times_ms"]))


def check_slower(rows: Sequence[Row], limit: float, missing: Sequence[str] = ()) -> None:
    """Raises GateError when a contender is certainly slower than the limit; warns on stderr when it may be.

    Args:
        rows: of `compare`.
        limit: fraction by which a difference matters.
        missing: contenders of the run before that the run after does not have: they fail as well.
    """
    texts = {
        word: [f"{row['contender']} ({row['session']}): {_change(row)}" for row in rows if row["beyond_limit"] == word]
        for word in ("yes", "perhaps")
    }
    if texts["perhaps"]:
        print(
            f"perhaps more than {limit:.1%} slower, measure more rounds: {'; '.join(texts['perhaps'])}", file=sys.stderr
        )
    if texts["yes"]:
        raise GateError(
            f"slower than before by more than {limit:.1%}",
            found="; ".join(texts["yes"]),
            fix="look at what changed in between; repeat both runs on a quiet machine to be sure",
        )
    if missing:
        raise GateError(
            "contenders of the run before are not in the run after",
            found=", ".join(missing),
            fix="measure the same suite before and after; what is not measured may be slower",
        )
    if all(row["beyond_limit"] is None for row in rows):
        raise ConfigError(
            "nothing can be compared",
            found="; ".join(f"{row['contender']}: {row['why']}" for row in rows),
            fix="measure the contenders and a baseline in one bench.run, before and after",
        )


def only_in(a: Sequence[Row], b: Sequence[Row]) -> list[str]:
    """What `a` has and `b` has not."""
    there = {tuple(row[key] for key in KEY) for row in b}
    return [_name(row) for row in a if tuple(row[key] for key in KEY) not in there]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['contender']} ({row['session']}, batch {row['batch']})"


def _change(row: Mapping[str, Any]) -> str:
    if row["change"] is None:
        return MISSING
    return f"{row['change']:.3f} [{row['change_low']:.3f}, {row['change_high']:.3f}]"


COLUMNS: dict[str, Column] = {
    "contender": lambda row: str(row["contender"]),
    "session": lambda row: str(row["session"]),
    "batch": number("batch", "d"),
    "ms before": number("median_ms_before", ".4g"),
    "ms after": number("median_ms_after", ".4g"),
    "change against the baseline [95 %]": _change,
    "verdict": lambda row: str(row["verdict"]),
    "why not": lambda row: row["why"] or MISSING,
    "model": lambda row: "another" if row["model_changed"] else "the same",
}


def percent(text: str) -> float:
    """`3%` or `0.03` as a fraction; for argparse."""
    number, sign, rest = text.partition("%")
    try:
        value = float(number) / (100 if sign else 1)
    except ValueError:
        value = -1.0
    if rest or not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no limit: give a fraction between 0 and 1, as 3% or 0.03")
    return value


def _read(path: Path) -> list[Row]:
    return read_rows(path / ROWS if path.is_dir() else path)


def main() -> None:
    """Compare two runs of one suite, each contender by its ratio to the baseline of its own run."""
    parser = argparse.ArgumentParser(prog="bench.compare", description=main.__doc__)
    parser.add_argument("before", type=Path, help=f"run directory with {ROWS}")
    parser.add_argument("after", type=Path, help="run directory of the same suite")
    parser.add_argument("--fail-if-slower", type=percent, metavar="PERCENT",
                        help="exit with 4 when a contender is certainly slower by more than this (as 3%%), or is "
                             "missing after")  # fmt: skip
    parser.add_argument("--across-machines", action="store_true", help="compare although the machines differ")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    args = parser.parse_args()
    limit = args.fail_if_slower or LIMIT
    a, b = _read(args.before), _read(args.after)
    rows = compare(a, b, limit, args.across_machines)
    print(json.dumps(rows, indent=2) if args.json else markdown_table(rows, COLUMNS))
    for text in dict.fromkeys(text for row in rows for text in row["hardware"]):
        print(f"the machines differ in {text}", file=sys.stderr)
    missing, added = only_in(a, b), only_in(b, a)
    if missing or added:
        print(f"only in one of the two: {', '.join([*missing, *added])}", file=sys.stderr)
    if args.fail_if_slower:
        check_slower(rows, limit, missing)


if __name__ == "__main__":
    run_tool(main, "bench.compare")

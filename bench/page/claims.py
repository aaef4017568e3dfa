"""The claims of a suite in sentences: numbers with their intervals, nothing that its rows do not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apt_edge.tables import Row
from bench.numbers import NOT_PAIRED, interval
from bench.page.columns import label
from bench.page.rivals import against_picks, is_pick
from bench.page.series import Series, at_least_batch, in_turns

RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "tensorrt": "TensorRT",
}


def runtimes(rows: Sequence[Row]) -> str:
    """`ONNX Runtime, OpenVINO`: what ran the rows, TensorRT only where TensorRT itself did."""
    names = [str(row["session"]) for row in rows]
    known = {"tensorrt-rtx": "TensorRT-RTX"}
    found = [known.get(name, RUNTIMES.get(name.partition("-")[0], name)) for name in names]
    return ", ".join(dict.fromkeys(found))


def heading(rows: Sequence[Row]) -> str:
    """`PyTorch on NVIDIA H200`: what ran the rows of a suite, and where."""
    return f"{runtimes(rows)} on {', '.join(dict.fromkeys(str(row['device']) for row in rows))}"


def claims(rows: Sequence[Row], series: Sequence[Series]) -> list[str]:
    """What one suite's rows, and the series in them, say: first the circumstances, then a sentence a claim."""
    over_prompts = at_least_batch([line for line in series if line.axis == "tokens"])
    found = [*_prompts(over_prompts, _baseline(rows)), *_arithmetic(rows), *_picks(rows), *_slopes(over_prompts)]
    return [_circumstances(rows), *found]


def _circumstances(rows: Sequence[Row]) -> str:
    first = rows[0]
    threads = first["environment"]["threads"]
    where = heading(rows) + (f", {threads} thread{'s' * (threads != 1)}" if threads else "")
    if first["mode"] == "mlperf":
        rounds = [row["rounds"] for row in rows]
        counts = " to ".join(f"{count:,}" for count in sorted({min(rounds), max(rounds)}))
        return (
            f"{where}: each contender alone, {counts} queries back to back (MLPerf's single "
            "stream, whose result is the p90): "
            + "; ".join(f"{row['contender']} {row['latency_ms_p90']:.4g} ms" for row in rows)
            + "."
        )
    batches = sorted({row["batch"] for row in rows})
    clips = "one clip" if batches == [1] else f"{', '.join(map(str, batches))} clips"
    names = len({row["contender"] for row in rows})
    how = f"{first['rounds']} interleaved rounds in one process"
    if not in_turns(rows):
        how = "each measured alone, so that no ratio has an interval and no winner is named"
    text = f"{where}: {names} contender{'s' * (names != 1)}, {how}, {clips} a run."
    if first["baseline"] is not None:
        base = _baseline(rows)
        text += f" Ratios refer to {first['baseline']}" + (
            f" ({base['latency_ms_median']:.4g} ms)." if base and len(batches) == 1 else "."
        )
    return text


def _prompts(series: Sequence[Series], base: Row | None) -> Iterator[str]:
    """The forms of prompts beside each other at the largest count that at least two of them have."""
    counts = sorted({value for line in series for value in line.values if value > 0}, reverse=True)
    for count in counts:
        own = [(line.name, row) for line in series for row in line.rows if row["tokens"] == count]
        if len(own) > 1 and all(_paired(row) for _, row in own):
            parts = [f"{name} {interval(row)}{_of_gmacs(row, base)}" for name, row in own]
            yield f"With {count:g} prompts a block the time ratio [95 %] is: {'; '.join(parts)}."
            return


def _of_gmacs(row: Row, base: Row | None) -> str:
    """What the arithmetic says, which knows nothing of other runtimes."""
    comparable = base is not None and base["session"] == row["session"] and row["gmacs_ratio"] is not None
    return "" if not comparable else f" where the GMACs say {row['gmacs_ratio']:.3f}"


def _arithmetic(rows: Sequence[Row]) -> Iterator[str]:
    """How far the time ratios lie from the GMAC ratios, among what the baseline's session ran in its precision."""
    base = _baseline(rows)
    alike = [
        row
        for row in rows
        if base
        and not is_pick(base)
        and _paired(row)
        and all(row[key] == base[key] for key in ("session", "precision"))
        if row["verdict"] != "baseline" and row["gmacs_ratio"]
    ]
    if not any(abs(row["gmacs_ratio"] - 1) > 0.001 for row in alike):
        return
    farthest = max(alike, key=_distance)
    inside = sum(row["latency_ratio_low"] <= row["gmacs_ratio"] <= row["latency_ratio_high"] for row in alike)
    yield (
        f"In {farthest['session']} time follows the GMACs within {_distance(farthest):.1%}, and the GMAC ratio lies in "
        f"the interval of {inside} of {len(alike)}; the farthest is {label(farthest)} with {interval(farthest)} where "
        f"the GMACs say {farthest['gmacs_ratio']:.3f}."
    )


def _baseline(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row["verdict"] == "baseline"), None)


def _distance(row: Row) -> float:
    return abs(row["latency_ratio"] / row["gmacs_ratio"] - 1)


def _paired(row: Row) -> bool:
    return row["latency_ratio"] is not None and row["verdict"] != NOT_PAIRED


def _picks(rows: Sequence[Row]) -> Iterator[str]:
    """What the project gains over what a user would pick, in the same precision and apart from that in another."""
    pairs = against_picks(rows)
    if equal := [pair for pair in pairs if pair["precision"] is None]:
        yield (
            "Against what a user would pick, with the same weights in the same precision, ours is faster in "
            f"{_won(equal)}."
        )
    if other := [pair for pair in pairs if pair["precision"] is not None]:
        yield f"In another precision, which changes the outputs, ours is faster in {_won(other)}."


def _won(pairs: Sequence[Row]) -> str:
    """`2 of 3 pairs`, with the least and the most."""
    pairs = sorted(pairs, key=lambda pair: pair["speed"])
    ends = [
        f"{pair['speed']:.2f} [{pair['speed_low']:.2f}, {pair['speed_high']:.2f}] times as fast ({pair['ours']} in "
        f"{pair['ours_session']} instead of {pair['pick']} in {pair['pick_session']}"
        + (f", {pair['batch']} clips a run" if pair["batch"] > 1 else "")
        + (f", {pair['precision']})" if pair["precision"] else ")")
        for pair in (pairs[0], pairs[-1])
    ]
    won = sum(pair["verdict"] == "faster" for pair in pairs)
    return f"{won} of {len(pairs)} pairs: {' to '.join(dict.fromkeys(ends))}"


def _slopes(series: Sequence[Series]) -> Iterator[str]:
    """What one prompt more costs, by form."""
    parts = []
    for line in series:
        theory = "" if line.predicted_slope is None else f", {line.predicted_slope:.3g} by GMACs"
        parts.append(f"{line.name} {line.slope:.3g} [{line.low:.3g}, {line.high:.3g}]{theory}")
    if parts:
        yield f"One prompt more in each block costs, in ms a run: {'; '.join(parts)}."

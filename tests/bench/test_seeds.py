"""Accuracy over seeds: the paired interval, and what is missing."""

from __future__ import annotations

import json

import pytest

from apt_edge.errors import ConfigError
from bench.seeds import summarise_seeds


def write(folder, seed, method, accuracy):
    path = folder / f"seed-{seed}" / method
    path.mkdir(parents=True)
    facts = {"accuracy": accuracy, "accuracy_shuffled": 0.1, "trainable_parameters": 10, "clips": 400}
    (path / "evaluation.json").write_text(json.dumps(facts))


def test_gains_are_paired_by_seed(tmp_path):
    for seed, (linear, apt) in enumerate([(0.50, 0.55), (0.60, 0.66), (0.40, 0.44)]):
        write(tmp_path, seed, "linear", linear)
        write(tmp_path, seed, "apt", apt)
    apt, linear = summarise_seeds(tmp_path, "linear")
    assert linear["gain"] is None
    assert apt["gain"] == pytest.approx(0.05)
    # Gains 5, 6 and 4 points: standard error 0.01 / sqrt(3), times Student's 4.303.
    assert apt["gain_high"] - apt["gain"] == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert apt["gain_low"] > 0
    assert apt["accuracy"] == pytest.approx(0.55)


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(ConfigError, match="0 seeds"):
        summarise_seeds(tmp_path, "linear")
    for seed in (0, 1):
        write(tmp_path, seed, "apt", 0.5)
    with pytest.raises(ConfigError, match="no run of linear"):
        summarise_seeds(tmp_path, "linear")
    write(tmp_path, 0, "linear", 0.5)
    with pytest.raises(ConfigError, match="seed-1/linear holds no finished run"):
        summarise_seeds(tmp_path, "linear")

"""`apt-edge bundle`: what it refuses; tests/export/bundle runs the scripts that call it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "long"])
def test_a_measurement_has_a_length(apt_edge, tmp_path, seconds):
    done = apt_edge("bundle", "measure", tmp_path, f"--seconds={seconds}")
    assert done.returncode == 2
    assert f"{seconds} is not a length: give a number above 0" in done.stderr

"""Opening two thousand videos leaves memory where it was after two hundred."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apt_edge.video.decode import DECODERS
from tests.apt_edge.broken_files import encode

MIB = 2**20
LOOP = """
import os, sys
from apt_edge.video.decode import read_frames
for i in range(2000):
    read_frames(f"{sys.argv[1]}/{i}.mp4", [1, 6], sys.argv[2])
    if i + 1 in (200, 2000):
        print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_stays_flat_over_two_thousand_videos(tmp_path):
    """1.7 and 1.0 MiB were measured with PyAV and decord; 2,000 indexes or readers that stay would be far above 6."""
    video = encode(tmp_path / "v.mp4", "libx264", size=(32, 32), frames=8)
    for i in range(2000):
        shutil.copyfile(video, tmp_path / f"{i}.mp4")
    # On one arena: what threads that come and go leave in glibc's others is no growth, but varies.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    runs = {
        decoder: subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path), decoder], stdout=subprocess.PIPE, text=True, env=environment
        )
        for decoder in DECODERS
    }
    for decoder, run in runs.items():
        after_200, after_2000 = map(int, run.communicate(timeout=300)[0].split())
        assert run.returncode == 0
        assert after_2000 - after_200 < 6 * MIB, decoder

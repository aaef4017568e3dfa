"""Freed memory goes back to the system."""

from __future__ import annotations

import platform

import pytest

from apt_edge.runtime import memory

BLOCK, BLOCKS = 64_000, 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no call for it")
def test_holes_between_what_is_kept_are_given_back():
    memory.give_back()
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    full = memory.resident()
    kept = blocks[::2]
    del blocks
    memory.give_back()
    assert full - memory.resident() > 0.8 * BLOCK * BLOCKS / 2
    assert len(kept) == BLOCKS / 2

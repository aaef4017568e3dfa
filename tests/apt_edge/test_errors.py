"""What a user sees when something goes wrong: one message and an exit code, never a traceback."""

from __future__ import annotations

import pytest

from apt_edge.errors import AptEdgeError, GateError, run_tool


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (AptEdgeError("it is wrong", found="this", fix="do that"), 1, ["it is wrong", "found: this", "fix:   do that"]),
        (GateError("parity failed"), 4, ["parity failed"]),
        (PermissionError(13, "Permission denied", "/locked/file"), 1, ["Permission denied", "/locked/file", "fix:"]),
        (OSError(28, "No space left on device"), 1, ["No space left on device", "fix:"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_user_errors_end_in_a_message(capsys, error, code, words):
    with pytest.raises(SystemExit) as stop:
        run_tool(failing(error), "train.tune")
    shown = capsys.readouterr()
    assert stop.value.code == code
    assert shown.out == ""
    assert shown.err.startswith("train.tune: ")
    assert all(word in shown.err for word in words)


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(failing(ZeroDivisionError()), "train.tune")

#!/usr/bin/env bash
# @PURPOSE@
set -euo pipefail
cd "$(dirname "$0")"
wheel=@WHEEL@
python=${PYTHON:-python3}

# stop WHAT FIX: end with an instruction.
stop() {
    printf '%s: %s\n  fix:   %s\n' "$0" "$1" "$2" >&2
    exit 1
}

# The library runs from its wheel: nothing is installed.
apt_edge() {
    PYTHONPATH="$wheel${PYTHONPATH:+:$PYTHONPATH}" "$python" -m apt_edge.cli "$@"
}

"$python" -c 'import sys, numpy; sys.exit(sys.version_info < (3, 10))' 2> /dev/null ||
    stop "$python is not Python 3.10 or newer with numpy" "install them, or name another Python: PYTHON=python3.12 $0"
grep -F "$wheel" SHA256SUMS | sha256sum --check --status || # the wheel checks all other files, but not itself
    stop "$wheel is missing or has changed" "copy the bundle again, all of it"
apt_edge bundle verify .

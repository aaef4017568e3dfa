#!/usr/bin/env bash
# One run on a machine with an NVIDIA GPU: what APT and VPT-deep cost in PyTorch, in at most eight minutes.
set -euo pipefail

usage() {
    cat << 'TEXT'
usage: bench/gpu_suite.sh --out DIR [OPTION ...]

Measures on this machine's NVIDIA GPU, in PyTorch but for the last, with random ViT-S and ViT-B backbones:
  latency  no prompts, APT, VPT-deep as tokens and folded, 100, 400 and 800 prompts, batch 1 and 8,
           float16 in CUDA graphs; percentiles, peak memory                               at most 190 s
  parity   float16 on the GPU against float32 on the CPU, on prompts that are tuned here  at most  75 s
  steps    a training step of full tuning, APT, VPT-deep and AdaptFormer                  at most 110 s
  switch   another task's prompts: by pointer against by copy                             at most  50 s
  runtime  without PyTorch: pinned against pageable, graphs, pointers; --model's engine   at most  30 s
A part that overruns is ended; what the others found is kept. DIR/results.json holds everything; bring it back, and
  python -m bench.ingest DIR/results.json --out runs/bench/gpu
makes rows of it for bench.report.

Needs Python 3.10 or newer with numpy and safetensors; the part runtime cuda-python or pycuda, the others PyTorch for
CUDA. Installs nothing, needs no network, and leaves the clocks and the power limit as they are.

  --out DIR        where results.json goes
  --sizes S ...    backbones, smallest first (default: vit-small vit-base)
  --tokens N ...   prompts a block (default: 100 400 800)
  --batches N ...  clips a run (default: 1 8)
  --rounds N       timed runs of each contender, at most (default: 200)
  --parts P ...    some of latency parity steps switch runtime
  --model DIR      an exported model whose engine was built on this machine, for the part runtime
  --device cpu     try the suite itself, without a GPU: --device cpu --sizes nano --tokens 16 --batches 1 --rounds 10
  --json           print the results as JSON
  -h, --help       this text

PYTHON=/path/to/python chooses another Python than python3.
Exit codes: 0 all measured, 1 something was not, 2 usage, 4 a proof failed (parity, a graph, a switch, an engine).
TEXT
}

# stop WHAT FIX: end with an instruction.
stop() {
    printf '%s: %s\n  fix:   %s\n' "$0" "$1" "$2" >&2
    exit 1
}

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        usage
        exit 0
    fi
done
[[ $# -gt 0 ]] || { usage >&2; exit 2; }

python=${PYTHON:-python3}
command -v "$python" > /dev/null || stop "there is no $python" "install Python, or name one: PYTHON=python3.12 $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "$python is older than Python 3.10" "name a newer one: PYTHON=python3.12 $0"
"$python" -c 'import numpy, safetensors' ||
    stop "$python lacks a package" "name a Python that has numpy and safetensors: PYTHON=/path/to/python $0"

# Modules are found from the clone's root, files from where the caller stands.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m bench.gpu.suite "$@"

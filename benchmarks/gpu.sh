#!/bin/sh
# Everything that needs a GPU, in under 8 minutes, on a box with torch, triton, numpy, safetensors, tokenizers and
# transformers; installs nothing. Run it in the repository's root; results go to benchmarks/results/ (or $OUT).
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
RESULTS=${OUT:-benchmarks/results}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$RESULTS"
if "$PYTHON" -c 'import pytest, torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    timeout 100 "$PYTHON" -m pytest -q -c /dev/null --rootdir . --noconftest --import-mode=importlib \
        -p no:cacheprovider tests/gpu || echo "tests/gpu failed: see above"
fi
timeout -k 15 360 "$PYTHON" -m benchmarks.engine_gpu --json "$RESULTS/engine_gpu.json" "$@"

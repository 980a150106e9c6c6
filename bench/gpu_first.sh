#!/usr/bin/env bash
# The first ten minutes on a GPU: `make gpu PYTHON=python3`. Uses what is installed: no network, no virtual environment.
# The most valuable steps come first; each has a limit of its own, and what it finds is written as it comes.
set -u
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu_first}
mkdir -p "$OUT"
exec > >(tee "$OUT/log.txt") 2>&1
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
TESTS=tests/sampling/gpu/test_device.py
failed=()

step() {
  local name=$1 limit=$2
  shift 2
  echo "== $name, from $SECONDS s"
  timeout -k 5 "$limit" "$@"
  local code=$?
  [ $code = 0 ] || failed+=("$name")
  echo "-- $name: exit code $code at $SECONDS s"
}

# --- What is there ---
step machine 20 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm --format=csv
step versions 60 "$PYTHON" -c "import sys, torch; print(sys.version.split()[0], torch.__version__, torch.cuda.get_device_properties(0))"
if ! "$PYTHON" -c "import fastsample.sampling.backends._cuda" 2> /dev/null; then
  # For this GPU alone, into the folder of the package: a tenth of the time of all architectures.
  arch=$("$PYTHON" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")
  FASTSAMPLE_CUDA_ARCHS=$arch step build 200 "$PYTHON" setup.py build_ext --inplace
fi

# --- Is it right, and how fast ---
step "the CUDA tests" 90 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS -k "cuda and not hammer and not compiled and not far_apart"
step "the table" 110 "$PYTHON" bench/gpu_first.py --seconds 90 --out "$OUT/cells.jsonl"
step "blocks a row" 40 "$PYTHON" bench/gpu_first.py --seconds 30 --blocks --out "$OUT/blocks.jsonl"
step "the attention of a step" 45 "$PYTHON" -m pytest -q -p no:cacheprovider tests/shared_prefix/test_decode_device.py
if "$PYTHON" -c "import transformers" 2> /dev/null; then
  step "a step of a 4B model" 75 "$PYTHON" bench/gpu_step.py --out "$OUT/steps.jsonl"
fi
step "the hammer" 60 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS -k "cuda and (hammer or far_apart)"

# --- What a profiler, the other backend and the sanitizer say ---
METRICS=gpu__time_duration.sum,dram__bytes_read.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
METRICS=$METRICS,smsp__issue_active.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active
if command -v ncu > /dev/null; then
  step profile 60 ncu --clock-control none -k "regex:(read|finish)_rows" -c 12 --metrics "$METRICS" "$PYTHON" bench/gpu_first.py --seconds 5
fi
step "Triton's tests" 120 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS -k "triton and not hammer and not compiled"
step "torch.compile" 60 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS -k "cuda and compiled"
if command -v compute-sanitizer > /dev/null; then
  step sanitizer 60 compute-sanitizer --tool memcheck --error-exitcode 1 "$PYTHON" -m pytest -q -p no:cacheprovider $TESTS -k "cuda and sanitized"
fi
echo "== done at $SECONDS s; everything is in $OUT"
[ ${#failed[@]} = 0 ] || { echo "failed or out of time: ${failed[*]}"; exit 1; }

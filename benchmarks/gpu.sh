#!/usr/bin/env bash
# What a GPU is needed for: the tests marked gpu, and the engine and the drop-in on it. Takes about four minutes.
#
#     OUT=gpu-results benchmarks/gpu.sh
#
# Writes a file for each step into $OUT, and goes on where one fails.
set -u
cd "$(dirname "$0")/.."
out="${OUT:-gpu-results}"
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/card.txt"

step() { # FILE SECONDS COMMAND...
    local file="$out/$1" limit="$2" began=$SECONDS
    shift 2
    echo "\$ $*" >> "$file"
    timeout "$limit" "$@" >> "$file" 2>&1
    echo "$* (exit $?, $((SECONDS - began)) s)"
}

step tests.txt 120 python3 -m pytest -q -m gpu -n 8 tests
for table in mnist_mlp quadratic cnn; do
    step engine.txt 60 python3 benchmarks/engine.py "$table" --device cuda
done
for sizes in "20" "64 64 64 64 64 64 64 64" "512 512"; do
    # shellcheck disable=SC2086
    step drop_in.txt 60 python3 benchmarks/drop_in.py --device cuda --hidden_sizes $sizes
done
step drop_in.txt 60 python3 benchmarks/drop_in.py --device cuda --hidden_sizes 2048 2048 2048 --repeats 5
step resnet.txt 60 python3 benchmarks/engine.py resnet --device cuda
step ladder.txt 60 python3 benchmarks/engine.py ladder --device cuda --repeats 3 --memory_limit_gb 60
step engine_cpu.txt 60 python3 benchmarks/engine.py mnist_mlp

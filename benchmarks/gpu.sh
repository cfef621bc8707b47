#!/usr/bin/env bash
# What a GPU is needed for: the tests marked gpu, and the engine, the drop-in and meta-training on it.
#
#     OUT=gpu-results benchmarks/gpu.sh
#
# Writes into $OUT one file per step, and goes on where one fails. Takes a few minutes.
set -u
cd "$(dirname "$0")/.."
out="${OUT:-gpu-results}"
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/card.txt"

step() { # step FILE SECONDS COMMAND...
    local file="$out/$1" limit="$2"
    shift 2
    echo "\$ $*" >> "$file"
    local began=$SECONDS
    timeout "$limit" "$@" >> "$file" 2>&1
    echo "$(basename "$file"): $* (exit $?, $((SECONDS - began)) s)"
}

step tests.txt 180 python3 -m pytest -q -m gpu -n 4 tests
for table in quadratic mnist_mlp cnn; do
    step engine.jsonl 60 python3 benchmarks/engine.py "$table" --device cuda --repeats 7
    step engine_cpu.jsonl 60 python3 benchmarks/engine.py "$table" --repeats 3
done
step ladder.jsonl 60 python3 benchmarks/engine.py ladder --device cuda --repeats 3 --memory_limit_gb 60
step resnet.jsonl 60 python3 benchmarks/engine.py resnet --device cuda
for sizes in "20" "512 512" "2048 2048 2048"; do
    # shellcheck disable=SC2086
    step drop_in.jsonl 60 python3 benchmarks/drop_in.py --device cuda --hidden_sizes $sizes
done

#!/bin/sh
# All that only a GPU can tell, in under six minutes of one, as a single JSON file.
#
#     benchmarks/gpu.sh gpu.json              # on a machine with a GPU
#     TINY=1 benchmarks/gpu.sh tiny.json      # the same commands on the CPU, with tiny sizes
#
# Stable Audio Open's configuration in bfloat16 with random weights: seconds a step and peak memory
# of every method at batch 1 and 8 against the plain pipeline, then plain, compiled and as CUDA
# graphs; the rate at which CLAP embeds; a search of ten million vectors on the GPU, if FAISS has it.
set -eu
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" ${TINY:+--tiny} --out "${1:?name the JSON file to write}"

#!/bin/sh
# Remove from a folder of installed packages what only their own tests and compilers of extensions need.
set -eu
cd "$1"
rm -rf torch/include torch/share torch/test
find torch/bin -type f ! -name torch_shm_manager -delete 2>/dev/null || true
find . -depth -type d -name tests -exec rm -rf {} +
rm -rf onnxruntime/tools onnxruntime/transformers onnxruntime/quantization

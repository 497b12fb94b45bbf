#!/usr/bin/env bash
# Makes the base image out of Debian's packages, for places where no container registry can be reached, and
# prints its name. Needs root, debootstrap and buildah or podman or docker. What is left out is what Debian's
# own slim images leave out. Usage: docker/debian-base.sh [ENGINE]
set -euo pipefail

engine=${1:-podman}
suite=bookworm
name=localhost/datasentinel-base:$suite
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep --only-matching --max-count 1 'https\?://[^ ]*/debian/\?$' || true)
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase "$suite" "$folder" ${mirror:+"$mirror"} >&2
cat >"$folder/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
END
find "$folder/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$folder"/usr/share/{info,locale,man}/* "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* \
    "$folder"/var/log/*
tar --directory "$folder" --numeric-owner --create . | "$engine" import - "$name" >&2
echo "$name"

#!/usr/bin/env bash
# Builds the three images and runs them together: train, serve, produce over TCP and gRPC, stop. Ends with
# code 0 and "all checks passed", or with the first check that failed.
#
#   CONTAINER_ENGINE  docker or podman; without it, the first of them that works
#   BASE_IMAGE        another base image; "debootstrap" makes one of Debian's packages (docker/debian-base.sh)
#   CA_BUNDLE         file of the authorities that pip shall trust, for a proxy that opens TLS
#   PIP_EXTRA_INDEX_URL  an index with the CPU build of torch; without it, pip as set up here must find it
#   MAX_SERVER_MB     most that the server's image may take (350)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
expect() { # WHAT EXPECTED ACTUAL
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
    printf 'ok  %s: %s\n' "$1" "$3"
}

engine=${CONTAINER_ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in docker podman; do
        if "$candidate" info >/dev/null 2>&1; then
            engine=$candidate
            break
        fi
    done
fi
[ -n "$engine" ] || fail "no container engine works here: neither docker nor podman"

build_flags=(--file docker/Dockerfile --network host)
run_flags=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
if [ "$(basename "$engine")" = podman ]; then
    # Inside another sandbox, podman may not raise limits, nor crun mount what it wants; elsewhere it is no loss.
    build_flags+=(--format docker --isolation chroot --layers)
    run_flags+=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
    if command -v runc >/dev/null; then run_flags+=(--runtime runc); fi
fi

base=${BASE_IMAGE:-}
if [ "$base" = debootstrap ]; then
    say "making a base image of Debian's packages"
    base=$(docker/debian-base.sh "$engine" 2>"${TMPDIR:-/tmp}/debian-base.log") || fail "see ${TMPDIR:-/tmp}/debian-base.log"
fi
if [ -n "$base" ]; then build_flags+=(--build-arg "BASE_IMAGE=$base"); fi
if [ -n "${CA_BUNDLE:-}" ]; then
    build_flags+=(--secret "id=ca,src=$CA_BUNDLE" --build-arg PIP_CERT=/run/secrets/ca)
fi
if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then
    build_flags+=(--build-arg "PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL")
elif ! ls docker/wheels/torch-*.whl >/dev/null 2>&1; then
    say "fetching the CPU build of torch"
    python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --dest docker/wheels \
        "$(grep '^torch==' constraints.txt)+cpu" || fail "give its index as PIP_EXTRA_INDEX_URL"
fi

for image in trainer server producer; do
    say "building $image"
    "$engine" build "${build_flags[@]}" --build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
        --target "$image" --tag "datasentinel-$image" .
done

say "what is in the images"
for image in trainer server producer; do
    bytes=$("$engine" image inspect --format '{{.Size}}' "datasentinel-$image")
    printf 'size %s: %d MB\n' "$image" $((bytes / 1000000))
    expect "$image runs as" 10001:10001 "$("$engine" image inspect --format '{{.Config.User}}' "datasentinel-$image")"
    for tool in pip g++ cmake; do
        "$engine" run --rm "${run_flags[@]}" --entrypoint sh "datasentinel-$image" -c "! command -v $tool" ||
            fail "$image contains $tool"
    done
    if [ "$image" = server ] && [ $((bytes / 1000000)) -gt "${MAX_SERVER_MB:-350}" ]; then fail "the server is too large"; fi
done
for image in server producer; do
    "$engine" run --rm "${run_flags[@]}" --entrypoint sh "datasentinel-$image" -c '! ls /opt/datasentinel/lib/python3*/site-packages/torch' \
        2>/dev/null || fail "$image contains torch"
done
expect "the trainer's CUDA" None "$("$engine" run --rm "${run_flags[@]}" --entrypoint python datasentinel-trainer \
    -c 'import torch; print(torch.version.cuda)')"
expect "the server's gRPC" nghttp "$("$engine" run --rm "${run_flags[@]}" datasentinel-server info |
    sed -n 's/^ *grpc *\([a-z]*\).*/\1/p')"
health_test=$("$engine" image inspect --format '{{.Config.Healthcheck.Test}}' datasentinel-server)
expect "health check" "[CMD datasentinel health]" "$health_test"

work=$(mktemp --directory)
run=datasentinel-check-$$
cleanup() {
    # The producer first, for it shares the server's network.
    for container in "$run-producer" "$run-server" "$run-trainer"; do
        "$engine" rm --force "$container" >/dev/null 2>&1 || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
exit_code() { "$engine" inspect --format '{{.State.ExitCode}}' "$1"; }

say "training"
mkdir "$work/models"
owner=$(id -u):$(id -g)
if [ "$owner" = 0:0 ]; then
    owner=12345:12345 # any user but root
    chown "$owner" "$work/models"
fi
chmod 755 "$work"
train() {
    "$engine" run --name "$run-trainer" "${run_flags[@]}" --network none --user "$owner" --volume "$work/models:/models" "$@"
}
train --rm --entrypoint tini datasentinel-trainer -- train-once
expect "the artifact's owner" "$owner" "$(stat --format %u:%g "$work/models/config.json")"
digest=$(sha256sum "$work/models/model.onnx")
train --rm --entrypoint tini datasentinel-trainer -- train-once
expect "the artifact after a second start" "$digest" "$(sha256sum "$work/models/model.onnx")"

say "SIGTERM while training"
train --detach --env DATASENTINEL_MODEL=/tmp --entrypoint tini datasentinel-trainer -- \
    train-once --model ensemble --steps 1000000 >/dev/null
sleep 10
"$engine" stop --time 10 "$run-trainer" >/dev/null
expect "the trainer's exit code" 143 "$(exit_code "$run-trainer")"
"$engine" rm "$run-trainer" >/dev/null

say "serving"
# Server and producer share a network of their own, without a way out: no port of this machine is used.
"$engine" run --detach --name "$run-server" "${run_flags[@]}" --network none --volume "$work/models:/models:ro" \
    --env DATASENTINEL_BACKEND=onnxruntime --env DATASENTINEL_LOG_FORMAT=json datasentinel-server >/dev/null
in_server() { "$engine" exec "$run-server" "$@"; }
for _ in $(seq 60); do
    if in_server datasentinel health >/dev/null 2>&1; then break; fi
    sleep 1
done
expect "readiness" ready "$(in_server datasentinel health)"
expect "process 1" tini "$(in_server cat /proc/1/comm)"
expect "users of all processes" 10001 "$(in_server sh -c 'stat --format %u /proc/[0-9]*' | sort --unique)"
expect "capabilities" 0000000000000000 "$(in_server sh -c "sed -n 's/^CapEff:\t//p' /proc/1/status")"
if in_server touch /etc/x /opt/datasentinel/x /models/x 2>/dev/null; then fail "the root file system can be written"; fi
printf 'ok  the root file system is read-only\n'
expect "DATASENTINEL_BACKEND" onnxruntime "$(in_server python -c '
import re, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:9002/metrics").read().decode()
print(re.search("datasentinel_backend_info{.*?backend=\"(.*?)\"", text)[1])')"
if [ "$(basename "$engine")" = podman ]; then
    "$engine" healthcheck run "$run-server" || fail "the image's own health check fails"
    printf "ok  the image's own health check\n"
else
    for _ in $(seq 30); do
        state=$("$engine" inspect --format '{{.State.Health.Status}}' "$run-server")
        if [ "$state" = healthy ]; then break; fi
        sleep 1
    done
    expect "the image's own health check" healthy "$state"
fi

produce() { "$engine" run --name "$run-producer" "${run_flags[@]}" --network "container:$run-server" --volume "$work/models:/models:ro" "$@"; }
for protocol in tcp grpc; do
    say "producing over $protocol"
    port=$([ "$protocol" = tcp ] && echo 9000 || echo 9001)
    produce --rm --env ENGINE_HOST=127.0.0.1 --env "ENGINE_PORT=$port" --env "DATASENTINEL_PROTOCOL=$protocol" \
        datasentinel-producer produce --model /models --count 2000 --json >"$work/summary.json"
    python3 - "$work/summary.json" <<'END'
import json
import sys

with open(sys.argv[1]) as file:
    summary = json.load(file)
replies = summary["replies"]
assert summary["answered"] == 2000, summary
assert replies["ERROR"] == summary["invalid"]["refused"] == 200, summary
assert summary["invalid"]["not_refused"] == 0 and not summary["unanswered"], summary
assert replies["OK"] > replies["ANOMALY"] > 0, summary
print(f"ok  replies: {replies}, accuracy {summary['agreement']['accuracy']:.3f}")
END
done

say "SIGTERM while serving"
produce --detach --env ENGINE_HOST=127.0.0.1 datasentinel-producer produce --model /models --rate 200 >/dev/null
sleep 3
"$engine" stop --time 10 "$run-producer" >/dev/null
expect "the producer's exit code" 143 "$(exit_code "$run-producer")"
"$engine" start "$run-producer" >/dev/null
sleep 3
"$engine" stop --time 30 "$run-server" >/dev/null
expect "the server's exit code" 0 "$(exit_code "$run-server")"
"$engine" logs "$run-server" 2>&1 | grep -E '"event": ?"(draining|stopped)"' || fail "the server did not drain"

say "all checks passed"

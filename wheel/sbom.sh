#!/usr/bin/env bash
# Write sbom.cdx.json beside a wheel: what it brings along when it is installed to serve, as a CycloneDX document.
#
#   wheel/sbom.sh WHEEL
set -euo pipefail
wheel=$(realpath "$1")
python=${PYTHON:-python3}
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tool"
"$work/tool/bin/pip" install --quiet cyclonedx-bom
"$python" -m venv --without-pip "$work/served"
"$work/tool/bin/pip" --python "$work/served/bin/python" install --quiet --only-binary :all: "$wheel[cpu,grpc]"
"$work/tool/bin/cyclonedx-py" environment --output-reproducible --output-file "$work/sbom.json" "$work/served/bin/python"

# libnghttp2 comes inside the wheel, where no list of packages has it.
"$work/served/bin/python" - "$work/sbom.json" "$(dirname "$wheel")/sbom.cdx.json" << 'END'
import json
import sys
from pathlib import Path

from datasentinel.backend import open_nghttp2

sbom = json.loads(Path(sys.argv[1]).read_text())
name, version, _ = str(open_nghttp2()).split(maxsplit=2)
sbom["components"].append(
    {"type": "library", "bom-ref": f"{name}=={version}", "name": name, "version": version, "licenses": [{"license": {"id": "MIT"}}]}
)
Path(sys.argv[2]).write_text(json.dumps(sbom, indent=2) + "\n")
print(sys.argv[2], "lists", len(sbom["components"]), "components")
END

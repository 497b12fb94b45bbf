"""Lists what the images hold, as CycloneDX documents, from what pins it: the Dockerfile and the lock files.

    python docker/sbom.py FOLDER

Writes FOLDER/datasentinel-IMAGE.cdx.json for the server, the producer and the trainer, without GPU. Which
versions of Debian's packages an image holds, and what these depend on, is known only where it is built.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

DOCKER = Path(__file__).parent
LOCKS = {"server": "server-cpu.txt", "producer": "producer.txt", "trainer": "trainer-cpu.txt"}
# The system of the base image and its Python: a lock holds packages for others, too.
RELEASE, DISTRO = "bookworm", "debian-12"
PLACE = {
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def sbom(image: str) -> dict[str, Any]:
    """Return the document of an image."""
    dockerfile = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]
    parts = [
        _base(dockerfile),
        *(
            _part("library", f"pkg:deb/debian/{name}?distro={DISTRO}", name)
            for name in _debian_packages(dockerfile, image)
        ),
        *(
            _part("library", f"pkg:pypi/{name}@{version}", name, version)
            for name, version in [*_locked(image), ("datasentinel", project["version"])]
        ),
    ]
    name = f"datasentinel-{image}"
    itself = {"type": "container", "bom-ref": name, "name": name, "version": project["version"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": itself | {"licenses": [{"license": {"id": project["license"]}}]}},
        "components": parts,
        "dependencies": [{"ref": name, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _part(kind: str, purl: str, name: str, version: str | None = None) -> dict[str, Any]:
    known = {} if version is None else {"version": version}
    return {"type": kind, "bom-ref": purl, "name": name, **known, "purl": purl}


def _base(dockerfile: str) -> dict[str, Any]:
    pinned = r"^ARG BASE_IMAGE=(\w+):(\S+)@sha256:(\w+)$"
    name, tag, digest = re.search(pinned, dockerfile, re.MULTILINE).groups()
    if (name, tag.partition("-")[0]) != ("debian", RELEASE):
        sys.exit(f"the base image is {name}:{tag}, but DISTRO and PLACE are those of debian:{RELEASE}")
    base = _part("container", f"pkg:docker/{name}@sha256:{digest}", name, tag)
    return base | {"hashes": [{"alg": "SHA-256", "content": digest}]}


def _debian_packages(dockerfile: str, image: str) -> list[str]:
    """Return what `apt-get` installs in the stages that an image is made of, in the order of the stages."""
    stages = re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", dockerfile, re.MULTILINE | re.DOTALL)
    below = {stage: (base, body) for base, stage, body in stages}
    names: list[str] = []
    while image in below:
        image, body = below[image]
        installed = re.findall(r"apt-get install ([^&]*)", body)
        names[:0] = [word for words in installed for word in words.split() if not word.startswith("-")]
    return names


def _locked(image: str) -> list[tuple[str, str]]:
    """Return names and versions of the packages that are installed from an image's lock file."""
    lock = (DOCKER / "requirements" / LOCKS[image]).read_text().replace("\\\n", " ")
    packages = []
    for line in lock.splitlines():
        requirement = Requirement(line.partition("--hash=")[0])
        if requirement.marker is None or requirement.marker.evaluate(PLACE):
            (pin,) = requirement.specifier
            packages.append((requirement.name, pin.version))
    return packages


def main() -> None:
    """Write the documents of all images."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for image in LOCKS:
        document = sbom(image)
        path = folder / f"datasentinel-{image}.cdx.json"
        path.write_text(json.dumps(document, indent=2) + "\n")
        print(path, "lists", len(document["components"]), "components")


if __name__ == "__main__":
    main()

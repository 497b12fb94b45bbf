"""Our declarations of ONNX Runtime's C ABI against the official header, where one is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CANDIDATES = [
    os.environ.get("DATASENTINEL_ONNXRUNTIME_HEADER", ""),
    "/usr/include/onnxruntime/onnxruntime_c_api.h",
    "/usr/local/include/onnxruntime/onnxruntime_c_api.h",
    "/usr/include/onnxruntime/core/session/onnxruntime_c_api.h",
]


@pytest.fixture(scope="module")
def header() -> str:
    for candidate in CANDIDATES:
        if candidate and Path(candidate).is_file():
            text = Path(candidate).read_text()
            return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    pytest.skip(
        "no onnxruntime_c_api.h here: install Debian trixie's libonnxruntime-dev or name the file in "
        "DATASENTINEL_ONNXRUNTIME_HEADER"
    )


@pytest.fixture(scope="module")
def ours() -> str:
    return (ROOT / "csrc/backends/onnxruntime/api.h").read_text()


def table_of(header: str) -> list[str]:
    body = header[header.index("struct OrtApi {") :]
    body = body[: body.index("\n};")]
    pattern = r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\(\s*(\w+)|\(ORT_API_CALL\s*\*\s*(\w+)\)"
    return [
        status or (f"Release{released}" if released else plain)
        for status, released, plain in re.findall(pattern, body)
    ]


def enum_value(header: str, name: str) -> int:
    for body in re.findall(r"enum\s+\w*\s*\{(.*?)\}", header, flags=re.DOTALL):
        value = -1
        for entry in filter(None, (part.strip() for part in body.split(","))):
            key, _, given = (part.strip() for part in entry.partition("="))
            value = int(given) if re.fullmatch(r"-?\d+", given) else value + 1
            if key == name:
                return value
    raise AssertionError(f"{name} is not in the header")


def test_every_index_is_the_header_s(header, ours):
    declared = re.findall(r"X\((\d+), (\w+),", ours)
    assert len(declared) > 25
    table = table_of(header)
    assert [(int(index), name) for index, name in declared] == [
        (table.index(name), name) for _, name in declared
    ]


def test_every_enum_value_is_the_header_s(header, ours):
    declared = re.findall(r"constexpr int \w+ = (-?\d+);\s*// (\w+)", ours)
    assert len(declared) >= 9
    assert [(int(value), name) for value, name in declared] == [
        (enum_value(header, name), name) for _, name in declared
    ]


def test_the_table_version_is_within_the_header_s(header, ours):
    version = int(re.search(r"kApiVersion = (\d+)", ours)[1])
    assert version <= int(re.search(r"#define ORT_API_VERSION (\d+)", header)[1])

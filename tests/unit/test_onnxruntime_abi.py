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
            # Newer ones keep the error codes in a file of their own.
            codes = Path(candidate).with_name("onnxruntime_error_code.h")
            text = (codes.read_text() if codes.is_file() else "") + Path(candidate).read_text()
            return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    pytest.skip(
        "no onnxruntime_c_api.h here: install Debian trixie's libonnxruntime-dev or name the file in "
        "DATASENTINEL_ONNXRUNTIME_HEADER"
    )


@pytest.fixture(scope="module")
def ours() -> str:
    return (ROOT / "csrc/backends/onnxruntime/api.h").read_text()


def version_of(header: str) -> int:
    return int(re.search(r"#define ORT_API_VERSION (\d+)", header)[1])


def table_of(header: str) -> list[tuple[str, int]]:
    """Name and number of parameters of every function, in the order of the table."""
    body = header[header.index("struct OrtApi {") :]
    body = body[: body.index("\n};")]
    pattern = (
        r"ORT_API2_STATUS\(\s*(\w+)(?P<status>.*?)\)\s*;"
        r"|ORT_CLASS_RELEASE\(\s*(\w+)"
        r"|ORT_API_T\([^,]*,\s*(\w+)(?P<typed>.*?)\)\s*;"
        r"|\(ORT_API_CALL\s*\*\s*(\w+)\)(?P<plain>.*?)\)"
    )
    table = []
    for match in re.finditer(pattern, body, flags=re.DOTALL):
        status, released, typed, plain = match.group(1, 3, 4, 6)
        if released:
            table.append((f"Release{released}", 1))
        elif plain:
            table.append((plain, match["plain"].count(",") + 1))
        else:
            table.append((status or typed, (match["status"] or match["typed"] or "").count(",")))
    return table


def declared_in(ours: str, macro: str) -> list[tuple[int, str, int]]:
    """Position, name and number of parameters of what a list of ours declares."""
    body = ours[ours.index(f"#define {macro}(X)") :]
    body = re.split(r"(?<!\\)\n", body, maxsplit=1)[0].replace("\\\n", " ")
    entries = re.findall(r"X\((\d+), (\w+), [^,()]+, ([^()]*)\)", body)
    return [(int(index), name, parameters.count(",") + 1) for index, name, parameters in entries]


def enum_value(header: str, name: str) -> int:
    for body in re.findall(r"enum\s+\w*\s*\{(.*?)\}", header, flags=re.DOTALL):
        value = -1
        for entry in filter(None, (part.strip() for part in body.split(","))):
            key, _, given = (part.strip() for part in entry.partition("="))
            value = int(given) if re.fullmatch(r"-?\d+", given) else value + 1
            if key == name:
                return value
    raise AssertionError(f"{name} is not in the header")


def test_every_function_is_the_header_s(header, ours):
    declared = declared_in(ours, "DATASENTINEL_ORT_FUNCTIONS")
    assert len(declared) > 50
    table = table_of(header)
    assert declared == [(index, *table[index]) for index, _, _ in declared]


def test_every_function_that_copies_is_the_header_s(header, ours):
    declared = declared_in(ours, "DATASENTINEL_ORT_COPY_FUNCTIONS")
    assert len(declared) >= 2
    since = int(re.search(r"kCopyApiVersion = (\d+)", ours)[1])
    if version_of(header) < since:
        pytest.skip(f"this onnxruntime_c_api.h is of version {version_of(header)}; they came with {since}")
    table = table_of(header)
    assert declared == [(index, *table[index]) for index, _, _ in declared]


def test_every_enum_value_is_the_header_s(header, ours):
    declared = re.findall(r"constexpr int \w+ = (-?\d+);\s*// (\w+)", ours)
    assert len(declared) >= 9
    assert [(int(value), name) for value, name in declared] == [
        (enum_value(header, name), name) for _, name in declared
    ]


def test_the_table_version_is_within_the_header_s(header, ours):
    version = int(re.search(r"kApiVersion = (\d+)", ours)[1])
    assert version <= version_of(header)

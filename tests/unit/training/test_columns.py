"""Columns with a large offset: what float32 resolves is used, and what it does not is told."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from datasentinel import AutoencoderDetector
from datasentinel.errors import DataError, DataWarning
from datasentinel.training.columns import examine

# Offset, standard deviation, and what is to be told of the column.
COLUMNS = {
    "voltage in uV": (230e6, 100, None),
    "pressure in Pa": (101325, 0.05, None),
    "negative": (-101325, 0.05, None),
    "kelvin": (293.15, 0.5, None),
    "epoch in s": (1.7e9, 300, "coarse"),
    "byte counter": (1e12, 1e5, "coarse"),
    "epoch in ns": (1.7e18, 1e9, "unresolved"),
}


def rows_of(offset, deviation, count=500, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, 3))
    rows[:, 0] = offset + deviation * rows[:, 0]
    return rows


@pytest.mark.parametrize("name", COLUMNS)
def test_what_float32_does_not_resolve_is_found(name):
    offset, deviation, kind = COLUMNS[name]
    rows = rows_of(offset, deviation)
    findings = examine(rows, ["a", "b", "c"])
    assert [finding.kind for finding in findings] == ([kind] if kind else [])
    for finding in findings:
        assert finding.is_warning
        assert finding.text.startswith(f"a has a standard deviation of {rows[:, 0].std():.3g}")
        told = float(finding.text.split("subtract ")[1].split()[0])
        centred = rows.copy()
        centred[:, 0] -= told
        assert not examine(centred)


def test_constants_and_values_too_small_for_float32():
    rows = np.random.default_rng(0).normal(size=(100, 4))
    rows[:, 1] = 0.1 + 0.2
    rows[::2, 1] = 0.3
    rows[:, 2] = 7
    rows[:, 3] *= 1e-42
    found = examine(rows)
    assert [(finding.kind, finding.column) for finding in found] == [
        ("constant", 1),
        ("constant", 2),
        ("unresolved", 3),
    ]
    assert [finding.is_warning for finding in found] == [False, False, True]
    assert "smaller unit" in found[2].text


@pytest.mark.parametrize("name", COLUMNS)
def test_a_departure_of_20_deviations_is_noticed_where_float32_holds_it(name):
    offset, deviation, kind = COLUMNS[name]
    rows = rows_of(offset, deviation)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DataWarning)
        detector = AutoencoderDetector(steps=20, backend="fused").fit(rows)
    texts = [str(warning.message) for warning in told]
    assert sum("where float32 has steps of" in text for text in texts) == (kind is not None)
    offset_taken = detector.artifact_.config.offsets[0]
    assert offset_taken == np.float32(offset_taken)
    assert abs(offset_taken - offset) < deviation or kind == "unresolved"
    departed = rows[:100].copy()
    departed[:, 0] = offset + 20 * deviation
    if kind != "unresolved":
        assert (detector.predict(departed) == -1).all()
    assert np.mean(detector.predict(rows_of(offset, deviation, 2000, seed=1)) == -1) < 0.03


@pytest.mark.parametrize("backend", ["fused", "onnxruntime"])
@pytest.mark.parametrize("model", ["ensemble", "subspace"])
def test_the_graph_loses_nothing_of_an_offset(backend, model):
    """Against the same rows without their offset, which differ in nothing that float32 holds."""
    random = np.random.default_rng(0)
    small = np.round(16 * random.normal(size=(400, 4)) @ random.normal(size=(4, 4))) / 2
    offset = np.array([2.0**20, -(2.0**21), 3 * 2.0**19, 0])  # steps of 1/8, 1/8, 1/8
    plain, moved = (
        AutoencoderDetector(model=model, steps=20 if model == "ensemble" else None, backend=backend).fit(rows)
        for rows in (small, small + offset)
    )
    expected = plain.score_samples(small).astype(np.float64)
    error = np.abs(moved.score_samples(small + offset) - expected)
    # The offsets are float32 means: up to half a step, 1/16, from the exact ones; a deviation is about 16.
    assert np.median(error / np.abs(expected).clip(1)) < 0.02


@pytest.mark.parametrize("scale", [1e-45, 1e-41, 1e-38, 1e-30, 1e30, 1e36])
def test_tiny_and_huge_columns(scale):
    rows = np.random.default_rng(0).normal(size=(300, 4))
    rows[:, 0] *= scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        detector = AutoencoderDetector(steps=10).fit(rows)
    assert np.mean(detector.predict(rows) == -1) <= 0.01
    if scale > 1e-32:
        departed = rows[:50].copy()
        departed[:, 0] = 20 * scale
        assert (detector.predict(departed) == -1).all()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("ends", [(-2e38, 2e38), (0, 3e38), (3e38, 3.4e38), (-3.4e38, 0)])
def test_a_column_near_the_limit_of_float32_is_refused_by_name(ends, named):
    rows = rows_of(0, 1)
    rows[:, 1] = np.linspace(*ends, len(rows))
    name = "pressure" if named else "column 1"
    data = pd.DataFrame(rows, columns=["flow", "pressure", "level"]) if named else rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=f"^{name} comes to .*; divide it"):
            AutoencoderDetector(model="subspace").fit(data)


@pytest.mark.parametrize("ends", [(-1.6e38, 1.6e38), (0, 1.6e38), (1.2e38, 1.6e38)])
def test_a_column_not_so_near_is_learnt_without_a_warning(ends):
    rows = rows_of(0, 1)
    rows[:, 1] = np.random.default_rng(1).uniform(*ends, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoencoderDetector(model="subspace", target_fpr=0.1).fit(rows)

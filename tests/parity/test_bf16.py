"""The fused backend with the layers of networks in bf16, on each set of instructions that has them."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.errors import BackendUnavailableError
from tests.networks import Network, write_artifact
from tests.parity.conftest import supported
from tests.parity.fused_scorer import load
from tests.parity.roundings import reference_in, rounded_bf16
from tests.parity.test_batch_invariance import BATCHES, assert_same_in_every_batch, table

# Whole tiles, and widths beside tiles and pairs.
SHAPES = [(64, 128, 64, 16, 64, 128, 64), (33, 50, 20, 33), (97, 300, 17, 97)]


@pytest.fixture(params=["amx", "avx512"])
def bf16(request, monkeypatch):
    """Each set of instructions of this processor that multiplies bf16."""
    isa = request.param
    if not supported(isa):
        pytest.skip(f"this processor has no {isa}")
    monkeypatch.setenv("DATASENTINEL_ISA", isa)
    try:
        load(Network.random([2, 1, 2]).to_onnx(), dim=2, precision="bf16")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    return isa


@pytest.mark.parametrize("dims", SHAPES)
def test_the_factors_of_layers_are_rounded_and_nothing_else_is(bf16, dims):
    network = Network.random(dims)
    rows = network.mean + network.scale * table(200, dims[0])
    scorer = load(network.to_onnx(), dim=dims[0], precision="bf16")
    expected = reference_in(rounded_bf16, network, rows)
    exact = network.reference(rows)[0]
    scores = scorer.score(rows)
    # A value on the edge between two numbers of bf16 may go to the other one.
    error = np.abs(scores - expected) / expected
    assert np.median(error) < 2e-4
    assert error.max() < 5e-3
    assert 10 * np.median(error) < np.median(np.abs(exact - expected) / expected)


@pytest.mark.parametrize("dims", SHAPES)
def test_a_row_has_the_same_bits_in_every_batch(bf16, dims):
    onnx = Network.random(dims).to_onnx(with_contributions=True)
    assert_same_in_every_batch(onnx, table(150, dims[0]), BATCHES, precision="bf16")


def test_huge_rows_score_high(bf16):
    network = Network.random([64, 128, 16, 64])
    rows = table(40, 64) * np.float32(1e18)
    rows[0] = np.float32(3e38)
    scores = load(network.to_onnx(), dim=64, precision="bf16").score(rows)
    assert np.isfinite(scores).all()
    assert (scores > 1e30).all()


def test_narrow_layers_and_distances_stay_float32(bf16, tmp_path):
    network = Network.random([64, 8, 64])  # its second layer is too narrow
    write_artifact(tmp_path, network.to_onnx(), input_dim=64, threshold=1.0)
    detector = Detector.load(tmp_path, backend="fused", precision="bf16")
    assert "1 of 2 matrix products, float32 elsewhere" in detector.info()["facts"]["precision"]

    narrow = Network.random([8, 6, 3, 6, 8])
    rows = table(50, 8)
    both = [load(narrow.to_onnx(), dim=8, precision=precision) for precision in ("bf16", "float32")]
    np.testing.assert_array_equal(*(scorer.score(rows) for scorer in both))


@pytest.mark.parametrize("isa", ["portable"])
def test_a_processor_without_it_is_named(isa, monkeypatch):
    monkeypatch.setenv("DATASENTINEL_ISA", isa)
    with pytest.raises(BackendUnavailableError, match=f"avx512_bf16; .* {isa}"):
        load(Network.random([64, 16, 64]).to_onnx(), dim=64, precision="bf16")

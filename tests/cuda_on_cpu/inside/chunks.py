"""More rows than one chunk of 4 MiB: three streams in turn, every output, several threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from datasentinel import Detector, pinned_empty
from datasentinel.errors import BackendError, DataSentinelError, InvalidInputError, OutOfMemoryError
from tests.cuda_on_cpu.libcuda import error_of
from tests.networks import Network, write_artifact

COLUMNS = 300  # Wide, so that a chunk is few rows.
CHUNK = (4 << 20) // (4 * COLUMNS)
NETWORK = Network.random([COLUMNS, 2, COLUMNS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx_bytes = NETWORK.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("wide"), onnx_bytes, input_dim=COLUMNS, threshold=1)


@pytest.fixture
def detector(cuda, folder):
    return Detector.load(folder, backend="fused-cuda")


def rows_for(count: int, seed: int = 3) -> np.ndarray:
    values = NETWORK.mean + NETWORK.scale * np.random.default_rng(seed).normal(size=(count, COLUMNS))
    return values.astype(np.float32)


@pytest.mark.parametrize("count", [CHUNK, CHUNK + 1, 4 * CHUNK + 7])
def test_chunks_take_turns_on_the_streams(cuda, detector, count):
    rows = rows_for(count)
    cuda.fail("")  # Counts from here.
    np.testing.assert_allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5)
    assert cuda.calls("cuLaunchKernel") == -(-count // CHUNK)


def test_every_output_of_every_chunk(cuda, detector):
    rows = rows_for(3 * CHUNK + 5)
    scores, output = NETWORK.reference(rows)
    np.testing.assert_allclose(detector.reconstruct(rows), output, rtol=5e-5, atol=5e-5)
    contributions = detector.contributions(rows)
    np.testing.assert_allclose(contributions, NETWORK.reference_contributions(rows), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(detector.score(rows), scores, rtol=5e-5)


def pinned(values: np.ndarray) -> np.ndarray:
    array = pinned_empty(values.shape)
    array[...] = values
    return array


def test_page_locked_rows_and_results_go_without_a_copy_in_between(cuda, detector):
    rows = pinned(rows_for(3 * CHUNK + 5))
    assert rows.dtype == np.float32
    scores, output = NETWORK.reference(rows)
    out = pinned_empty(len(rows))
    assert detector.score(rows, out=out) is out
    np.testing.assert_allclose(out, scores, rtol=5e-5)
    np.testing.assert_allclose(detector.reconstruct(rows), output, rtol=5e-5, atol=5e-5)
    # The device knows no more of it: freed early, the process would end.
    del rows, out
    np.testing.assert_allclose(detector.score(rows_for(3)), NETWORK.reference(rows_for(3))[0], rtol=5e-5)


SMALL = Network.random([8, 6, 3, 6, 8])


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return write_artifact(folder, SMALL.to_onnx(with_contributions=True), input_dim=8, threshold=1)


@pytest.fixture
def small(cuda, small_folder):
    return Detector.load(small_folder, backend="fused-cuda")


def small_rows(count: int) -> np.ndarray:
    values = SMALL.mean + 2 * SMALL.scale * np.random.default_rng(5).normal(size=(count, 8))
    return values.astype(np.float32)


@pytest.mark.parametrize("count", [600, (5 << 20) // 32 + 3])
def test_a_small_model_reads_page_locked_rows_where_they_are(cuda, small, count):
    rows, out = pinned(small_rows(count)), pinned_empty(count)
    expected = SMALL.reference(rows)[0]
    cuda.fail("")  # Counts from here.
    before = small.scorer.counts["anomalies"]
    np.testing.assert_allclose(small.score(rows, out=out), expected, rtol=5e-5)
    assert cuda.calls("cuLaunchKernel") == 1
    assert cuda.calls("cuMemcpyHtoDAsync_v2") == cuda.calls("cuMemcpyDtoHAsync_v2") == 0
    assert small.scorer.counts["anomalies"] - before == (out > 1).sum()
    rows[count - 2, 5] = np.inf
    with pytest.raises(InvalidInputError, match=f"non-finite value at row {count - 2}, column 5"):
        small.score(rows, out=out)


def test_a_few_rows_are_launched_by_a_graph_of_their_own(cuda, small):
    rows = small_rows(9)
    expected = SMALL.reference(rows)[0]

    def check(count: int, shift: int) -> None:
        moved = np.roll(rows, shift, axis=0)[:count]
        np.testing.assert_allclose(small.score(moved), np.roll(expected, shift)[:count], rtol=5e-5)

    cuda.fail("")  # Counts from here.
    for shift in range(3):
        for count in (3, 8, 9):
            check(count, shift)
    assert cuda.calls("cuGraphInstantiateWithFlags") == 2
    assert cuda.calls("cuGraphLaunch") == 6
    assert cuda.calls("cuLaunchKernel") == 2 + 3  # Once while they are captured; nine rows each time.
    small.contributions(rows[:1])
    assert cuda.calls("cuGraphLaunch") == 6
    # What cannot be captured is launched as it is.
    cuda.fail("cuGraphInstantiateWithFlags:1=801")
    for shift in range(3):
        check(5, shift)
    assert cuda.calls("cuGraphInstantiateWithFlags") == 1
    assert cuda.calls("cuGraphLaunch") == 0


def test_rows_that_kernels_may_not_read_are_copied(cuda, small):
    count = 1000
    memory, out = pinned(small_rows(count + 1)).reshape(-1), pinned_empty(count)
    rows = memory[1 : 1 + 8 * count].reshape(count, 8)  # Not where four values are read at once.
    expected = SMALL.reference(rows)[0]
    for fault in ("", *(f"cuPointerGetAttribute:{call}=1" for call in (7, 8))):
        cuda.fail(fault)
        some = rows if not fault else memory[: 8 * count].reshape(count, 8)
        wanted = expected if not fault else SMALL.reference(some)[0]
        np.testing.assert_allclose(small.score(some, out=out), wanted, rtol=5e-5)
        assert cuda.calls("cuMemcpyHtoDAsync_v2") == 1
    cuda.fail("")


@pytest.mark.parametrize("place", [np.asarray, pinned], ids=["ordinary", "page-locked"])
@pytest.mark.parametrize("count", [3, 700, 3 * CHUNK + 5])
def test_anomalies_are_counted_wherever_rows_lie(cuda, detector, place, count):
    rows = rows_for(count)
    for method in (detector.score, detector.predict):
        before = detector.scorer.counts["anomalies"]
        found = method(place(rows))
        above = found if found.dtype == bool else found > 1
        assert detector.scorer.counts["anomalies"] - before == above.sum()
    assert 0 < above.sum() < count or count == 3


def test_a_view_of_page_locked_rows_is_page_locked(cuda, detector):
    rows = pinned(rows_for(2 * CHUNK))[7:]
    np.testing.assert_allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5)


def test_rows_between_two_page_locked_parts_need_not_be_page_locked(cuda, detector):
    rows, out = rows_for(300), np.empty(300, np.float32)
    expected = NETWORK.reference(rows)[0]
    with cuda.page_locked(rows[:100]), cuda.page_locked(rows[200:]):
        for scores in (out, pinned_empty(300)):
            np.testing.assert_allclose(detector.score(rows, out=scores), expected, rtol=5e-5)
        np.testing.assert_allclose(detector.score(rows[:100]), expected[:100], rtol=5e-5)
    with cuda.page_locked(out[:100]), cuda.page_locked(out[200:]):
        np.testing.assert_allclose(detector.score(pinned(rows), out=out), expected, rtol=5e-5)


@pytest.mark.parametrize("shape", [-1, (2, -1), (1 << 30, 1 << 30), (2.0,)])
def test_what_is_no_shape_is_refused(cuda, shape):
    with pytest.raises(InvalidInputError, match="shape must be"):
        pinned_empty(shape)


@pytest.mark.parametrize("place", [np.asarray, pinned], ids=["ordinary", "page-locked"])
@pytest.mark.parametrize("row", [0, CHUNK - 1, CHUNK, 3 * CHUNK + 6])
def test_the_first_value_of_all_chunks_that_is_not_finite_is_named(cuda, detector, place, row):
    rows = rows_for(4 * CHUNK + 7)
    rows[row, 17] = np.inf
    rows[-1, 3] = np.nan
    cuda.fail("")  # Counts from here.
    with pytest.raises(InvalidInputError, match=f"non-finite value at row {row}, column 17"):
        detector.score(place(rows))
    assert cuda.calls("cuLaunchKernel") >= row // CHUNK + 1  # It was the device that looked.
    # Nothing of it is left under way, and the session goes on.
    rows = rows_for(CHUNK + 1)
    np.testing.assert_allclose(detector.score(place(rows)), NETWORK.reference(rows)[0], rtol=5e-5)


@pytest.mark.parametrize("count", [3, 200])
def test_every_method_names_a_value_that_is_not_finite(cuda, detector, count):
    """Of a few rows the host looks, of more the device."""
    rows = rows_for(count)
    rows[2, COLUMNS - 1] = np.nan
    for method in (detector.score, detector.predict, detector.reconstruct, detector.contributions):
        with pytest.raises(InvalidInputError, match=f"non-finite value at row 2, column {COLUMNS - 1}"):
            method(rows)
    rows[2, COLUMNS - 1] = 0
    np.testing.assert_allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5)


def in_threads(count: int, work) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_several_threads_do_not_mix_their_rows(cuda, detector):
    wrong = []

    def score(number: int) -> None:
        # Few rows go through mapped memory, more by copies.
        for count in (1, 5, 60, 700, 3):
            rows = rows_for(count, seed=number)
            if not np.allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5):
                wrong.append((number, count))

    in_threads(4, score)
    assert not wrong


def test_out_of_memory_in_one_thread_passes(cuda, detector):
    """Each thread more takes memory of its own; the session outlives that there is none."""
    rows = rows_for(CHUNK)
    expected = NETWORK.reference(rows)[0]
    taken = cuda.take_all_memory()
    errors = []

    def score(_number: int) -> None:
        for _ in range(3):
            error = error_of(detector.score, rows)
            if error is not None:
                errors.append(error)

    in_threads(4, score)
    assert all(isinstance(error, OutOfMemoryError) for error in errors), errors
    for address in taken:
        cuda.free(address)
    np.testing.assert_allclose(detector.score(rows), expected, rtol=5e-5)


def test_loading_out_of_memory_is_an_error_that_passes(cuda, folder):
    taken = cuda.take_all_memory()
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        Detector.load(folder, backend="fused-cuda")
    for address in taken:
        cuda.free(address)
    rows = rows_for(40)
    scores = Detector.load(folder, backend="fused-cuda").score(rows)
    np.testing.assert_allclose(scores, NETWORK.reference(rows)[0], rtol=5e-5)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("cuMemcpyHtoDAsync_v2:2=1", BackendError),
        ("cuMemcpyDtoHAsync_v2:1=2", OutOfMemoryError),
        ("cuLaunchKernel:2=701", BackendError),
        ("cuStreamSynchronize:1=999", BackendError),
    ],
)
def test_an_error_that_passes_does_not_end_the_session(cuda, detector, fault, error):
    rows = rows_for(2 * CHUNK)
    cuda.fail(fault)
    with pytest.raises(error, match="CUDA says"):
        detector.score(rows)
    np.testing.assert_allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5)


@pytest.mark.parametrize("fault", ["cuGraphInstantiateWithFlags:1=2,cuLaunchKernel:2=2", "cuGraphLaunch:1=2"])
def test_out_of_memory_for_a_graph_passes(cuda, small, fault):
    rows = small_rows(3)
    cuda.fail(fault)
    with pytest.raises(OutOfMemoryError):
        small.score(rows)
    np.testing.assert_allclose(small.score(rows), SMALL.reference(rows)[0], rtol=5e-5)


@pytest.mark.parametrize("failing", [2, 3, 4, 5])
def test_after_a_failure_no_thread_gets_another_s_rows(cuda, detector, failing):
    """A launch fails while earlier chunks are under way, and other threads want to go on."""
    small = rows_for(20, seed=8)
    expected = NETWORK.reference(small)[0]
    big = rows_for(5 * CHUNK)
    wrong = []
    cuda.fail(f"cuLaunchKernel:{failing}=701")

    def score(number: int) -> None:
        for _ in range(5):
            try:
                scores = detector.score(big if number == 0 else small)
            except DataSentinelError as error:
                if not isinstance(error, BackendError):
                    wrong.append(error)
            else:
                if number != 0 and not np.allclose(scores, expected, rtol=5e-5):
                    wrong.append(scores)

    in_threads(3, score)
    assert not wrong

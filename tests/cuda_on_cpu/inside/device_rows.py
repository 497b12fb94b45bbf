"""Rows in the device's memory, by both protocols."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager

import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.errors import BackendError, InvalidInputError
from tests.networks import Network, write_artifact

NETWORK = Network.random([8, 6, 3, 6, 8])
CUDA = 2  # DLPack's number.


@pytest.fixture(scope="module", params=[[8, 6, 3, 6, 8], [33, 17, 9, 33]], ids=str)
def network(request):
    return Network.random(request.param)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    columns = network.input_dim
    return write_artifact(tmp_path_factory.mktemp("model"), network.to_onnx(), input_dim=columns, threshold=1)


@pytest.fixture
def detector(cuda, folder):
    return Detector.load(folder, backend="fused-cuda")


@pytest.fixture
def rows(network) -> np.ndarray:
    random = np.random.default_rng(9)
    values = network.mean + network.scale * random.normal(size=(300, network.input_dim))
    return values.astype(np.float32)


class Array:
    """Memory behind the CUDA Array Interface alone."""

    def __init__(self, address: int, shape: tuple, **about: object) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
        } | about


class Tensor:
    """Memory behind DLPack alone, which says whether it was given back."""

    def __init__(self, address, shape, *, device=(CUDA, 0), code=2, bits=32, strides=None, prepare=None):
        self.device = device
        self.prepare = prepare
        self.given_back = 0
        self._dims = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = strides and (ctypes.c_int64 * len(shape))(*strides)
        self._deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._take_back)

        class Managed(ctypes.Structure):
            _fields_ = (
                ("data", ctypes.c_void_p),
                ("device", ctypes.c_int32 * 2),
                ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8),
                ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16),
                ("shape", ctypes.c_void_p),
                ("strides", ctypes.c_void_p),
                ("byte_offset", ctypes.c_uint64),
                ("manager_ctx", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p),
            )

        self._managed = Managed(
            data=address,
            device=(ctypes.c_int32 * 2)(*device),
            ndim=len(shape),
            code=code,
            bits=bits,
            lanes=1,
            shape=ctypes.addressof(self._dims),
            strides=ctypes.addressof(self._strides) if self._strides else None,
            byte_offset=0,
            deleter=ctypes.cast(self._deleter, ctypes.c_void_p),
        )

    def _take_back(self, _tensor) -> None:
        self.given_back += 1

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream):
        if self.prepare is not None:
            self.prepare(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)


@contextmanager
def on_device(cuda, values: np.ndarray):
    address = cuda.upload(np.ascontiguousarray(values))
    yield address
    cuda.free(address)


def scores_of(cuda, result) -> np.ndarray:
    about = result.__cuda_array_interface__
    assert about["typestr"] == "<f4"
    assert about["stream"] is None
    return cuda.download(about["data"][0], about["shape"][0])


@pytest.mark.parametrize("count", [1, 32, 33, 300])
@pytest.mark.parametrize("protocol", [Array, Tensor])
def test_scores_stay_on_the_device(cuda, detector, network, rows, protocol, count):
    with on_device(cuda, rows[:count]) as address:
        lender = protocol(address, (count, network.input_dim))
        result = detector.score(lender)
        assert result.shape == (count,)
        assert len(result) == count
        np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows[:count])[0], rtol=5e-5)
        if protocol is Tensor:
            assert lender.given_back == 1


@pytest.mark.parametrize("protocol", [Array, Tensor])
def test_scores_go_where_the_caller_wants(cuda, detector, network, rows, protocol):
    with on_device(cuda, rows) as address, on_device(cuda, np.zeros(len(rows), np.float32)) as target:
        out = protocol(target, (len(rows),))
        assert detector.score(protocol(address, rows.shape), out) is out
        np.testing.assert_allclose(cuda.download(target, len(rows)), network.reference(rows)[0], rtol=5e-5)


def test_one_row_and_no_rows(cuda, detector, network, rows):
    with on_device(cuda, rows[0]) as address:
        result = detector.score(Array(address, (network.input_dim,)))
        np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows[:1])[0], rtol=5e-5)
    assert len(detector.score(Array(0, (0, network.input_dim)))) == 0


def test_scores_are_lent_again_by_dlpack(cuda, detector, network, rows):
    torch = pytest.importorskip("torch", reason="torch is the other library here")
    with on_device(cuda, rows) as address:
        result = detector.score(Array(address, rows.shape))
        assert result.__dlpack_device__() == (CUDA, 0)
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        capsule = result.__dlpack__(stream=1)
        lent = ctypes.cast(get_pointer(capsule, b"dltensor"), ctypes.POINTER(ctypes.c_uint64))[0]
        assert lent == result.__cuda_array_interface__["data"][0]
        # The capsule alone keeps the memory.
        del result
        np.testing.assert_allclose(cuda.download(lent, len(rows)), network.reference(rows)[0], rtol=5e-5)
        del capsule
    # A library without a GPU refuses it instead of reading it on the host.
    with on_device(cuda, rows) as address, pytest.raises(Exception, match=r"(?i)cuda"):
        torch.from_dlpack(detector.score(Array(address, rows.shape)))


@pytest.mark.parametrize("which", ["legacy", "of the thread", "another"])
def test_the_stream_of_the_cuda_array_interface_is_waited_for(cuda, detector, network, rows, which):
    stream = {"legacy": 1, "of the thread": 2}.get(which) or cuda.stream(blocking=False)
    address = cuda.allocate(rows.nbytes)
    cuda.upload_later(rows, address, stream)
    result = detector.score(Array(address, rows.shape, stream=stream))
    np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows)[0], rtol=5e-5)
    cuda.free(address)
    if which == "another":
        cuda("cuStreamDestroy_v2", ctypes.c_void_p(stream))


class ExchangeApi(ctypes.Structure):
    """DLPack's C exchange API, version 1.3."""

    DLTENSOR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
    WORK_STREAM = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
    )
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("prev_api", ctypes.c_void_p),
        ("unused", ctypes.c_void_p * 3),
        ("dltensor_from_py_object_no_sync", ctypes.c_void_p),
        ("current_work_stream", ctypes.c_void_p),
    )


def working_on(stream: int, *, lends: bool = True, newer: bool = False) -> type[Tensor]:
    """Make the tensors of a library that tells its current stream, and would fail if it was asked to wait."""

    class Known(Tensor):
        def __dlpack__(self, *, stream):
            assert not lends
            assert stream == -1
            return super().__dlpack__(stream=stream)

    @ExchangeApi.DLTENSOR
    def lend(tensor: Tensor, target: int) -> int:
        ctypes.memmove(target, ctypes.addressof(tensor._managed), 48)  # The DLTensor comes first.
        return 0

    @ExchangeApi.WORK_STREAM
    def current(device_type, device, target) -> int:
        assert (device_type, device) == (CUDA, 0)
        target[0] = stream
        return 0

    def address(function) -> int:
        return ctypes.cast(function, ctypes.c_void_p).value

    api = ExchangeApi(1, 3, None, (ctypes.c_void_p * 3)(), address(lend) if lends else None, address(current))
    newest = ExchangeApi(2, 0, ctypes.addressof(api)) if newer else api
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    Known.__dlpack_c_exchange_api__ = new(ctypes.addressof(newest), b"dlpack_exchange_api", None)
    Known.kept = (lend, current, api, newest)
    return Known


@pytest.mark.parametrize("form", [{}, {"lends": False}, {"newer": True}], ids=str)
def test_the_stream_of_a_library_that_tells_it_is_worked_on(cuda, detector, network, rows, form):
    stream = cuda.stream(blocking=False)
    tensor = working_on(stream, **form)
    address, target = cuda.allocate(rows.nbytes), cuda.allocate(4 * len(rows))
    cuda.upload_later(rows, address, stream)
    out = tensor(target, (len(rows),))
    assert detector.score(tensor(address, rows.shape), out) is out
    np.testing.assert_allclose(cuda.download(target, len(rows)), network.reference(rows)[0], rtol=5e-5)
    for memory in (address, target):
        cuda.free(memory)
    cuda("cuStreamDestroy_v2", ctypes.c_void_p(stream))


def test_a_real_library_s_exchange_api_is_read(cuda, detector, network, rows):
    torch = pytest.importorskip("torch", reason="torch is the other library here")
    with on_device(cuda, rows) as address, pytest.raises(InvalidInputError, match="out must lie on the same"):
        detector.score(Array(address, rows.shape), torch.empty(len(rows)))


class GivenStream:
    """A stream of another library."""

    def __init__(self, handle: int, version: int = 0) -> None:
        self.about = (version, handle)

    def __cuda_stream__(self):
        return self.about


@pytest.fixture
def stream(cuda):
    stream = cuda.stream(blocking=False)
    yield stream
    cuda("cuStreamDestroy_v2", ctypes.c_void_p(stream))


@pytest.mark.parametrize("protocol", [Array, Tensor])
@pytest.mark.parametrize("given", [int, GivenStream])
def test_on_the_caller_s_stream_nothing_is_waited_for_or_allocated(
    cuda, detector, network, rows, stream, protocol, given
):
    address, target = cuda.allocate(rows.nbytes), cuda.allocate(4 * len(rows))
    cuda.upload_later(rows, address, stream)
    x, out = protocol(address, rows.shape), protocol(target, (len(rows),))
    cuda.fail("")  # Counts from here.
    assert detector.score(x, out, stream=given(stream)) is out
    assert cuda.calls("cuLaunchKernel") == 1
    assert cuda.calls("*") == cuda.calls("cuLaunchKernel") + cuda.calls("cuCtxSetCurrent")
    cuda.wait(stream)
    detector.check()
    np.testing.assert_allclose(cuda.download(target, len(rows)), network.reference(rows)[0], rtol=5e-5)
    for memory in (address, target):
        cuda.free(memory)


def test_scores_of_the_caller_s_stream_say_so(cuda, detector, network, rows, stream):
    address = cuda.allocate(rows.nbytes)
    cuda.upload_later(rows, address, stream)
    result = detector.score(Array(address, rows.shape), stream=stream)
    about = result.__cuda_array_interface__
    assert about["stream"] == stream
    result.__dlpack__(stream=stream)
    cuda.fail("")  # Counts from here.
    result.__dlpack__(stream=-1)
    assert cuda.calls("cuStreamSynchronize") == 0
    result.__dlpack__()  # For the legacy default stream: which does not wait for this one by itself.
    assert cuda.calls("cuStreamSynchronize") == 1
    scores = cuda.download(about["data"][0], len(rows))
    np.testing.assert_allclose(scores, network.reference(rows)[0], rtol=5e-5)
    cuda.free(address)


def test_a_value_that_is_not_finite_on_the_caller_s_stream_is_reported_later(
    cuda, detector, network, rows, stream
):
    good = rows.copy()
    rows[11, 2] = np.nan
    with (
        on_device(cuda, rows) as bad_rows,
        on_device(cuda, good) as address,
        on_device(cuda, np.zeros(len(rows), np.float32)) as target,
    ):
        out = Array(target, (len(rows),))
        words = r"non-finite value at row 11, column 2 \('f2'\) of rows that were scored before on a stream"
        for report in (detector.check, lambda: detector.score(Array(address, rows.shape), out)):
            detector.score(Array(bad_rows, rows.shape), out, stream=stream)
            cuda.wait(stream)
            with pytest.raises(InvalidInputError, match=words):
                report()
            detector.check()  # Reported once.
        detector.score(Array(address, rows.shape), out)
        np.testing.assert_allclose(cuda.download(target, len(rows)), network.reference(good)[0], rtol=5e-5)


def test_scoring_is_captured_in_the_caller_s_graph(cuda, detector, network, rows, stream):
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    address, target = cuda.allocate(rows.nbytes), cuda.allocate(4 * len(rows))
    x, out = Array(address, rows.shape), Array(target, (len(rows),))
    cuda("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), 0)
    # What would wait or allocate is refused before it spoils the capture.
    with pytest.raises(InvalidInputError, match="captured for a CUDA graph"):
        detector.score(x, stream=stream)
    with pytest.raises(InvalidInputError, match="captured for a CUDA graph"):
        detector.score(Array(address, rows.shape, stream=stream), out)
    detector.score(x, out, stream=stream)
    cuda("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
    cuda("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    for replay in range(3):
        values = np.roll(rows, replay, axis=0)
        if replay == 2:
            values[5, 1] = np.inf
        cuda.upload_later(values, address, stream)
        cuda("cuGraphLaunch", executable, ctypes.c_void_p(stream))
        cuda.wait(stream)
        if replay == 2:
            with pytest.raises(InvalidInputError, match="non-finite value at row 5, column 1"):
                detector.check()
        else:
            detector.check()
            expected = network.reference(values)[0]
            np.testing.assert_allclose(cuda.download(target, len(rows)), expected, rtol=5e-5)
    cuda("cuGraphExecDestroy", executable)
    cuda("cuGraphDestroy", graph)
    for memory in (address, target):
        cuda.free(memory)


def test_a_detector_that_goes_waits_for_its_work(cuda, folder, network, rows, stream):
    detector = Detector.load(folder, backend="fused-cuda")
    with on_device(cuda, rows) as address, on_device(cuda, np.zeros(len(rows), np.float32)) as target:
        detector.score(Array(address, rows.shape), Array(target, (len(rows),)), stream=stream)
        del detector  # What the kernel reads is given back: too early, and the device would end the process.
        np.testing.assert_allclose(cuda.download(target, len(rows)), network.reference(rows)[0], rtol=5e-5)


def test_what_is_no_stream_is_refused(cuda, detector, rows, stream):
    with on_device(cuda, rows) as address:
        x = Array(address, rows.shape)
        for wrong in ("0", 1.5, -1, object(), GivenStream("s")):
            with pytest.raises(InvalidInputError, match="stream must be"):
                detector.score(x, stream=wrong)
        with pytest.raises(InvalidInputError, match="version 1 of __cuda_stream__"):
            detector.score(x, stream=GivenStream(stream, version=1))
        with pytest.raises(InvalidInputError, match="x lies in host memory"):
            detector.score(rows, stream=stream)


def test_dlpack_is_told_the_stream_that_must_see_the_rows(cuda, detector, network, rows):
    address = cuda.allocate(rows.nbytes)
    lender = Tensor(address, rows.shape, prepare=lambda stream: cuda.upload_later(rows, address, stream))
    result = detector.score(lender)
    np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows)[0], rtol=5e-5)
    cuda.free(address)


@pytest.mark.parametrize("count", [20, 300])
def test_a_value_that_is_not_finite_is_named(cuda, detector, network, rows, count):
    rows = rows[:count].copy()
    rows[11, 2] = np.nan
    rows[17, 1] = np.inf
    expected = network.reference(rows[:10])[0]
    with on_device(cuda, rows) as address:
        with pytest.raises(InvalidInputError, match=r"non-finite value at row 11, column 2 \('f2'\)"):
            detector.score(Array(address, rows.shape))
        # The next call has forgotten it.
        result = detector.score(Array(address, (10, network.input_dim)))
        np.testing.assert_allclose(scores_of(cuda, result), expected, rtol=5e-5)


def test_what_cannot_be_scored_is_refused(cuda, detector, network, rows):
    columns = network.input_dim
    with on_device(cuda, rows) as address:
        good = Array(address, rows.shape)

        def refuses(match: str, x: object, out: object = None) -> None:
            with pytest.raises(InvalidInputError, match=match):
                detector.score(x, out)
            if isinstance(x, Tensor) and x.device == (CUDA, 0):
                assert x.given_back == 1

        for protocol in (Array, Tensor):
            refuses("multiple of 16 bytes", protocol(address + 4, (2, columns)))
            refuses(f"expected {columns} values per row, got 5", protocol(address, (2, 5)))
            refuses(r"x must have shape \[N, D\] or \[D\]", protocol(address, (1, 2, columns)))
            refuses(r"out must have shape \(300,\)", good, protocol(address, (299,)))
            refuses(
                "out must start at an address that is a multiple of 4", good, protocol(address + 2, (300,))
            )
        refuses("float32", Array(address, rows.shape, typestr="<f8"))
        refuses("float32", Tensor(address, rows.shape, bits=64))
        refuses("C-contiguous", Array(address, (10, columns), strides=(4, 4 * columns)))
        refuses("C-contiguous", Tensor(address, (10, columns), strides=(1, columns)))
        refuses("x lies on CUDA device 1", Tensor(address, rows.shape, device=(CUDA, 1)))
        refuses("x lies on DLPack device type 10", Tensor(address, rows.shape, device=(10, 0)))
        refuses("out must lie on the same CUDA device", good, np.empty(300, np.float32))
        refuses("out is read-only", good, Array(address, (300,), data=(address, True)))
        for method in (detector.predict, detector.reconstruct, detector.contributions):
            with pytest.raises(InvalidInputError, match="x lies on a CUDA device, and only scores"):
                method(good)
        np.testing.assert_allclose(
            scores_of(cuda, detector.score(good)), network.reference(rows)[0], rtol=5e-5
        )


def test_strides_of_contiguous_rows_are_fine(cuda, detector, network, rows):
    columns = network.input_dim
    with on_device(cuda, rows) as address:
        for lender in (
            Array(address, rows.shape, strides=(4 * columns, 4)),
            Tensor(address, rows.shape, strides=(columns, 1)),
        ):
            result = detector.score(lender)
            np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows)[0], rtol=5e-5)


@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuStreamSynchronize"])
def test_a_call_that_fails_once_is_an_error_that_passes(cuda, detector, network, rows, call):
    with on_device(cuda, rows) as address:
        cuda.fail(f"{call}:1=999")
        with pytest.raises(BackendError, match="CUDA says: error 999"):
            detector.score(Array(address, rows.shape))
        result = detector.score(Array(address, rows.shape))
        np.testing.assert_allclose(scores_of(cuda, result), network.reference(rows)[0], rtol=5e-5)

"""Rows that another library lends by DLPack: scored where they lie, refused with the reason where they cannot."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from datasentinel import Detector, backend
from datasentinel.errors import InvalidInputError
from tests.networks import Network, write_artifact

torch = pytest.importorskip("torch", reason="torch is the library that lends tensors here")

ROOT = Path(__file__).parents[2]
NETWORK = Network.random([8, 6, 3, 6, 8])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx_bytes = NETWORK.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=8, threshold=1.0)


@pytest.fixture(scope="module", params=["fused", "onnxruntime"])
def detector(request, folder):
    return Detector.load(folder, backend=request.param)


@pytest.fixture
def rows() -> np.ndarray:
    random = np.random.default_rng(9)
    return (NETWORK.mean + NETWORK.scale * random.normal(size=(50, 8))).astype(np.float32)


class OnlyDlpack:
    """A tensor behind nothing but DLPack, which counts how often it is asked for."""

    def __init__(self, tensor) -> None:
        self.tensor = tensor
        self.lent = 0

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, **kwargs):
        self.lent += 1
        return self.tensor.__dlpack__(**kwargs)


def test_a_tensor_is_scored_where_it_lies(detector, rows):
    lender = OnlyDlpack(torch.from_numpy(rows))
    # The core takes it itself: NotImplemented would ask for a conversion.
    scores = detector.scorer.score(lender)
    assert scores is not NotImplemented
    assert lender.lent == 1
    np.testing.assert_array_equal(scores, detector.score(rows))
    np.testing.assert_allclose(scores, NETWORK.reference(rows)[0], rtol=2e-5)


def test_every_method_takes_it(detector, rows):
    tensor = torch.from_numpy(rows)
    np.testing.assert_array_equal(detector.predict(tensor), detector.predict(rows))
    np.testing.assert_array_equal(detector.reconstruct(tensor), detector.reconstruct(rows))
    np.testing.assert_array_equal(detector.contributions(tensor), detector.contributions(rows))
    assert detector.explain(tensor) == detector.explain(rows)
    out = np.empty(len(rows), np.float32)
    assert detector.score(tensor, out) is out
    np.testing.assert_array_equal(out, detector.score(rows))


@pytest.mark.parametrize("keeps", ["offset", "one row", "no rows"])
def test_a_view_is_scored_in_place(detector, rows, keeps):
    view = {"offset": np.s_[3:20], "one row": np.s_[7], "no rows": np.s_[:0]}[keeps]
    tensor = torch.from_numpy(rows)[view]
    scores = detector.scorer.score(tensor)
    assert scores is not NotImplemented
    np.testing.assert_array_equal(scores, detector.score(rows[view]))


@pytest.mark.parametrize("change", ["float64", "transposed", "every second row", "float16"])
@pytest.mark.parametrize("wrap", [lambda tensor: tensor, OnlyDlpack], ids=["torch", "only dlpack"])
def test_what_is_no_float32_in_order_is_converted(detector, rows, change, wrap):
    tensor = torch.from_numpy(rows)
    tensor = {
        "float64": tensor.double(),
        "transposed": tensor.t().contiguous().t(),
        "every second row": tensor[::2],
        "float16": tensor.half(),
    }[change]
    assert detector.scorer.score(wrap(tensor)) is NotImplemented
    np.testing.assert_array_equal(detector.score(wrap(tensor)), detector.score(tensor.float().numpy()))


def test_what_cannot_be_converted_is_refused(detector, rows):
    tensor = torch.from_numpy(rows)
    with pytest.raises(InvalidInputError, match=r"requires.grad"):
        detector.score(tensor.clone().requires_grad_())
    for wrap in (lambda x: x, OnlyDlpack):
        with pytest.raises(InvalidInputError, match="not a rectangular array of numbers"):
            detector.score(wrap(tensor.bfloat16()))
    with pytest.raises(InvalidInputError, match="got dtype complex64"):
        detector.score(torch.complex(tensor, tensor))
    with pytest.raises(InvalidInputError, match="expected 8 values per row, got 4"):
        detector.score(tensor[:, :4].contiguous())
    with pytest.raises(InvalidInputError, match="shape"):
        detector.score(tensor.reshape(5, 10, 8))


def test_a_value_that_is_not_finite_is_named(detector, rows):
    tensor = torch.from_numpy(rows).clone()
    tensor[4, 2] = torch.nan
    with pytest.raises(InvalidInputError, match="non-finite value at row 4, column 2"):
        detector.score(tensor)


def test_a_tensor_is_given_back(detector):
    memory = np.ones((4, 8), np.float32)
    references = sys.getrefcount(memory)
    tensor = torch.from_numpy(memory)
    assert sys.getrefcount(memory) > references
    detector.score(tensor)
    with pytest.raises(InvalidInputError):
        detector.score(tensor[:, :4].contiguous())
    del tensor
    assert sys.getrefcount(memory) == references


def test_a_used_capsule_is_refused(detector, rows):
    capsule = torch.from_numpy(rows).__dlpack__()
    torch.from_dlpack(capsule)

    class Used:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self):
            return capsule

    with pytest.raises(InvalidInputError, match="no unused capsule"):
        detector.score(Used())


class OnDevice:
    """Says that it lies on a device, and would fail if anybody read it."""

    def __init__(self, kind: int, number: int = 0) -> None:
        self.device = (kind, number)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_kwargs):
        raise AssertionError("read, though it lies on a device")


class CudaArray:
    """The same by the CUDA Array Interface, as Numba's arrays."""

    __cuda_array_interface__ = {"shape": (1, 8), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


@pytest.mark.parametrize(
    ("x", "place"),
    [
        (OnDevice(2, 1), "CUDA device 1"),
        (OnDevice(13), "CUDA device 0"),
        (OnDevice(8), "DLPack device type 8, number 0"),
        (CudaArray(), "a CUDA device"),
    ],
    ids=["cuda", "managed", "metal", "cuda array"],
)
def test_rows_on_a_device_are_refused_where_the_backend_scores_on_the_host(detector, x, place):
    with pytest.raises(InvalidInputError, match=f"x lies on {place}, and backend '{detector.backend}'"):
        detector.score(x)
    for method in (detector.predict, detector.reconstruct, detector.contributions):
        with pytest.raises(InvalidInputError, match=f"x lies on {place}, and only scores are computed"):
            method(x)


def test_a_real_tensor_without_memory_is_refused(detector):
    with pytest.raises(InvalidInputError, match="not a rectangular array of numbers"):
        detector.score(torch.empty((2, 8), device="meta"))


def test_the_declarations_are_dlpack_s():
    header = Path(torch.__file__).parent / "include/ATen/dlpack.h"
    if not header.is_file():
        pytest.skip("this torch comes without ATen/dlpack.h")
    theirs = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(), flags=re.DOTALL)
    ours = re.sub(r"/\*.*?\*/|//[^\n]*", "", (ROOT / "csrc/bindings/dlpack.h").read_text())
    numbers = re.findall(r"constexpr std::\w+ (kDL\w+) = (\d+);", ours)
    assert len(numbers) == 6
    for name, value in numbers:
        assert re.search(rf"\b{name}\s*=\s*{value}U?\s*,", theirs), name

    def fields(text: str) -> list[str]:
        names = []
        for part in filter(str.strip, text.split(";")):
            pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)", part)
            names.append(pointer[1] if pointer else re.findall(r"\w+", part)[-1])
        return names

    exchange = (
        ("DLPackVersion", "DLPackExchangeAPIHeader", "DLPackExchangeAPI") if "ExchangeAPI" in theirs else ()
    )
    for name in ("DLDevice", "DLDataType", "DLTensor", "DLManagedTensor", *exchange):
        mine = fields(re.search(rf"struct {name} \{{([^}}]*)\}};", ours)[1])
        given = fields(re.search(rf"typedef struct(?: {name})? \{{([^}}]*)\}}\s*{name};", theirs)[1])
        assert mine == given, name


@pytest.fixture
def on_gpu(folder):
    status = next(status for status in backend.backends() if status.name == "fused-cuda")
    if status.availability != "available":
        pytest.skip(f"fused-cuda is {status.availability}: {status.detail}")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return Detector.load(folder, backend="fused-cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 33, 5000, 300_001])
def test_rows_on_the_gpu_are_scored_there(on_gpu, count):
    random = np.random.default_rng(10)
    rows = (NETWORK.mean + NETWORK.scale * random.normal(size=(count, 8))).astype(np.float32)
    tensor = torch.from_numpy(rows).cuda()
    expected = NETWORK.reference(rows)[0]
    scores = torch.from_dlpack(on_gpu.score(tensor))
    assert scores.is_cuda
    np.testing.assert_allclose(scores.cpu().numpy(), expected, rtol=5e-5)
    out = torch.empty(count, device="cuda")
    assert on_gpu.score(tensor, out) is out
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=5e-5)


@pytest.mark.gpu
def test_rows_on_the_gpu_are_scored_in_a_cuda_graph_of_torch(on_gpu, rows):
    tensor, out = torch.zeros((50, 8), device="cuda"), torch.zeros(50, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        on_gpu.score(tensor, out, stream=torch.cuda.current_stream().cuda_stream)
    for shift in range(2):
        values = np.roll(rows, shift, axis=0)
        tensor.copy_(torch.from_numpy(values))
        graph.replay()
        torch.cuda.synchronize()
        on_gpu.check()
        np.testing.assert_allclose(out.cpu().numpy(), NETWORK.reference(values)[0], rtol=5e-5)
    tensor[3, 4] = torch.nan
    graph.replay()
    torch.cuda.synchronize()
    with pytest.raises(InvalidInputError, match="non-finite value at row 3, column 4"):
        on_gpu.check()


@pytest.mark.gpu
def test_rows_on_the_gpu_by_the_cuda_array_interface(on_gpu, rows):
    tensor = torch.from_numpy(rows).cuda()

    class Array:
        __cuda_array_interface__ = tensor.__cuda_array_interface__ | {"stream": 1}

    scores = torch.as_tensor(on_gpu.score(Array()), device="cuda")
    np.testing.assert_allclose(scores.cpu().numpy(), NETWORK.reference(rows)[0], rtol=5e-5)


@pytest.mark.gpu
def test_rows_of_another_stream_are_waited_for(on_gpu, rows):
    stream = torch.cuda.Stream()
    tensor = torch.zeros((50, 8), device="cuda")
    source = torch.from_numpy(rows).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        tensor.copy_(source)
        scores = torch.from_dlpack(on_gpu.score(tensor))
    np.testing.assert_allclose(scores.cpu().numpy(), NETWORK.reference(rows)[0], rtol=5e-5)


@pytest.mark.gpu
def test_rows_on_the_gpu_that_cannot_be_scored_are_refused(on_gpu, rows):
    tensor = torch.from_numpy(rows).cuda()
    with pytest.raises(InvalidInputError, match="must be float32"):
        on_gpu.score(tensor.double())
    with pytest.raises(InvalidInputError, match="C-contiguous"):
        on_gpu.score(tensor[:, ::2])
    with pytest.raises(InvalidInputError, match="multiple of 16 bytes"):
        on_gpu.score(tensor.flatten()[1:41].view(5, 8))
    with pytest.raises(InvalidInputError, match="out must lie on the same CUDA device"):
        on_gpu.score(tensor, np.empty(50, np.float32))
    tensor[4, 2] = torch.nan
    with pytest.raises(InvalidInputError, match="non-finite value at row 4, column 2"):
        on_gpu.score(tensor)
    np.testing.assert_allclose(on_gpu.score(rows), NETWORK.reference(rows)[0], rtol=5e-5)

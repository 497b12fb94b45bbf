"""Generated CUDA kernels without a GPU: their arithmetic on the CPU, and NVRTC's verdict on their text.

The text of a kernel is compiled twice: as C++ that runs a block's threads in turn on the CPU, which checks the
arithmetic, the indexing and the barriers; and by NVRTC for several GPUs.
"""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from datasentinel import Detector, gpu, libraries
from datasentinel.errors import BackendError, BackendUnavailableError, UnsupportedModelError
from tests.cuda_on_cpu.kernels import CpuKernel, compile_for_cpu, entry_points
from tests.networks import Network, write_artifact

ARCHITECTURES = (80, 90, 100, 120)
SMALL = [8, 6, 3, 6, 8]
MEDIUM = [64, 128, 64, 16, 64, 128, 64]
WIDE = [256, 130, 256]

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler `c++` on the PATH")


NETWORKS = {
    "small": (SMALL, True),
    "odd small": ([7, 5, 7], True),
    "medium": (MEDIUM, False),
    "odd": ([33, 17, 9, 33], False),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[str, tuple[Network, dict[str, CpuKernel]]]:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler `c++` on the PATH")
    networks = [Network.random(dims) for dims, _ in NETWORKS.values()]
    sources = [gpu.cuda_source(n.to_onnx(with_contributions=True), name="m") for n in networks]
    assert [source.in_registers for source in sources] == [flag for _, flag in NETWORKS.values()]
    compiled = compile_for_cpu(sources, tmp_path_factory.mktemp("kernels"))
    return dict(zip(NETWORKS, zip(networks, compiled, strict=True), strict=True))


def rows_for(network: Network, count: int) -> np.ndarray:
    random = np.random.default_rng(4)
    return (network.mean + 2 * network.scale * random.normal(size=(count, network.input_dim))).astype(
        np.float32
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ["few", "bulk"])
def test_the_kernel_computes_what_the_model_says(kernels, name, which):
    network, kernel = kernels[name]
    rows = rows_for(network, 301)
    scores, output = network.reference(rows)
    for count in (1, 33, 301):
        only_scores = kernel[f"{which} scores"](rows[:count], "s")["s"]
        np.testing.assert_allclose(only_scores, scores[:count], rtol=2e-5)
        results = kernel[which](rows[:count])
        np.testing.assert_allclose(results["s"], scores[:count], rtol=2e-5)
        np.testing.assert_allclose(results["o"], output[:count], rtol=2e-5, atol=2e-5)
        expected = network.reference_contributions(rows[:count])
        np.testing.assert_allclose(results["c"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["small", "odd"])
def test_only_what_is_asked_for_is_written(kernels, name):
    network, kernel = kernels[name]
    rows = rows_for(network, 50)
    scores, output = network.reference(rows)
    only_scores = kernel["bulk"](rows, "s")
    np.testing.assert_allclose(only_scores["s"], scores, rtol=2e-5)
    assert np.isnan(only_scores["o"]).all()
    assert np.isnan(only_scores["c"]).all()
    only_output = kernel["bulk"](rows, "o")
    np.testing.assert_allclose(only_output["o"], output, rtol=2e-5, atol=2e-5)
    assert np.isnan(only_output["s"]).all()


def test_a_row_that_overflows_does_not_come_out_as_normal(kernels):
    network, kernel = kernels["small"]
    rows = rows_for(network, 3)
    rows[1] = 3e38
    scores = kernel["bulk"](rows, "s")["s"]
    assert scores[1] > 1e30
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ["few", "bulk"])
def test_the_first_value_that_is_not_finite_is_found(kernels, name, which):
    network, kernel = kernels[name]
    rows = rows_for(network, 77)
    columns = network.input_dim
    place = np.full(1, 2**64 - 1, np.uint64)
    scores = kernel[which](rows, "s", bad=place)["s"]
    assert place[0] == 2**64 - 1
    np.testing.assert_allclose(scores, network.reference(rows)[0], rtol=2e-5)
    for value in (np.nan, np.inf, -np.inf):
        damaged = rows.copy()
        damaged[70, 1] = damaged[33, columns - 1] = value
        place[0] = 2**64 - 1
        kernel[which](damaged, "s", bad=place)
        assert place[0] == 33 * columns + columns - 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ["few", "few scores", "bulk", "bulk scores"])
def test_scores_above_the_highest_normal_one_are_counted(kernels, name, which):
    network, kernel = kernels[name]
    rows = rows_for(network, 301)
    limit = float(np.median(network.reference(rows)[0]))
    results = kernel[which](rows, "s", highest_normal=limit)
    assert results["anomalies"].sum() == (results["s"] > np.float32(limit)).sum() > 100
    # Every warp tells, also one that had no rows.
    assert kernel[which](rows[:1], "s", highest_normal=np.inf)["anomalies"].sum() == 0


@needs_compiler
def test_rows_of_wide_layers_are_spread_over_a_cluster(tmp_path):
    network = Network.random(WIDE)
    source = gpu.cuda_source(network.to_onnx(with_contributions=True), name="m")
    assert source.all["spread"]["blocks"] == source.scores_only["spread"]["blocks"] == 8
    (kernel,) = compile_for_cpu([source], tmp_path)
    rows = rows_for(network, 6)
    scores, output = network.reference(rows)
    for count in (1, 4, 6):
        found = kernel["spread scores"](rows[:count], "s", highest_normal=scores[0] * 0.9999)
        np.testing.assert_allclose(found["s"], scores[:count], rtol=2e-5)
        assert found["anomalies"].sum() == (found["s"] > np.float32(scores[0] * 0.9999)).sum() > 0
    results = kernel["spread"](rows)
    np.testing.assert_allclose(results["s"], scores, rtol=2e-5)
    np.testing.assert_allclose(results["o"], output, rtol=2e-5, atol=2e-5)
    expected = network.reference_contributions(rows)
    np.testing.assert_allclose(results["c"], expected, rtol=1e-3, atol=1e-5)
    place = np.full(1, 2**64 - 1, np.uint64)
    rows[5, 255] = rows[4, 7] = np.nan
    kernel["spread scores"](rows, "s", bad=place)
    assert place[0] == 4 * 256 + 7


def test_narrow_layers_and_lower_precision_are_not_spread():
    assert "spread" not in gpu.cuda_source(Network.random(MEDIUM).to_onnx(), name="m").all
    assert "spread" not in gpu.cuda_source(Network.random(WIDE).to_onnx(), name="m", precision="bf16").all


def activation_model(operator: str, attributes: dict, width: int) -> bytes:
    """score = sum of operator(input), output = operator(input); of 10 and the input where it is Pow."""
    inputs = ["ten", "input"] if operator == "Pow" else ["input"]
    graph = helper.make_graph(
        [
            helper.make_node(operator, inputs, ["output"], name="f", **attributes),
            helper.make_node("ReduceSum", ["output", "axes"], ["score"], name="sum", keepdims=0),
        ],
        "activation",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", width])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width]),
        ],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.array(10, np.float32), "ten"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model.SerializeToString()


ACTIVATIONS = [
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("Elu", {"alpha": 1.3}),
    ("Selu", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Abs", {}),
    ("Sign", {}),
    ("Exp", {}),
    ("Erf", {}),
    ("Pow", {}),
]


@needs_compiler
def test_every_activation_is_onnx_s(tmp_path):
    import onnxruntime

    width = 5
    rows = np.random.default_rng(5).normal(0, 4, (64, width)).astype(np.float32)
    rows[0] = [0, -0.0, 30, -30, 1e-6]
    models = [activation_model(operator, attributes, width) for operator, attributes in ACTIVATIONS]
    compiled = compile_for_cpu([gpu.cuda_source(model, name="m") for model in models], tmp_path)
    for (operator, _), model, kernel in zip(ACTIVATIONS, models, compiled, strict=True):
        results = kernel["bulk"](rows, "so")
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        expected = session.run(["output"], {"input": rows})[0]
        np.testing.assert_allclose(results["o"], expected, rtol=5e-6, atol=2e-6, err_msg=operator)


@needs_compiler
def test_the_default_model_s_graph_runs(tmp_path):
    from datasentinel.export import build_graph
    from datasentinel.training import TrainingSettings, train

    random = np.random.default_rng(6)
    causes = random.normal(size=(200, 3))
    rows = np.column_stack([causes, causes @ random.normal(size=(3, 6))]).astype(np.float32)
    result = train(rows, settings=TrainingSettings(steps=5))
    model = build_graph(result.model)
    source = gpu.cuda_source(model, name="ensemble")
    # All its distances at once would leave room for a few rows only.
    assert source.all["bulk"]["rows"] > source.all["few"]["rows"]
    folder = write_artifact(tmp_path / "model", model, input_dim=9, threshold=1.0)
    reference = Detector.load(folder, backend="onnxruntime")
    (compiled,) = compile_for_cpu([source], tmp_path)
    for name in ("few", "bulk"):
        only_scores = compiled[f"{name} scores"](rows[:150], "s")["s"]
        np.testing.assert_allclose(only_scores, reference.score(rows[:150]), rtol=1e-4, atol=1e-5)
        results = compiled[name](rows[:150])
        np.testing.assert_allclose(results["s"], reference.score(rows[:150]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(results["o"], reference.reconstruct(rows[:150]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(results["c"], reference.contributions(rows[:150]), rtol=1e-3, atol=1e-5)


def test_layers_that_do_not_fit_are_refused():
    onnx_bytes = Network.random([600, 500, 600]).to_onnx()
    with pytest.raises(UnsupportedModelError, match="too wide: 4 rows need"):
        gpu.cuda_source(onnx_bytes, name="m", shared_bytes=16 << 10)
    with pytest.raises(UnsupportedModelError, match="too wide: 32 rows need"):
        gpu.cuda_source(onnx_bytes, name="m", shared_bytes=48 << 10, precision="bf16")
    few_at_a_time = gpu.cuda_source(onnx_bytes, name="m", shared_bytes=48 << 10)
    assert few_at_a_time.all["bulk"] == few_at_a_time.all["few"]


def test_more_shared_memory_takes_more_rows():
    onnx_bytes = Network.random(MEDIUM).to_onnx()
    rows = [
        gpu.cuda_source(onnx_bytes, name="m", shared_bytes=size << 10).all["bulk"]["rows"]
        for size in (64, 227)
    ]
    assert rows[0] < rows[1] <= 128


def test_an_operator_that_cannot_be_lowered_is_named():
    model = onnx.load_model_from_string(Network.random([5, 2, 5]).to_onnx())
    model.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedModelError, match="NoSuchOperator"):
        gpu.cuda_source(model.SerializeToString(), name="m")


# ------------------------------------------------------------------------------------------------- NVRTC


@pytest.fixture
def nvrtc() -> str:
    path, problem = libraries.find_nvrtc()
    if not path:
        pytest.skip(problem)
    return path


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    ("dims", "precision"),
    [
        (SMALL, "float32"),
        (MEDIUM, "float32"),
        (WIDE, "float32"),
        (MEDIUM, "tf32"),
        (MEDIUM, "bf16"),
        (MEDIUM, "fp16"),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_it_for(architecture, dims, precision):
    onnx_bytes = Network.random(dims).to_onnx(with_contributions=True)
    source = gpu.cuda_source(onnx_bytes, name="m", precision=precision)
    cubin = gpu.compile_cuda(source.text, architecture=architecture)
    assert cubin.startswith(b"\x7fELF")
    for kernel in entry_points(source).values():
        # Clusters came with compute capability 9.0.
        assert (str(kernel["name"]).encode() in cubin) == (kernel["blocks"] == 1 or architecture >= 90)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_nvrtc_compiles_products_of_warpgroups_for_9_0(precision):
    onnx_bytes = Network.random(MEDIUM).to_onnx(with_contributions=True)
    source = gpu.cuda_source(onnx_bytes, name="m", precision=precision, shared_bytes=227 << 10, wgmma=True)
    assert gpu.compile_cuda(source.text, architecture="90a").startswith(b"\x7fELF")
    with pytest.raises(BackendError, match="wgmma"):
        gpu.compile_cuda(source.text, architecture=100)


def test_warpgroups_have_no_part_in_what_tensor_cores_do_not_do():
    for dims, precision, shared_bytes in (
        (MEDIUM, "float32", 227),
        (SMALL, "bf16", 227),
        (MEDIUM, "bf16", 64),
    ):
        onnx_bytes = Network.random(dims).to_onnx()
        with pytest.raises(UnsupportedModelError, match="no kernels with wgmma"):
            gpu.cuda_source(
                onnx_bytes, name="m", precision=precision, shared_bytes=shared_bytes << 10, wgmma=True
            )


def code_of(cubin: bytes) -> dict[bytes, bytes]:
    """Return the sections with machine code of an ELF file, by name."""
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<2I4Q", cubin, start + i * size) for i in range(count)]
    strings = headers[names][4]
    sections = {}
    for name, _, _, _, at, length in headers:
        begin = strings + name
        sections[cubin[begin : cubin.index(b"\0", begin)]] = cubin[at : at + length]
    return {name: code for name, code in sections.items() if name.startswith(b".text.")}


@pytest.mark.usefixtures("nvrtc")
def test_nvrtc_s_code_does_not_depend_on_its_threads():
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        pytest.skip("only one core")
    source = gpu.cuda_source(Network.random(NETWORKS["odd"][0]).to_onnx(with_contributions=True), name="m")
    by_many = code_of(gpu.compile_cuda(source.text, architecture=90))
    try:
        os.sched_setaffinity(0, {min(cores)})
        by_one = code_of(gpu.compile_cuda(source.text, architecture=90))
    finally:
        os.sched_setaffinity(0, cores)
    assert set(by_many) == {f".text.{kernel['name']}".encode() for kernel in entry_points(source).values()}
    assert by_many == by_one


@pytest.mark.usefixtures("nvrtc")
def test_nvrtc_s_words_reach_the_user():
    with pytest.raises(BackendError, match="nonsense") as caught:
        gpu.compile_cuda("int nonsense(", architecture=90)
    assert "error" in caught.value.vendor_text


def test_without_nvrtc_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv(libraries.NVRTC_LIBRARY_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(BackendUnavailableError, match="which is not a file"):
        gpu.compile_cuda("", architecture=90)
    (tmp_path / "fake.so").write_text("no library")
    monkeypatch.setenv(libraries.NVRTC_LIBRARY_VARIABLE, str(tmp_path / "fake.so"))
    with pytest.raises(BackendUnavailableError, match="cannot open"):
        gpu.compile_cuda("", architecture=90)

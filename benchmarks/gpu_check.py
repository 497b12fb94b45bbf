"""Everything that needs a GPU, in one go: build, tests, parity, benchmark; one JSON file.

    python benchmarks/gpu_check.py --out gpu.json [--build] [--seconds 0.5]

What cannot run reads "not run" with its reason; nothing is guessed. Without a GPU it says so and exits with
3; with failing tests or wrong scores it exits with 1, after writing what it has.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

NO_GPU = 3
# Backend and its IO binding.
BACKENDS = {
    "fused-cuda": ("fused-cuda", "auto"),
    "tensorrt": ("tensorrt", "auto"),
    "onnxruntime-cuda": ("onnxruntime-cuda", "auto"),
    "onnxruntime-cuda, no IO binding": ("onnxruntime-cuda", "off"),
    "onnxruntime-cuda, CUDA graphs": ("onnxruntime-cuda", "cuda-graphs"),
    "onnxruntime-tensorrt": ("onnxruntime-tensorrt", "auto"),
    "fused": ("fused", "auto"),
    "onnxruntime": ("onnxruntime", "auto"),
}
BATCHES = (1, 8, 64, 512, 4096, 32_768, 262_144, 1_048_576)
# Scores on any backend against the float64 reference.
TOLERANCE = 1e-4
MAX_INPUT_BYTES = 1 << 30


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--build", action="store_true", help="build and install the extension first")
    parser.add_argument("--seconds", type=float, default=0.5, help="measuring time of one case")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium", "large"])
    return parser.parse_args(arguments)


def find_gpu() -> tuple[str, str]:
    """Name of the first GPU and its driver, as nvidia-smi tells them; or an empty name and the reason."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return "", "nvidia-smi is not installed, so there is no NVIDIA driver"
    except (subprocess.SubprocessError, OSError) as error:
        return "", f"nvidia-smi failed: {error}"
    lines = done.stdout.strip().splitlines()
    return (lines[0], "") if lines else ("", "nvidia-smi lists no GPU")


def run(command: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    return {
        "command": command,
        "exit_code": done.returncode,
        "seconds": time.perf_counter() - started,
        "tail": text[-4000:],
    }


def timed(call: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Call for about `seconds` after a warm-up; times in microseconds."""
    for _ in range(3):
        call()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 5 or (time.perf_counter() < end and len(samples) < 20_000):
        started = time.perf_counter()
        call()
        samples.append(1e6 * (time.perf_counter() - started))
    return {
        "calls": len(samples),
        "p50_us": float(np.percentile(samples, 50)),
        "p99_us": float(np.percentile(samples, 99)),
        "min_us": min(samples),
    }


def not_run(reason: object) -> dict[str, str]:
    return {"not run": str(reason)}


def measure_backends(subject: Any, rows: np.ndarray, seconds: float) -> dict[str, Any]:
    """Host to host, through the Python API."""
    from datasentinel import Detector
    from datasentinel.backend import backends
    from datasentinel.errors import DataSentinelError
    from datasentinel.gpu import EngineOptions

    states = {status.name: status for status in backends()}
    reference = subject.reference(rows[:1000])
    result: dict[str, Any] = {}
    for name, (backend, io_binding) in BACKENDS.items():
        if states[backend].availability != "available":
            result[name] = not_run(f"{states[backend].availability}: {states[backend].detail}")
            continue
        try:
            detector = Detector(
                subject.artifact, backend=backend, engine=EngineOptions(io_binding=io_binding)
            )
            error = float((np.abs(detector.score(rows[:1000]) - reference) / np.abs(reference)).max())
            cases: dict[str, Any] = {}
            for batch in (batch for batch in BATCHES if batch <= len(rows)):
                out = np.empty(batch, np.float32)
                part = rows[:batch]
                cases[str(batch)] = timed(lambda part=part, out=out, d=detector: d.score(part, out), seconds)
            result[name] = {"facts": detector.info()["facts"], "relative_error": error, "host_to_host": cases}
        except DataSentinelError as problem:
            result[name] = not_run(problem)
    return result


def torch_models(size: str) -> dict[str, Callable[[Any], Any]] | str:
    """The same network in torch on the GPU, or why not."""
    try:
        import torch  # noqa: TID251
    except ImportError as error:
        return str(error)
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} has no CUDA here"
    from benchmarks.models import SIZES, Autoencoder

    network = Autoencoder.random(SIZES[size])
    mean, scale = (torch.from_numpy(value).cuda() for value in (network.mean, network.scale))
    layers = [
        (torch.from_numpy(weight).cuda(), torch.from_numpy(bias).cuda())
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]

    def score(x: Any) -> Any:
        z = (x - mean) / scale
        h = z
        for index, (weight, bias) in enumerate(layers):
            h = torch.addmm(bias, torch.relu(h) if index else h, weight)
        return ((z - h) ** 2).mean(dim=1)

    return {
        "torch eager": score,
        "torch.compile": torch.compile(score, dynamic=False, fullgraph=True),
        "torch.compile, CUDA graphs": torch.compile(
            score, dynamic=False, fullgraph=True, mode="reduce-overhead"
        ),
    }


def measure_torch(size: str, rows: np.ndarray, seconds: float) -> dict[str, Any]:
    """With host copies (page-locked on both ways) and without."""
    models = torch_models(size)
    if isinstance(models, str):
        return {"torch": not_run(models)}
    import torch  # noqa: TID251

    result: dict[str, Any] = {}
    for name, model in models.items():
        cases: dict[str, Any] = {"host_to_host": {}, "on_device": {}}
        try:
            for batch in (batch for batch in BATCHES if batch <= len(rows)):
                torch.compiler.reset()
                host = torch.from_numpy(rows[:batch]).pin_memory()
                device = host.cuda()

                def on_device(model: Any = model, x: Any = device) -> None:
                    with torch.inference_mode():
                        model(x)
                    torch.cuda.synchronize()

                def both_ways(model: Any = model, x: Any = host) -> Any:
                    with torch.inference_mode():
                        return model(x.cuda(non_blocking=True)).cpu()

                cases["on_device"][str(batch)] = timed(on_device, seconds)
                cases["host_to_host"][str(batch)] = timed(both_ways, seconds)
            result[name] = cases
        except Exception as error:
            result[name] = cases | not_run(f"{type(error).__name__}: {error}")
    return result


def measure_bus(seconds: float) -> dict[str, Any]:
    """Bandwidth of page-locked copies, the roof of host-to-host scoring, in 1e9 bytes/s."""
    try:
        import torch  # noqa: TID251
    except ImportError as error:
        return not_run(error)
    if not torch.cuda.is_available():
        return not_run(f"torch {torch.__version__} has no CUDA here")
    count = 64 << 20
    host = torch.empty(count, dtype=torch.float32).pin_memory()
    device = host.cuda()

    def copy(target: Any, source: Any) -> float:
        def call() -> None:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()

        return 4e-3 * count / timed(call, seconds)["p50_us"]

    return {"host_to_device_gb_s": copy(device, host), "device_to_host_gb_s": copy(host, device)}


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    gpu, reason = find_gpu()
    if not gpu:
        print(f"gpu_check: no GPU on this machine: {reason}; nothing was run", file=sys.stderr)
        return NO_GPU
    report: dict[str, Any] = {"gpu": gpu, "machine": platform.platform(), "python": platform.python_version()}
    if options.build:
        report["build"] = run([sys.executable, "-m", "pip", "install", "--quiet", "-e", str(ROOT)])
    report["gpu tests"] = run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"])

    from benchmarks.models import SIZES, random_rows, subject
    from datasentinel.backend import backends, build_info

    report["build info"] = build_info()
    report["backends"] = {
        s.name: {"state": s.availability, "version": s.version, "detail": s.detail} for s in backends()
    }
    report["bus"] = measure_bus(options.seconds)
    report["jax"] = not_run("there is no JAX contender")
    report["on_device"] = not_run("datasentinel takes host rows only")
    report["models"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            width = SIZES[size][0]
            rows = random_rows(min(BATCHES[-1], MAX_INPUT_BYTES // (4 * width)), width, seed=1)
            report["models"][size] = measure_backends(subject(size, Path(folder)), rows, options.seconds)
            report["models"][size] |= measure_torch(size, rows, options.seconds)
            options.out.write_text(json.dumps(report, indent=1))
    wrong = [
        f"{size} on {name}"
        for size, results in report["models"].items()
        for name, result in results.items()
        if not result.get("relative_error", 0.0) <= TOLERANCE
    ]
    report["wrong"] = wrong
    options.out.write_text(json.dumps(report, indent=1))
    failed = (
        bool(wrong)
        or report["gpu tests"]["exit_code"] != 0
        or report.get("build", {}).get("exit_code", 0) != 0
    )
    print(f"gpu_check: {'FAILED' if failed else 'passed'}; {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

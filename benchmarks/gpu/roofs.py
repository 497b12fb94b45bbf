"""What the machine can do at most, by torch: the bus, the device's memory, its arithmetic, a launch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.torch_contenders import import_torch, matmul_precision

if TYPE_CHECKING:
    from collections.abc import Callable

# Name, unit, what it is.
ROOFS = (
    ("host_to_device_gb_s", "GB/s", "page-locked host memory to the device"),
    ("device_to_host_gb_s", "GB/s", "the device to page-locked host memory"),
    ("device_memory_gb_s", "GB/s", "device memory, a copy, bytes read and written"),
    ("float32_tflop_s", "TFLOP/s", "matrix product in float32, without tensor cores"),
    ("tf32_tflop_s", "TFLOP/s", "matrix product in tf32"),
    ("bf16_tflop_s", "TFLOP/s", "matrix product in bf16"),
    ("fp16_tflop_s", "TFLOP/s", "matrix product in fp16"),
    ("launch_us", "µs", "launching an empty kernel and waiting for it"),
)


@dataclass(frozen=True)
class Extent:
    """How large the probes are."""

    bus_bytes: int = 256 << 20
    memory_bytes: int = 2 << 30
    matrix: int = 8192


REHEARSAL = Extent(bus_bytes=1 << 20, memory_bytes=1 << 20, matrix=128)


def best_s(
    work: Callable[[], object],
    synchronize: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest time of one piece of work, taken in groups of five that are waited for together."""
    work()
    synchronize()
    shortest = float("inf")
    end = clock() + seconds
    while True:
        started = clock()
        for _ in range(5):
            work()
        synchronize()
        finished = clock()
        shortest = min(shortest, (finished - started) / 5)
        if finished >= end:
            return shortest


def measure_roofs(device: str, seconds: float, emit: Callable[[str, Any], None]) -> None:
    """Measure each of `ROOFS` for about `seconds`, and hand it to `emit` by name.

    What fails is handed over as {"not run": reason}.
    """
    torch = import_torch(device)
    extent = Extent() if device == "cuda" else REHEARSAL
    probes = _probes(torch, device, extent)
    for name, _, _ in ROOFS:
        try:
            emit(name, probes[name](seconds))
        except Exception as error:
            emit(name, {"not run": f"{type(error).__name__}: {error}"})


def _probes(torch: Any, device: str, extent: Extent) -> dict[str, Callable[[float], float]]:
    on_gpu = device == "cuda"
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None

    def bus(*, inwards: bool) -> Callable[[float], float]:
        def measure(seconds: float) -> float:
            count = extent.bus_bytes // 4
            host = torch.ones(count, pin_memory=on_gpu)
            there = torch.ones(count, device=device)
            target, source = (there, host) if inwards else (host, there)
            took_s = best_s(lambda: target.copy_(source, non_blocking=True), synchronize, seconds)
            return 1e-9 * extent.bus_bytes / took_s

        return measure

    def memory(seconds: float) -> float:
        source = torch.ones(extent.memory_bytes // 4, device=device)
        target = torch.empty_like(source)
        took_s = best_s(lambda: target.copy_(source), synchronize, seconds)
        return 1e-9 * 2 * extent.memory_bytes / took_s

    def product(precision: str) -> Callable[[float], float]:
        def measure(seconds: float) -> float:
            kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
            size = extent.matrix
            a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
            out = torch.empty(size, size, device=device, dtype=kind)
            with matmul_precision(torch, precision):
                took_s = best_s(lambda: torch.mm(a, b, out=out), synchronize, seconds)
            return 1e-12 * 2 * size**3 / took_s

        return measure

    def launch(seconds: float) -> float:
        cell = torch.zeros(1, device=device)
        # Spinning for no cycles: an empty kernel. Torch has no public one.
        empty = getattr(torch.cuda, "_sleep", None) if on_gpu else None
        work = (lambda: empty(0)) if empty is not None else cell.zero_

        def call() -> None:
            work()
            synchronize()

        return 1e6 * best_s(call, synchronize, seconds)

    return {
        "host_to_device_gb_s": bus(inwards=True),
        "device_to_host_gb_s": bus(inwards=False),
        "device_memory_gb_s": memory,
        **{f"{precision}_tflop_s": product(precision) for precision in ("float32", "tf32", "bf16", "fp16")},
        "launch_us": launch,
    }

"""The simulated driver by ctypes: a library beside ours in the process, that has memory and streams too."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataSentinelError

if TYPE_CHECKING:
    from collections.abc import Iterator

LEGACY_STREAM = 1
OUT_OF_MEMORY = 2


class CudaError(Exception):
    """A call gave an error; `code` is CUDA's number."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function}: {code}")
        self.code = code


class Cuda:
    """The driver, with its context made current in the calling thread."""

    def __init__(self) -> None:
        self.open()
        context = ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self("cuCtxSetCurrent", context)

    def open(self) -> None:
        """Find the library, and call nothing of it yet."""
        self._library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, function: str, *arguments) -> None:
        code = self._library[function](*arguments)
        if code != 0:
            raise CudaError(function, code)

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        self("cuMemFree_v2", ctypes.c_uint64(address))

    def stream(self, *, blocking: bool = True) -> int:
        stream = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(stream), 0 if blocking else 1)
        return stream.value

    def upload_later(self, values: np.ndarray, address: int, stream: int) -> None:
        """Copy on a stream; `values` must live until that is done."""
        self(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(stream),
        )

    def upload(self, values: np.ndarray) -> int:
        """Give new device memory with the values."""
        address = self.allocate(max(values.nbytes, 4))
        self.upload_later(values, address, LEGACY_STREAM)
        self.wait(LEGACY_STREAM)
        return address

    def download(self, address: int, count: int) -> np.ndarray:
        values = np.empty(count, np.float32)
        self(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(LEGACY_STREAM),
        )
        self.wait(LEGACY_STREAM)
        return values

    def wait(self, stream: int) -> None:
        self("cuStreamSynchronize", ctypes.c_void_p(stream))

    @contextmanager
    def page_locked(self, values: np.ndarray) -> Iterator[None]:
        """Lock the memory of others."""
        pointer = ctypes.c_void_p(values.ctypes.data)
        self("cuMemHostRegister_v2", pointer, ctypes.c_size_t(values.nbytes), 0)
        try:
            yield
        finally:
            self("cuMemHostUnregister", pointer)

    def take_all_memory(self) -> list[int]:
        """Allocate until nothing is left."""
        taken = []
        size = 1 << 32
        while size >= 1:
            try:
                taken.append(self.allocate(size))
            except CudaError as error:
                if error.code != OUT_OF_MEMORY:
                    raise
                size //= 2
        return taken

    # ------------------------------------------------------- What only the simulated device has.

    def fail(self, plan: str) -> None:
        self._library.cuda_on_cpu_fail(plan.encode())

    def calls(self, function: str = "*") -> int:
        self._library.cuda_on_cpu_calls.restype = ctypes.c_long
        return self._library.cuda_on_cpu_calls(function.encode())

    def leaks(self) -> list[str]:
        text = ctypes.create_string_buffer(1 << 16)
        self._library.cuda_on_cpu_leaks(text, ctypes.c_size_t(len(text)))
        return text.value.decode().splitlines()


def error_of(function, *arguments) -> DataSentinelError | None:
    """Call, and give the typed error; any other passes through."""
    try:
        function(*arguments)
    except DataSentinelError as error:
        return error.with_traceback(None)
    return None

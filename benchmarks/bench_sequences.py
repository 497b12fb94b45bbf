"""Autoencoders over windows, as torch exports them: `python -m benchmarks.bench_sequences`.

Measures the reconstructions of `fused` beside those of ONNX Runtime, on one thread each, called from Python
by turns, and prints the best calls and the largest differences to torch's float64.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from functools import partial

import numpy as np
import onnxruntime
import torch  # noqa: TID251
from torch import nn  # noqa: TID251

from datasentinel.extension import native

STEPS, CHANNELS, HIDDEN = 32, 8, 32
COLUMNS = STEPS * CHANNELS


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(CHANNELS, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv1d(32, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.ConvTranspose1d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose1d(32, CHANNELS, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (
            self.layers(rows.view(-1, STEPS, CHANNELS).transpose(1, 2)).transpose(1, 2).reshape(-1, COLUMNS)
        )


class Recurrent(nn.Module):
    """The decoder reads the encoder's last state at every step."""

    def __init__(self, cell: type[nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.encoder = cell(CHANNELS, HIDDEN, batch_first=True)
        self.decoder = cell(HIDDEN, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        code = self.encoder(rows.view(-1, STEPS, CHANNELS))[0][:, -1]
        decoded = self.decoder(code.unsqueeze(1).repeat(1, STEPS, 1))[0]
        return self.linear(decoded).reshape(-1, COLUMNS)


def exported(module: nn.Module) -> bytes:
    """Return the module as ONNX."""
    file = io.BytesIO()
    names = ["input", "output"]
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module.eval(), (torch.zeros(3, COLUMNS),), file, input_names=names[:1], output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names}, opset_version=18, dynamo=False,
        )  # fmt: skip
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", default="1,64,1024", help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=60, help="by turns; default: %(default)s")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    modules = {"convolutions": Convolutions(), "GRU": Recurrent(nn.GRU), "LSTM": Recurrent(nn.LSTM)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    features = [f"x{i}" for i in range(COLUMNS)]
    for name, module in modules.items():
        model = exported(module)
        scorer = native.Registry({}).load(
            model,
            name="model.onnx",
            backend="fused",
            threshold=0.0,
            feature_names=features,
            num_threads=1,
            precision="float32",
        )
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for count in map(int, arguments.batches.split(",")):
            rows = np.random.default_rng(0).normal(size=(count, COLUMNS)).astype(np.float32)
            calls = {
                "fused": partial(scorer.reconstruct, rows),
                "onnxruntime": lambda rows=rows, session=session: session.run(None, {"input": rows})[0],
            }
            with torch.no_grad():
                exact = module.double()(torch.from_numpy(rows.astype(np.float64))).numpy()
            best_us = dict.fromkeys(calls, np.inf)
            for _ in range(arguments.calls):
                for contender, call in calls.items():
                    for _ in range(3):
                        start = time.perf_counter()
                        call()
                        best_us[contender] = min(best_us[contender], 1e6 * (time.perf_counter() - start))
            for contender, call in calls.items():
                print(
                    f"{name:<12} {count:>5} rows  {best_us[contender]:>10.1f} us"
                    f"  {best_us[contender] / best_us['fused']:>5.1f} x"
                    f"  error {np.abs(call() - exact).max():.1e}  {contender}"
                )


if __name__ == "__main__":
    main()

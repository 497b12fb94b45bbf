"""Rows a second over Arrow Flight beside the same function in this process, binary HTTP and gRPC.

    python -m benchmarks.bench_flight [--rounds 7] [--columns 8] [--model models/]

Each round times, one after the other: `RecordBatchScorer` in this process; a server's Flight port; its HTTP
port with the same rows as a binary tensor; its gRPC port likewise. What counts is the CPU that the server's
process took (and this process, for the first): a client has a core of its own. Medians of rounds. Without
`--model`, it is a network so small that hardly anything but the way is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import grpc
import numpy as np
import pyarrow as pa
from geventhttpclient import HTTPClient
from pyarrow import flight

from benchmarks.served import cpu_s
from datasentinel.artifact import load_artifact
from datasentinel.detector import Detector
from datasentinel.oip import grpc_predict_v2_pb2 as oip
from datasentinel.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from datasentinel.record_batches import RecordBatchScorer
from datasentinel.scoring import ScoringRequest
from tests.integration.server_process import serving
from tests.networks import Network, write_artifact

ROWS = 65_536


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_process(scorer, batch, batches):
    begun = own_cpu_s()
    for _ in range(batches):
        scorer.score(batch)
    return own_cpu_s() - begun


def over_flight(client, batch, batches):
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"{}"))
    with writer:
        writer.begin(batch.schema)
        for _ in range(batches):
            writer.write_batch(batch)
            seen = 0
            while seen < batch.num_rows:
                seen += reader.read_chunk().data.num_rows
        writer.done_writing()


def over_http(client, name, body, header, batches):
    headers = {"Inference-Header-Content-Length": str(header), "Content-Type": "application/octet-stream"}
    for _ in range(batches):
        reply = client.post(f"/v2/models/{name}/infer", body=body, headers=headers)
        assert reply.status_code == 200, reply.read()
        reply.read()


def over_grpc(stub, request, batches):
    for _ in range(batches):
        stub.ModelInfer(request)


def binary_request(rows):
    tensor = {"name": "input", "shape": list(rows.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + rows.tobytes(), len(head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batches", type=int, default=16)
    options = parser.parse_args()
    width = options.columns
    names = [f"f{i}" for i in range(width)]
    if options.model is not None:
        names = list(load_artifact(options.model).config.feature_names)
        width = len(names)
    rows = np.random.default_rng(0).normal(0, 1, (ROWS, width)).astype(np.float32)
    batch = pa.record_batch({name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(names)})
    network = Network.random([width, 6, 3, 6, width])
    with tempfile.TemporaryDirectory() as folder:
        small = write_artifact(Path(folder) / "models", network.to_onnx(), input_dim=width, threshold=5.0)
        model = options.model or small
        scorer = RecordBatchScorer(
            Detector.load(model, backend="fused"), batch.schema, ScoringRequest(), with_rows=True
        )
        flags = (
            "--flight-port",
            "0",
            "--no-tcp",
            "--backend",
            "fused",
            "--grpc-max-message-bytes",
            str(1 << 28),
        )
        flags += ("--http-max-body-bytes", str(1 << 28), "--queue-rows", str(1 << 20))
        with serving(model, Path(folder) / "log", *flags) as server:
            client = flight.connect(f"grpc://127.0.0.1:{server.ports['flight']}")
            http = HTTPClient("127.0.0.1", server.http_port, network_timeout=60, connection_timeout=60)
            channel = grpc.insecure_channel(
                f"127.0.0.1:{server.grpc_port}",
                options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
            )
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            tensor = oip.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=rows.shape)
            name = load_artifact(model).config.name
            request = oip.ModelInferRequest(model_name=name, inputs=[tensor])
            request.raw_input_contents.append(rows.tobytes())
            body, header = binary_request(rows)
            ways = {
                "flight": lambda: over_flight(client, batch, options.batches),
                "binary HTTP": lambda: over_http(http, name, body, header, options.batches),
                "gRPC": lambda: over_grpc(stub, request, options.batches),
            }
            pid = server.process.pid
            told: dict[str, list[tuple[float, float]]] = {}
            for number in range(options.rounds + 1):
                begun = perf_counter()
                cpu = in_process(scorer, batch, options.batches)
                seen = {"in process": (cpu, perf_counter() - begun)}
                for way, ask in ways.items():
                    begun, before = perf_counter(), cpu_s(pid)
                    ask()
                    seen[way] = (cpu_s(pid) - before, perf_counter() - begun)
                if number:  # The first is a warm-up.
                    for way, times in seen.items():
                        told.setdefault(way, []).append(times)
            base = told["in process"]
            for way, times in told.items():
                cpu = statistics.median(used for used, _ in times)
                wall = statistics.median(elapsed for _, elapsed in times)
                share = statistics.median(b[0] / t[0] for b, t in zip(base, times, strict=True))
                print(
                    f"{way:12} {ROWS * options.batches / cpu / 1e6:7.1f} M rows a CPU second, "
                    f"{ROWS * options.batches / wall / 1e6:7.1f} M rows/s, {share:6.1%} of in process"
                )
            client.close()
            channel.close()


if __name__ == "__main__":
    main()

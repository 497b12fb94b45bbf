"""What one writes without datasentinel: nats-py, NumPy and ONNX Runtime, a batch at a time.

python -m benchmarks.plain_consumer MODEL.onnx THRESHOLD PORT ROWS
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
import numpy as np
import onnxruntime
from nats.js.api import ConsumerConfig

BATCH = 1024


async def consume(session, threshold, jetstream, subscription, rows):
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=1)
        except TimeoutError:
            continue
        values = np.array([json.loads(message.data) for message in messages], np.float32)
        (scores,) = session.run(["score"], {"input": values.reshape(len(messages) * rows, -1)})
        told = scores.reshape(len(messages), rows).tolist()
        confirmations = []
        for message, one in zip(messages, told, strict=True):
            sequence = message.metadata.sequence.stream
            result = {"id": sequence, "score": one, "anomaly": [score > threshold for score in one]}
            headers = {"Nats-Msg-Id": f"plain/{sequence}"}
            confirmations.append(
                await jetstream.publish_async("out", json.dumps(result).encode(), headers=headers)
            )
        await asyncio.gather(*confirmations)
        for message in messages:
            await message.ack()


async def main():
    model, threshold, port, rows = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    jetstream = client.jetstream()
    subscription = await jetstream.pull_subscribe(
        "in", durable="plain", config=ConsumerConfig(max_ack_pending=4 * BATCH)
    )
    print("ready", flush=True)
    await consume(session, threshold, jetstream, subscription, rows)


if __name__ == "__main__":
    asyncio.run(main())

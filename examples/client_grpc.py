"""Send two rows over gRPC and print each decision with its score and reasons.

python client_grpc.py [HOST:PORT]     needs datasentinel[grpc]; another language needs only inference.proto
"""

import sys

import grpc

from datasentinel.v1 import inference_pb2, inference_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:9001"
with grpc.insecure_channel(address) as channel:
    service = inference_pb2_grpc.InferenceServiceStub(channel)
    for row in ([1950, 4.25, 55.0, 1.65], [1950, 4.25, 55.0, 3.20]):
        reply = service.Evaluate(inference_pb2.EvaluateRequest(values=row, explain_top=1), timeout=10)
        if reply.status == inference_pb2.ERROR:
            sys.exit(reply.message)
        decision = inference_pb2.Status.Name(reply.status)
        reason = reply.contributions[0]
        because = f"{reason.feature}={reason.value:.3g} (expected {reason.expected:.3g})"
        print(f"{decision} score {reply.mse:.3g}: {because}")

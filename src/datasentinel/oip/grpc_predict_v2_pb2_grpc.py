"""A client's stub of `inference.GRPCInferenceService`, on a channel of grpcio."""

from datasentinel.messages import make_stub

GRPCInferenceServiceStub = make_stub("inference.GRPCInferenceService")

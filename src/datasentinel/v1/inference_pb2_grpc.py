"""A client's stub of `datasentinel.v1.InferenceService`, on a channel of grpcio."""

from datasentinel.messages import make_stub

InferenceServiceStub = make_stub("datasentinel.v1.InferenceService")

"""The gRPC services, without a gRPC library: messages in, messages out, from one table of methods.

Whatever carries the calls (grpcio, or the native sessions that leave all but the hot methods to Python) looks
a method up by its path in the table that `methods.make_methods` makes.
"""

"""The gRPC services as far as Python answers them: messages in, messages out, from one table of methods.

Requests for scores are answered in C++. The transport looks up every other method by its path in the table
that `methods.make_methods` makes.
"""

"""The routes that HTTP clients can ask for, without a socket or a parser: a request in, a response out."""

"""Sockets and what every connection needs, whatever it speaks: turns, limits, TLS, compressed bodies."""

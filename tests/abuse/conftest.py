"""Fixtures around a real server process that is treated badly."""

from tests.integration.conftest import artifact, detector, network, rows, start_server

__all__ = ["artifact", "detector", "network", "rows", "start_server"]

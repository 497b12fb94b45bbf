"""Tests that run in a process with the simulated device; `test_simulated_device.py` starts it."""

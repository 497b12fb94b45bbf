"""What `benchmarks/gpu_check.py` is made of; `python benchmarks/gpu_check.py --help` says what it does."""

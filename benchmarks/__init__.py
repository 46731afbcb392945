"""One command per published figure; run them as `python -m benchmarks.<name> --json FILE`."""

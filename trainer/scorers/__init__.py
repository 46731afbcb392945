"""Detectors: what an answer is, each with a name and a version that stand on the report."""

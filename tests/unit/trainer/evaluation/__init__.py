"""Sets, detectors, statistics and reports of evaluation."""

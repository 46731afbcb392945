"""Writing, as one transaction and under repetition, on a real server."""

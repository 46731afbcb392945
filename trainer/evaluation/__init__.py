"""Base, incumbent and candidate on the same held-out prompts: sets, asking, grading, report.

Not called ``evaluate``: that is the name of a library.
"""

"""``sentinel doctor``: every part that the service needs, looked at once; one file for each kind of part.

Each check is a small function whose dependencies are its parameters, and which returns `report.Finding` objects.
`report` and `installation` import nothing but the standard library and the error tree, so that a missing package
is named instead of ending the program.
"""

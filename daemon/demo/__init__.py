"""The demonstration: everything on this machine, real traffic, and a report of what was found."""

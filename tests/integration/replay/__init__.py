"""``sentinel replay`` as a process of its own."""

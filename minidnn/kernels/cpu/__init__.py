"""Faster siblings of the kernels, for NumPy arrays. Each is checked against the plain one, then timed."""

"""Faster siblings of the kernels, for CuPy arrays: the names and signatures of those for NumPy's."""

"""Weights in files: our own HDF5 format, written whole or not at all, read as if by a stranger."""

"""Keras's files, from their bytes (files, config, arrays) to a net (layers, assembly, build)."""

from weights_tools.readers.keras.files import read

__all__ = ["read"]

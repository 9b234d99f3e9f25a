"""Weights in files: our own HDF5 format, written whole or not at all, read as if by a stranger.

Format 1.0, in which every JSON text is a dataset of bytes, and attributes of the file say what it is:

    /meta/architecture     the layers by their classes, who reads whom, which array is whose, other names
    /meta/tensors          every array with its dtype, shape and sha256
    /meta/preprocessing    from pixels to what the net sees; /meta/mean_image if that takes a picture
    /meta/classes          the names of the answers
    /meta/provenance       where the weights come from, and what was done to them
    /params/conv1_1/w      the arrays, '<f4' or '<f2', each in one piece and as the engine wants it

So nothing is packed, nothing is code, and the numbers can be used where they lie.
"""

from minidnn.weights.guarded import Guarded
from minidnn.weights.inspection import Report, describe, verify
from minidnn.weights.reading import Weights, load
from minidnn.weights.stored import StoredNet, digest
from minidnn.weights.writing import save

__all__ = ["Guarded", "Report", "StoredNet", "Weights", "describe", "digest", "load", "save", "verify"]

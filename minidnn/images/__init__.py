"""Pictures: from files to arrays (N, H, W, C) of 0..255 and back, and into what a net wants to see.

Channels are red, green, blue, as Pillow gives them; only a `Preprocess` ever changes their order.
"""

from minidnn.images.files import FILTERS, MAX_PIXELS, READABLE, WRITABLE, load, note_in, resize, save
from minidnn.images.grey import fold_grey
from minidnn.images.landscape import clouds_over_hills
from minidnn.images.preprocess import LUMA, PRESETS, VGG, Preprocess

__all__ = [
    "FILTERS",
    "LUMA",
    "MAX_PIXELS",
    "PRESETS",
    "READABLE",
    "VGG",
    "WRITABLE",
    "Preprocess",
    "clouds_over_hills",
    "fold_grey",
    "load",
    "note_in",
    "resize",
    "save",
]

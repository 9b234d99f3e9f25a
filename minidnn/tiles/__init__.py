"""A large picture through a net, tile by tile, with the numbers that the whole would have given.

A place of a map sees a window of the map before it. So going back through the net, from the places of a tile
to the pixels, says for every layer which part of its map is needed: that is the halo. Each place of a target
belongs to just one tile, and where the halos of tiles overlap, gradients of pixels add up.
"""

from minidnn.tiles.geometry import check_local, size_of
from minidnn.tiles.tiling import Measure, Part, Ticking, Tiling, tiled_gradient

__all__ = ["Measure", "Part", "Ticking", "Tiling", "check_local", "size_of", "tiled_gradient"]

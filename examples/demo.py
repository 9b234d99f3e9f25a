"""The three verbs, one step of a dream, and what each layer said: the demo of the engine.

    python examples/demo.py [folder for the picture]

A net is run up to a layer, a derivative is put there, and it is sent back to the pixels. Adding a little of
what arrives makes the layer respond more: that is one step of a dream, and all of its mathematics.
"""

import sys
from pathlib import Path

import numpy as np

from minidnn import images
from minidnn.zoo.gabor import gabor

LAYER = "relu2"
STEP = 1.0  # the mean change of a pixel

net = gabor()
image = images.clouds_over_hills() - 128  # colours around 0, as this net wants them

# An empty run: one slot for each layer, to be filled.
res = net.init_res()

# Forward, up to the layer and no further.
x = net.forwardto(res, LAYER, image)
print(f"{LAYER} says {x.shape}: {np.count_nonzero(x) / x.size:.0%} of it is above 0")

# What shall grow: z = sum of x². Its derivative by x is 2x, and that is the seed.
z, seed = float((x**2).sum()), 2 * x

# Back from the layer to the pixels. No weight gradient is made: the image is what changes here.
dzdx = net.backwardfrom(res, {LAYER: seed})
print(f"the pixels' share in it is {dzdx.shape}, as the image")

# Is it the gradient? A small step along it must change z by step * |dz/dx|².
small = 1e-6 * dzdx
change = float((net.forwardto(net.init_res(), LAYER, image + small) ** 2).sum()) - z
print(f"z changes by {change / float((small * dzdx).sum()):.2f} times what the gradient promises")

# One step of the dream.
dreamed = image + STEP * dzdx / np.abs(dzdx).mean()
after = float((net.forwardto(res, LAYER, dreamed) ** 2).sum())
print(f"one step makes z {after / z:.2f} times as large")

# Everything in between is in the slots, by name or by number.
for number, name in enumerate(net.names):
    slot = res[number]
    print(f"{number} {name:6} {slot.shape!s:20} mean {slot.x.mean():8.2f}  {slot.nbytes / 1e6:5.1f} MB")

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
images.save(folder / "demo.png", np.clip(dreamed + 128, 0, 255))
print("wrote demo.png")

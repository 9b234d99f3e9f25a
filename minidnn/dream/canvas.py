"""What a dream changes: numbers that a canvas turns into a picture, and back into them goes the gradient.

On plain pixels every step makes dots; on waves, or on a small net that paints, the same step makes shapes. A
canvas has `paint(numbers) → pixels` and `adjoint(numbers, dz/dpixels) → dz/dnumbers`, and `begin` finds the
numbers of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.layers import Conv, Layer, Sigmoid, Tanh
from minidnn.net import Net

Shape = tuple[int, ...]

# What red, green and blue of photographs have in common, as a root of their covariance: the columns are light
# and two hues (figures of Olah et al. 2017, measured on ImageNet), scaled so that the longest has length 1.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS = COLOURS / np.linalg.norm(COLOURS, axis=0).max()


@dataclass(frozen=True)
class Canvas:
    """Plain pixels: the numbers are the picture."""

    begins_anywhere: ClassVar[bool] = True  # whether there are numbers for every picture

    size: tuple[int, int]

    def begin(self, picture: Array) -> Array:
        return picture

    def paint(self, numbers: Array) -> Array:
        return numbers

    def adjoint(self, numbers: Array, dpixels: Array) -> Array:
        return dpixels

    def settle(self, numbers: Array) -> Array:
        """The numbers of the nearest picture that there is: pixels stay within 0..255."""
        return xp_of(numbers).clip(numbers, 0, 255)


@dataclass(frozen=True)
class Fourier(Canvas):
    """Waves, in the colours of photographs: a step moves all pixels of a wave together (Olah et al. 2017).

        pixels = 255 * sigmoid(C F⁻¹(s * spectrum)),    s = 1 / (4 frequency),    C mixes light and hues

    By s slow waves are the stronger ones, as they are in photographs. The spectrum's real and imaginary parts
    are the numbers, (2, N, H, W//2 + 1, 3): an odd and an even width have the same count.
    """

    def begin(self, picture: Array) -> Array:
        xp = xp_of(picture)
        if picture.shape[3] != 3:
            raise ShapeError(f"Fourier paints red, green and blue, found {picture.shape}; take plain pixels")
        share = xp.clip(picture / 255, 0.02, 0.98)  # no number of waves makes pure black or white
        light = xp.log(share / (1 - share)) @ xp.asarray(np.linalg.inv(COLOURS).T, dtype=picture.dtype)
        spectrum = xp.fft.rfft2(light, axes=(1, 2), norm="ortho") / self._strengths(picture)
        return xp.stack([spectrum.real, spectrum.imag]).astype(picture.dtype)

    def paint(self, numbers: Array) -> Array:
        xp = xp_of(numbers)
        spectrum = (numbers[0] + 1j * numbers[1]) * self._strengths(numbers)
        light = xp.fft.irfft2(spectrum, s=self.size, axes=(1, 2), norm="ortho")
        colour = light @ xp.asarray(COLOURS.T, dtype=light.dtype)
        return (127.5 * (1 + xp.tanh(colour / 2))).astype(numbers.dtype)  # the same sigmoid, without overflow

    def adjoint(self, numbers: Array, dpixels: Array) -> Array:
        xp, share = xp_of(numbers), self.paint(numbers) / 255
        dlight = (dpixels * 255 * share * (1 - share)) @ xp.asarray(COLOURS, dtype=dpixels.dtype)
        spectrum = xp.fft.rfft2(dlight, axes=(1, 2), norm="ortho") * self._strengths(dpixels)
        mirrored = np.full(spectrum.shape[2], 2)  # most waves stand for two, of which rfft2 keeps one
        mirrored[[0, -1] if self.size[1] % 2 == 0 else [0]] = 1
        spectrum = spectrum * xp.asarray(mirrored[:, None])
        return xp.stack([spectrum.real, spectrum.imag]).astype(numbers.dtype)

    def settle(self, numbers: Array) -> Array:
        return numbers

    def _strengths(self, like: Array) -> Array:
        h, w = self.size
        frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
        slowest = 1 / max(h, w)
        return xp_of(like).asarray(0.25 / np.maximum(frequency, slowest)[:, :, None], dtype=like.dtype)


@dataclass(frozen=True)
class CPPN(Canvas):
    """A small net that paints: it is told where a pixel lies and says its colour (Mordvintsev et al. 2018).

        colour(y, x) = net(sines and cosines of y and x along random directions)

    The numbers are its weights, in one row, so the same dream can be painted anew in any size. The larger
    `detail`, the faster the waves that it is told of (Tancik et al. 2020).
    """

    begins_anywhere: ClassVar[bool] = False

    seed: int = 0
    width: int = 32
    depth: int = 4
    detail: float = 6.0

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UsageError(f"CPPN of width {self.width}; give an even number: half are sines, half cosines")

    @cached_property
    def net(self) -> Net:
        rng = np.random.default_rng(self.seed)
        layers: dict[str, Layer] = {}
        for number in range(1, self.depth + 1):
            layers[f"mix{number}"] = Conv.random(rng, 1, self.width, self.width)
            layers[f"bend{number}"] = Tanh()
        return Net.chain(layers | {"colour": Conv.random(rng, 1, self.width, 3), "share": Sigmoid()})

    @cached_property
    def places(self) -> np.ndarray:
        """What the net is told of each pixel, (1, H, W, width)."""
        y, x = np.meshgrid(*(np.linspace(-1, 1, pixels) for pixels in self.size), indexing="ij")
        rng = np.random.default_rng(self.seed)
        waves = np.stack([y, x], axis=2) @ rng.normal(0, self.detail, (2, self.width // 2))
        return np.concatenate([np.sin(waves), np.cos(waves)], axis=2)[None]

    def begin(self, picture: Array) -> Array:
        """Its own first picture: a net cannot be told to paint a given one."""
        if len(picture) != 1 or picture.shape[3] != 3:
            raise ShapeError(f"CPPN paints one picture in colour, found {picture.shape}; give (1, H, W, 3)")
        numbers = np.concatenate([w.ravel() for w in self.net.params.values()])
        return xp_of(picture).asarray(numbers, dtype=picture.dtype)

    def paint(self, numbers: Array) -> Array:
        net = self._net(numbers)
        return 255 * net.forwardto(net.init_res(), "share", self._places(numbers), keep="needed")

    def adjoint(self, numbers: Array, dpixels: Array) -> Array:
        net = self._net(numbers)
        res = net.init_res()
        net.forwardto(res, "share", self._places(numbers))
        net.backwardfrom(res, {"share": 255 * dpixels}, params=True, to=None)
        gradients = net.gradients(res)
        return xp_of(numbers).concatenate([gradients[name].ravel() for name in net.params])

    def settle(self, numbers: Array) -> Array:
        return numbers

    def _net(self, numbers: Array) -> Net:
        """The net with these weights."""
        weights, end = {}, 0
        for name, w in self.net.params.items():
            begin, end = end, end + w.size
            weights[name] = numbers[begin:end].reshape(w.shape)
        return self.net.replacing(weights)

    def _places(self, like: Array) -> Array:
        return xp_of(like).asarray(self.places, dtype=like.dtype)

"""How a tensor of an ONNX file lies on a map of ours. Reshape and Transpose only change how we look at it.

An axis of either is a row of atoms: factors of sizes, the outer one first. What ONNX calls (n, c, h, w) has
the axes (c), (h), (w); flattened it has the one axis (c, h, w); and the map beneath stays (h, w, c).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from minidnn.errors import MismatchError, UnsupportedError


@dataclass(frozen=True, eq=False)
class Atom:
    """A factor of a size. Two atoms are equal only if they are one object."""

    size: int


Atoms = tuple[Atom, ...]


def atoms(size: int) -> Atoms:
    return (Atom(size),) if size > 1 else ()


def extent(group: Atoms) -> int:
    return prod(atom.size for atom in group)


@dataclass(frozen=True, eq=False)
class Seen:
    """One of our maps as the file sees it. The batch is always the first axis, and not among `axes`."""

    node: str  # whose output the map is
    batch: int
    rows: Atoms
    cols: Atoms
    chans: Atoms
    axes: tuple[Atoms, ...]
    sole: bool = True  # whether nothing else reads that output, so that the node may be changed
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # still to be put around it
    fill: float = 0.0  # and filled with this

    @classmethod
    def of(cls, node: str, batch: int, size: tuple[int, ...], order: str) -> Self:
        """A new map of size (h, w, c), whose axes in the file are, by their letters: "chw", "hwc", "c"..."""
        axis = dict(zip("hwc", map(atoms, size), strict=True))
        return cls(node, batch, axis["h"], axis["w"], axis["c"], tuple(axis[letter] for letter in order))

    @property
    def size(self) -> tuple[int, int, int]:
        """(h, w, c) of the map."""
        return extent(self.rows), extent(self.cols), extent(self.chans)

    @property
    def ours(self) -> Atoms:
        """All atoms, in the order in which the map lies in memory."""
        return self.rows + self.cols + self.chans

    @property
    def theirs(self) -> Atoms:
        """All atoms, in the order in which the file would have it."""
        return tuple(atom for axis in self.axes for atom in axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file knows it."""
        top, bottom, left, right = self.pad
        more = {"h": top + bottom, "w": left + right, "c": 0}
        order = self.order if any(self.pad) else None
        pads = [more[letter] for letter in order] if order else [0] * len(self.axes)
        return (self.batch, *(extent(axis) + pad for axis, pad in zip(self.axes, pads, strict=True)))

    @property
    def order(self) -> str | None:
        """Whether it is an image as ONNX has it, "chw", or one as Keras has it, "hwc"."""
        return next((order for order in ("chw", "hwc") if self.lies_as(order)), None)

    def on(self, node: str) -> Self:
        """The same look at another map, of the same size."""
        return replace(self, node=node, sole=True)

    def lies_as(self, order: str) -> bool:
        """Whether its axes in the file are just our axes, in that order."""
        axis = {"h": self.rows, "w": self.cols, "c": self.chans}
        left_out = [axis[letter] for letter in "hwc" if letter not in order]
        return self.axes == tuple(axis[letter] for letter in order) and not any(left_out)

    @property
    def turn(self) -> tuple[tuple[int, int], ...]:
        """Of each of our atoms its size and its place in the file: what arrays must be turned by."""
        return tuple((atom.size, self.theirs.index(atom)) for atom in self.ours)

    def with_channels(self, node: str, size: tuple[int, ...], axis: int) -> Self:
        """A map of other channels, which are that axis of it (not counting the batch)."""
        new = Seen.of(node, self.batch, size, "hwc")
        axes = [new.chans if i == axis else one for i, one in enumerate(self.axes)]
        return replace(self, node=node, chans=new.chans, axes=tuple(axes), sole=True)

    def transposed(self, order: tuple[int, ...]) -> Self:
        if sorted(order) != list(range(len(self.shape))):
            raise MismatchError(f"Transpose by {order} of the shape {self.shape}; fetch the file again")
        if order[0] != 0:
            raise UnsupportedError(f"Transpose that moves the batch: {order}")
        return replace(self, axes=tuple(self.axes[i - 1] for i in order[1:]))

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        """The same numbers in the same order under another shape: axes cut and joined at their seams."""
        if prod(shape) != prod(self.shape):
            raise MismatchError(
                f"Reshape of {self.shape} to {shape}: not the same count; fetch the file again"
            )
        if not shape or shape[0] != self.batch:
            raise UnsupportedError(f"Reshape of {self.shape} to {shape}, which mixes the images of a batch")
        left, cut, axes = list(self.theirs[::-1]), dict[Atom, Atoms](), []
        for size in shape[1:]:
            axis: list[Atom] = []
            while size > 1:
                atom = left.pop()
                if size % atom.size == 0:
                    size //= atom.size
                elif atom.size % size == 0:
                    outer, inner = Atom(size), Atom(atom.size // size)
                    cut[atom] = (outer, inner)
                    left.append(inner)
                    atom, size = outer, 1
                else:
                    raise UnsupportedError(f"Reshape of {self.shape} to {shape}, which cuts across rows")
                axis.append(atom)
            axes.append(tuple(axis))
        rows, cols, chans = (_cut(group, cut) for group in (self.rows, self.cols, self.chans))
        return replace(self, rows=rows, cols=cols, chans=chans, axes=tuple(axes))

    def per_channel(self, constant: np.ndarray) -> np.ndarray | None:
        """What a constant that is broadcast against this says to each of our channels, (1,) or (C,).

        None if it says different things to different places.
        """
        apart = self._by_atoms(constant)
        order = self.theirs
        place = [i for i, atom in enumerate(order) if atom not in self.chans]
        if any(apart.shape[i] != 1 for i in place):
            return None
        if apart.size == 1:
            return apart.reshape(1)
        apart = apart.transpose(*place, *(order.index(atom) for atom in self.chans))
        sizes = (1,) * len(place) + tuple(atom.size for atom in self.chans)
        return np.broadcast_to(apart, sizes).reshape(-1)

    def along_first(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers along the first axis after the batch, which has just the channels, in our order."""
        apart = numbers.reshape([atom.size for atom in self.axes[0]])
        return apart.transpose([self.axes[0].index(atom) for atom in self.chans]).reshape(-1)

    def _by_atoms(self, constant: np.ndarray) -> np.ndarray:
        """With an axis for each atom of `theirs`, of size 1 where it is the same all along."""
        shape, mine = constant.shape, self.shape
        while len(shape) > len(mine) and shape[0] == 1:
            shape = shape[1:]
        shape = (1,) * (len(mine) - len(shape)) + shape
        if len(shape) != len(mine) or any(n not in (1, size) for n, size in zip(shape, mine, strict=True)):
            raise MismatchError(f"a constant of shape {constant.shape} meets {mine}; fetch the file again")
        if shape[0] != 1:
            raise UnsupportedError("a constant that differs from image to image")
        sizes = [
            atom.size if n > 1 else 1 for n, axis in zip(shape[1:], self.axes, strict=True) for atom in axis
        ]
        return constant.reshape(sizes)

    def dense(self, w: np.ndarray) -> np.ndarray:
        """The weights (in, out) of a dense layer that reads this as one vector, as (h, w, c, out)."""
        theirs = self.theirs
        apart = w.reshape(*(atom.size for atom in theirs), w.shape[1])
        order = [theirs.index(atom) for atom in self.ours]
        return apart.transpose(*order, len(theirs)).reshape(*self.size, w.shape[1])


def positions(group: Atoms, order: Atoms) -> np.ndarray:
    """Which number of `group`, counted along it, comes where when the same atoms are counted in `order`."""
    counted = np.arange(extent(group)).reshape([atom.size for atom in group])
    return counted.transpose([group.index(atom) for atom in order]).reshape(-1)


def _cut(group: Atoms, cut: dict[Atom, Atoms]) -> Atoms:
    done, to_do = [], list(group[::-1])
    while to_do:
        atom = to_do.pop()
        if atom in cut:
            to_do.extend(reversed(cut[atom]))
        else:
            done.append(atom)
    return tuple(done)

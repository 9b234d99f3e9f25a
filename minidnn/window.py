"""The window that convolution and pooling slide over the image, and all its shape arithmetic.

Pads are (top, bottom, left, right) as in MatConvNet; pairs are (y, x).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Self

from minidnn.errors import ShapeError, UsageError


@dataclass(frozen=True)
class Window:
    """kernel (kh, kw) taps, `dilation` pixels apart, moved by `stride` over an image padded by `pad`.

        size of the output = (n + pads - extent) / stride + 1,   extent = (kernel - 1) * dilation + 1

    rounded down; or up with `ceil`, as Caffe pools, except that no window may start beyond the image and its
    first pad. A window that was rounded up reaches beyond the padded image: what lies there is padding too.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    @classmethod
    def of(
        cls,
        kernel: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        pad: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil: bool = False,
    ) -> Self:
        """Window.of(3, stride=2, pad=1): one number where all are the same."""
        (kh, kw), (sy, sx), (dy, dx) = (
            _spread(name, value, 2)
            for name, value in [("kernel", kernel), ("stride", stride), ("dilation", dilation)]
        )
        top, bottom, left, right = _spread("pad", pad, 4)
        return cls((kh, kw), (sy, sx), (top, bottom, left, right), (dy, dx), bool(ceil))

    def __post_init__(self) -> None:
        for name, least in [("kernel", 1), ("stride", 1), ("dilation", 1), ("pad", 0)]:
            numbers, count = getattr(self, name), 4 if name == "pad" else 2
            if len(numbers) != count or not all(isinstance(number, int) for number in numbers):
                raise UsageError(
                    f"{name} of a window is {numbers}; give {count} whole numbers, or use Window.of"
                )
            if any(number < least for number in numbers):
                raise ShapeError(f"{name} of a window is {numbers}; each number must be at least {least}")

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def extent(self) -> tuple[int, int]:
        """The pixels from the first tap to the last, both counted."""
        (kh, kw), (dy, dx) = self.kernel, self.dilation
        return (kh - 1) * dy + 1, (kw - 1) * dx + 1

    @property
    def overlaps(self) -> bool:
        """Whether two windows may see the same pixel."""
        return self.stride[0] < self.extent[0] or self.stride[1] < self.extent[1]

    @property
    def in_pairs(self) -> bool:
        """Whether windows are 2 x 2 and stand side by side."""
        return self.kernel == self.stride == (2, 2) and self.dilation == (1, 1)

    def out_size(self, h: int, w: int) -> tuple[int, int]:
        """How many windows fit on an image of h by w pixels."""
        top, bottom, left, right = self.pad
        oh = self._fit(h, 0, top, bottom)
        ow = self._fit(w, 1, left, right)
        if oh < 1 or ow < 1:
            kh, kw = self.extent
            raise ShapeError(
                f"a window of {kh}x{kw} pixels does not fit on an image of {h}x{w} padded by {self.pad}; "
                f"use a larger image, a smaller window or more padding"
            )
        return oh, ow

    def _fit(self, size: int, axis: int, before: int, after: int) -> int:
        room, stride = size + before + after - self.extent[axis], self.stride[axis]
        if not self.ceil:
            return room // stride + 1
        return min((room + stride - 1) // stride, (size + before - 1) // stride) + 1

    def overhang(self, h: int, w: int) -> tuple[int, int]:
        """How far the last windows reach beyond the padded image: never with floor, sometimes with ceil."""
        (oh, ow), (eh, ew), (sy, sx) = self.out_size(h, w), self.extent, self.stride
        top, bottom, left, right = self.pad
        return (
            max(0, (oh - 1) * sy + eh - (h + top + bottom)),
            max(0, (ow - 1) * sx + ew - (w + left + right)),
        )

    def padded_size(self, h: int, w: int) -> tuple[int, int]:
        """The image with its pads, and with what the last windows overhang."""
        (over_y, over_x), (top, bottom, left, right) = self.overhang(h, w), self.pad
        return h + top + bottom + over_y, w + left + right + over_x

    def each_tap(self, oh: int, ow: int) -> Iterator[tuple[int, slice, slice]]:
        """Tap number, and the rows and columns of the padded image under it in all oh by ow windows."""
        (kh, kw), (sy, sx), (dy, dx) = self.kernel, self.stride, self.dilation
        for i in range(kh):
            for j in range(kw):
                y, x = i * dy, j * dx
                yield i * kw + j, slice(y, y + sy * (oh - 1) + 1, sy), slice(x, x + sx * (ow - 1) + 1, sx)


def _spread(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    try:
        numbers = tuple(map(index, value)) if isinstance(value, Sequence) else (index(value),) * count
    except TypeError:
        numbers = ()
    if len(numbers) != count:
        order = "top, bottom, left, right" if count == 4 else "y, x"
        raise UsageError(f"{name} of a window is {value!r}; give one whole number or {count} ({order})")
    return numbers

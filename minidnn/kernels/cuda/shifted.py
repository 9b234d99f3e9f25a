"""Convolution without columns: one matrix product for each tap, and no window is ever laid out.

Lay the padded images out as one long list of pixels. Under tap (i, j) of the window at pixel p lies pixel
p + i * width + j: always as far on. So all that a tap adds to all windows is one product, of the list from
there on with the (C, K) filters of the tap:

    wide[p] = sum over taps t of  list[p + shift(t)] @ w[t]          for every pixel p as a window's corner

Windows that stick out at the right or the bottom come out too, wrong, and are cut away at the end. All here
is for windows that `fits` says yes to; for others the caller takes columns.
"""

from __future__ import annotations

from collections.abc import Iterator

from minidnn.arrays import Array, xp_of
from minidnn.kernels.behind import Behind
from minidnn.kernels.cuda.source import Kernel, ready
from minidnn.kernels.memory import Mem, fresh
from minidnn.kernels.product import product
from minidnn.window import Window

PLACE = Kernel(
    "place",
    "minidnn.kernels.im2col:padded",
    """const T* x, T* y, Int h, Int w, Int gh, Int gw, Int top, Int left, Int c
    { EACH(at, count) {
        At k = at % (At)c, column = at / (At)c, row = column / (At)gw;
        At j = column % (At)gw - left, i = row % (At)gh - top, n = row / (At)gh;
        bool inside = i >= 0 && i < h && j >= 0 && j < w;
        y[at] = inside ? x[((n * (At)h + i) * (At)w + j) * (At)c + k] : (T)0;
    } }""",
)
CROP = Kernel(
    "crop",
    "minidnn.kernels.cuda.shifted:cropped",
    """const T* x, const T* b, T* y, Int h, Int w, Int gh, Int gw, Int top, Int left, Int c,
    Int biased, Int relu
    { EACH(at, count) {
        At k = at % (At)c, column = at / (At)c, row = column / (At)w;
        At j = column % (At)w + left, i = row % (At)h + top, n = row / (At)h;
        T sum = x[((n * (At)gh + i) * (At)gw + j) * (At)c + k];
        if (biased) sum += b[k];
        y[at] = relu && sum < 0 ? (T)0 : sum;
    } }""",
)


def fits(window: Window, groups: int) -> bool:
    return window.stride == (1, 1) and groups == 1


def conv(
    x: Array,
    w: Array,
    b: Array | None,
    window: Window,
    groups: int,
    mem: Mem,
    behind: Behind,
    factors: str = "",
) -> tuple[Array, Behind]:
    """(N, H, W, C) → (N, oh, ow, K), as im2col.conv, and on through what is behind."""
    size, (top, _, left, _) = x.shape[1:3], window.pad
    ground = placed(x, window.padded_size(*size), (top, left), mem)
    wide = fresh((*ground.shape[:3], w.shape[3]), x, mem)
    pixels, sums = _listed(ground), _listed(wide)
    for tap, (start, count) in enumerate(shifts(ground.shape, window)):
        product(pixels[start : start + count], _taps(w)[tap], sums[:count], add=tap > 0, factors=factors)
    y = cropped(wide, window.out_size(*size), (0, 0), b, behind is not None, mem)
    return (y, None) if behind is None else behind.forward(y, mem, is_rectified=True)


def conv_backward(
    dzdy: Array, w: Array, window: Window, x_shape: tuple[int, ...], groups: int, mem: Mem, factors: str = ""
) -> Array:
    """(N, oh, ow, K) → (N, H, W, C): each tap's share goes back as far as it came from."""
    _, h, width, c = x_shape
    wide = placed(dzdy, window.padded_size(h, width), (0, 0), mem)
    ground = fresh((*wide.shape[:3], c), dzdy, mem)
    ground.fill(0)
    pixels, grads = _listed(ground), _listed(wide)
    for tap, (start, count) in enumerate(shifts(ground.shape, window)):
        product(grads[:count], _taps(w)[tap].T, pixels[start : start + count], add=True, factors=factors)
    return cropped(ground, (h, width), (window.pad[0], window.pad[2]), None, False, mem)


def conv_backward_w(dzdy: Array, x: Array, window: Window, groups: int, mem: Mem, factors: str = "") -> Array:
    """(kh, kw, C/groups, K): of each tap the product of the pixels under it with the gradients there."""
    (top, _, left, _), size = window.pad, window.padded_size(*x.shape[1:3])
    ground, wide = placed(x, size, (top, left), mem), placed(dzdy, size, (0, 0), mem)
    dzdw = xp_of(x).empty((*window.kernel, x.shape[3], dzdy.shape[3]), x.dtype)
    pixels, grads = _listed(ground), _listed(wide)
    for tap, (start, count) in enumerate(shifts(ground.shape, window)):
        product(pixels[start : start + count].T, grads[:count], _taps(dzdw)[tap], factors=factors)
    return dzdw


def shifts(shape: tuple[int, ...], window: Window) -> Iterator[tuple[int, int]]:
    """Of each tap, how far on it lies in the list; and how many windows have all their taps in the list."""
    (n, gh, gw, _), (kh, kw), (dy, dx) = shape, window.kernel, window.dilation
    count = n * gh * gw - (kh - 1) * dy * gw - (kw - 1) * dx
    for i in range(kh):
        for j in range(kw):
            yield i * dy * gw + j * dx, count


def placed(x: Array, size: tuple[int, int], corner: tuple[int, int], mem: Mem) -> Array:
    """The images on a ground of zeros of that size, their first pixel at that corner."""
    n, h, w, c = x.shape
    if (h, w) == size:
        return x
    ground = fresh((n, *size, c), x, mem)
    if ready(x, ground):
        PLACE(ground, x, ground, h, w, *size, *corner, c)
    else:
        ground.fill(0)
        ground[:, corner[0] : corner[0] + h, corner[1] : corner[1] + w] = x
    return ground


def cropped(
    ground: Array, size: tuple[int, int], corner: tuple[int, int], b: Array | None, relu: bool, mem: Mem
) -> Array:
    """The part of that size from that corner on, plus b, and with `relu` max(y, 0)."""
    n, gh, gw, c = ground.shape
    (top, left), (h, w), biased = corner, size, b is not None
    y = ground if (gh, gw) == size else fresh((n, h, w, c), ground, mem)
    if ready(ground, y, *([] if b is None else [b])):
        if y is not ground or biased or relu:
            CROP(y, ground, b if biased else y, y, h, w, gh, gw, top, left, c, int(biased), int(relu))
        return y
    if y is not ground:
        y[...] = ground[:, top : top + h, left : left + w]
    if biased:
        y += b
    return xp_of(y).maximum(y, 0, out=y) if relu else y


def _listed(images: Array) -> Array:
    return images.reshape(-1, images.shape[3])


def _taps(w: Array) -> Array:
    return w.reshape(-1, *w.shape[2:])  # (kh*kw, C, K)

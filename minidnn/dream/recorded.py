"""A net whose passes are recorded as CUDA graphs: hundreds of launches become two for each step of a dream.

A graph knows addresses, not arrays. So each recording has memory of its own, which nobody else is given
while it lives; what goes in is copied to where it was recorded, and what comes out lies where it always did.
None of this has run on a card yet: docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Self

from minidnn.arrays import Array, xp_of
from minidnn.entrance import check_seeds, fitting_image, named_seeds
from minidnn.errors import UnsupportedError
from minidnn.graph import Handle, as_asked
from minidnn.kernels.cuda.blas import RECORDING
from minidnn.net import Net
from minidnn.res import Res

WARM_UPS = 2  # kernels are compiled in the first run, and after the second the memory lies ready


class Recorded(Net):
    """`dream(Recorded.of(net), ...)`: the same net on a card, for many passes with images of few shapes.

    A pass is recorded when an image of its shape first comes, if it is asked for as a dream does: from an
    image, with keep="needed", and back to the image. All other passes go the usual way. The slots of a run
    stay empty, and what a pass hands back is good until the next one.
    """

    @classmethod
    def of(cls, net: Net) -> Self:
        same = net.with_nodes(net.nodes)  # so that neither writes to weights that the other holds
        return cls(same.nodes, same.input, **same.about)

    def init_res(self, *, sync: bool = False) -> Res:
        return super().init_res(sync=True) if sync else Takes(self.names, self.name_of)

    def forwardto(
        self, res: Res, layer: Handle | Collection[Handle], image: Array | None = None, **how: Any
    ) -> Any:
        if isinstance(res, Takes):
            res.now = None
        if not isinstance(res, Takes) or image is None or how != {"keep": "needed"}:
            return super().forwardto(res, layer, image, **how)
        names = self.names_of(layer)
        image = fitting_image(self, image, names)
        if res.version != self.version:
            res.takes.clear()
        res.version, key = self.version, (image.shape, str(image.dtype), names)
        if key not in res.takes:
            res.takes[key] = Take(self, names, image)
        res.now = res.takes[key]
        return as_asked(layer, res.now.forward(image))

    def backwardfrom(self, res: Res, seeds: Mapping[Handle, Array], **how: Any) -> Any:
        if not isinstance(res, Takes) or res.now is None or how:
            return super().backwardfrom(res, seeds, **how)
        by_name = named_seeds(self, seeds)
        check_seeds(self, res.now.res, by_name, (self.input,), set(self.names))
        return res.now.backward(by_name)


class Take:
    """Forward and back for one shape of image."""

    def __init__(self, net: Net, names: tuple[str, ...], image: Array) -> None:
        self.net, self.tape = net, Tape(xp_of(image).cuda)
        self.res = Res(net.names, net.name_of, sure=True)
        self.forward = self.tape.record(
            lambda x: Net.forwardto(net, self.res, list(names), x, keep="needed"), image
        )
        self._backs: dict[tuple[str, ...], Recording] = {}

    def backward(self, seeds: Mapping[str, Array]) -> Array:
        names = tuple(seeds)
        if names not in self._backs:
            self._backs[names] = self.tape.record(
                lambda *arrays: Net.backwardfrom(self.net, self.res, dict(zip(names, arrays, strict=True))),
                *seeds.values(),
            )
        return self._backs[names](*seeds.values())


class Takes(Res):
    """A run by recordings: one for each shape of image."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.takes: dict[Any, Take] = {}
        self.now: Take | None = None


class Tape:
    """Pieces of work on arrays of fixed addresses, recorded one after the other, in memory of their own.

    The work must not look at a number on the host: a card that records computes nothing. Its matrix products
    must be those of `kernels.product`, since CuPy does not record its own.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda, self._pool = cuda, cuda.MemoryPool()
        self._stream = cuda.Stream(non_blocking=True)

    def record(self, work: Callable[..., Any], *inputs: Array) -> Recording:
        """The work with these inputs, after some runs of it to warm up."""
        self._cuda.get_current_stream().synchronize()  # until the inputs are there
        mark = RECORDING.set(True)
        try:
            return self._record(work, inputs)
        finally:
            RECORDING.reset(mark)

    def _record(self, work: Callable[..., Any], inputs: tuple[Array, ...]) -> Recording:
        with self._cuda.using_allocator(self._pool.malloc), self._stream:
            own = tuple(x.copy() for x in inputs)
            for _ in range(WARM_UPS):
                work(*own)
            self._stream.synchronize()
            self._stream.begin_capture()
            try:
                found = work(*own)
            except BaseException as error:
                with suppress(Exception):  # it may be broken; but it must not record for ever
                    self._stream.end_capture()
                if isinstance(error, NotImplementedError):  # CuPy's word for what it does not record
                    raise UnsupportedError(
                        f"CuPy cannot record this ({error}); take the net as it is"
                    ) from None
                raise
            graph = self._stream.end_capture()
        return Recording(self, graph, own, found)


class Recording:
    """Call it with other inputs of the same shapes; what it hands back is good until the next call."""

    def __init__(self, tape: Tape, graph: Any, inputs: tuple[Array, ...], found: Any) -> None:
        self._tape, self._graph, self._inputs, self._found = tape, graph, inputs, found

    def __call__(self, *inputs: Array) -> Any:
        for own, x in zip(self._inputs, inputs, strict=True):
            own[...] = x
        self._graph.launch()
        return self._found

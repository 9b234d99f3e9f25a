"""A picture cut into tiles, each with a net that is the whole net for just that part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from minidnn import layers as L
from minidnn.arrays import Array, xp_of
from minidnn.entrance import fitting_image, named_seeds
from minidnn.errors import ShapeError, StaleResError, UsageError
from minidnn.graph import Handle, Node
from minidnn.kernels import Kernel, Kernels
from minidnn.layers.base import Shape
from minidnn.net import Net
from minidnn.res import Res
from minidnn.tiles.geometry import Area, Cut, Source, at, check_local, size_of, source_of, union, within

Measure = Callable[[Mapping[Handle, Array]], tuple[float, Mapping[Handle, Array]]]
Ticking = Callable[[Sequence["Part"]], Iterable["Part"]]  # as tqdm: takes what is to do, and hands it on


class Part(NamedTuple):
    """One tile: of each layer the places that are its own, the pixels that they see, and the way between."""

    own: dict[str, Area]
    pixels: Area
    net: Net
    ends: dict[str, str]  # in that net: where the own places of a layer come out


class Tiling:
    """How a picture of this shape goes through a net up to these layers in tiles of about h x w own pixels.

    `forward` collects what the layers say of the whole picture; `backward` computes each tile anew, and sends
    its part of the seeds back. To watch it, give `each=tqdm`.
    """

    def __init__(
        self,
        net: Net,
        image_shape: Shape,
        layers: Handle | Collection[Handle],
        *,
        tile: tuple[int, int] = (512, 512),
        mode: str = "test",
    ) -> None:
        if min(tile) < 1:
            raise UsageError(f"tiles of {tile[0]}x{tile[1]} pixels; give at least 1x1")
        self.net, self.image_shape, self.layers = net, tuple(image_shape), net.names_of(layers)
        check_local(net, self.layers, mode=mode)
        self.shapes = net.shapes(self.image_shape, upto=self.layers)
        self._version, self._nets = net.version, dict[Any, Net]()
        self._rows, self._columns = (self._cuts(axis, size) for axis, size in enumerate(tile, start=1))

    @property
    def grid(self) -> tuple[int, int]:
        """How many tiles there are, down and across; none if nothing but the image is asked for."""
        down, across = (len(next(iter(cuts.values()), [0])) - 1 for cuts in (self._rows, self._columns))
        return down, across

    @cached_property
    def parts(self) -> list[Part]:
        """All tiles, those of one geometry behind each other."""
        down, across = self.grid
        parts = [self.part(i, j) for i in range(down) for j in range(across)]
        order = {id(net): number for number, net in enumerate(self._nets.values())}
        return sorted(parts, key=lambda part: order[id(part.net)])

    def amidst(self) -> Part:
        """A tile amidst the others: no other sees more pixels."""
        down, across = self.grid
        return self.part((down - 1) // 2, (across - 1) // 2)

    def forward(self, image: Array, *, each: Ticking = iter) -> dict[str, Array]:
        """What the layers say of the whole picture, by name."""
        image = self._fitting(image)
        ys = {name: xp_of(image).empty(self.shapes[name], image.dtype) for name in self._rows}
        for part, res in self._running(each):
            found = part.net.forwardto(res, [*part.ends.values()], image[at(part.pixels)], keep=())
            for name, end in part.ends.items():
                ys[name][at(part.own[name])] = found[end]
        return {name: ys.get(name, image) for name in self.layers}

    def backward(self, image: Array, seeds: Mapping[Handle, Array], *, each: Ticking = iter) -> Array:
        """dz/dimage, from the derivatives {layer: dz/dy} by what `forward` said of this image."""
        image, by_name = self._fitting(image), named_seeds(self.net, seeds)
        for name, seed in by_name.items():
            if name not in self.layers:
                raise UsageError(f"a seed for {name!r}, and the tiles go to {' and '.join(self.layers)}")
            if seed.shape != self.shapes[name]:
                here = f"its output here is {self.shapes[name]}"
                raise ShapeError(f"the seed for {name!r} is {seed.shape}, {here}; make them agree")
        dzdx = xp_of(image).zeros_like(image)
        if self.net.input in by_name:
            dzdx += by_name.pop(self.net.input)
        for part, res in self._running(each):
            own: dict[Handle, Array] = {part.ends[n]: seed[at(part.own[n])] for n, seed in by_name.items()}
            if any(seed.any() for seed in own.values()):  # an objective may look at one corner only
                part.net.forwardto(res, list(own), image[at(part.pixels)], keep="needed")
                dzdx[at(part.pixels)] += part.net.backwardfrom(res, own)
        return dzdx

    def _fitting(self, image: Array) -> Array:
        if image.shape != self.image_shape:
            raise ShapeError(f"these tiles are for images {self.image_shape}, this one is {image.shape}")
        if self.net.version != self._version:
            raise StaleResError("the weights have changed since these tiles were laid out: lay them out anew")
        return fitting_image(self.net, image, self.layers)

    def _running(self, each: Ticking) -> Iterator[tuple[Part, Res]]:
        """Each part with a run; those of one geometry share one, and with it their memory."""
        net, res = None, self.net.init_res()
        for part in each(self.parts):
            if part.net is not net:
                net, res = part.net, part.net.init_res()
            yield part, res

    def _cuts(self, axis: int, size: int) -> dict[str, list[int]]:
        """Where the map of each layer is cut along that axis, so that each place belongs to just one tile."""
        sizes = {name: self.shapes[name][axis] for name in self.layers if name != self.net.input}
        coarsest = min(sizes.values(), default=0)
        places = max(1, round(size * coarsest / self.image_shape[axis]))
        ends = [*range(0, coarsest, places), coarsest]
        return {name: [end * length // coarsest for end in ends] for name, length in sizes.items()}

    def part(self, i: int, j: int) -> Part:
        """The tile there: from its places back to the pixels that they see, and the net for just that."""
        own = {
            name: ((rows[i], rows[i + 1]), (columns[j], columns[j + 1]))
            for (name, rows), columns in zip(self._rows.items(), self._columns.values(), strict=True)
        }
        needed: dict[str, list[Area]] = {name: [area] for name, area in own.items()}
        found = dict[str, Source]()
        for node in reversed(self.net.nodes):
            if node.name in needed:
                x_size = self.shapes[node.inputs[0]][1:3]
                found[node.name] = source_of(node.layer, union(needed[node.name]), x_size)
                for name in node.inputs:
                    needed.setdefault(name, []).append(found[node.name].read)
        made = {name: there.made for name, there in found.items()}
        made[self.net.input] = pixels = union(needed[self.net.input])
        nodes: dict[str, Node] = {}

        def out_of(name: str, area: Area) -> str:
            """Where that area of a map comes out: of the layer itself, or of a cut behind it."""
            if area == made[name]:
                return name
            rows, columns = within(area, made[name])
            cut = f"{name}[{rows[0]}:{rows[1]}, {columns[0]}:{columns[1]}]"
            nodes.setdefault(cut, Node(cut, Cut(rows, columns), (name,)))
            return cut

        for name, _, inputs in self.net.nodes:
            if name in found:
                reads = tuple(out_of(before, found[name].read) for before in inputs)
                nodes[name] = Node(name, found[name].layer, reads)
        ends = {name: out_of(name, area) for name, area in own.items()}
        return Part(own, pixels, self._net(list(nodes.values()), pixels), ends)

    def _net(self, nodes: list[Node], pixels: Area) -> Net:
        """A net of these nodes: all tiles of one geometry share one."""
        fields = ("window", "extra")
        turns = tuple((n.name, n.inputs, *(getattr(n.layer, field, None) for field in fields)) for n in nodes)
        geometry = (size_of(pixels), turns)
        if geometry not in self._nets:
            net = Net(nodes, self.net.input)
            net.prepared = _AsInTheWhole(self.net, self.shapes, [node.name for node in nodes])
            self._nets[geometry] = net
        return self._nets[geometry]


def tiled_gradient(
    net: Net,
    image: Array,
    layers: Handle | Collection[Handle],
    measure: Measure,
    *,
    tile: tuple[int, int] = (512, 512),
    each: Ticking = iter,
) -> tuple[float, Array, dict[str, Array]]:
    """z, dz/dimage and the outputs of the layers, for measure({layer: y}) → (z, {layer: dz/dy})."""
    tiling = Tiling(net, image.shape, layers, tile=tile)
    ys = tiling.forward(image, each=each)
    value, seeds = measure({name: ys[name] for name in tiling.layers})
    return value, tiling.backward(image, seeds, each=each), ys


class _AsInTheWhole(Kernels):
    """What computes a layer of the whole picture computes it in a tile, with the filters prepared for it."""

    def __init__(self, net: Net, shapes: Mapping[str, Shape], names: Iterable[str]) -> None:
        self._of = dict.fromkeys(names, Kernel())
        for node in net.nodes:
            if node.name in self._of and isinstance(node.layer, L.Conv):
                kernel, conv = net.prepared[node.name], node.layer
                name = kernel.algorithm(shapes[node.inputs[0]], conv.w, conv.window, conv.groups)
                self._of[node.name] = _Borrowed(kernel, name)


class _Borrowed(Kernel):
    """The kernel of another net's layer, held to one algorithm."""

    def __init__(self, owner: Kernel, name: str) -> None:
        super().__init__(name)
        self._owner = owner

    def prepared(self, what: str, make: Callable[[], Array]) -> Array:
        return self._owner.prepared(what, make)

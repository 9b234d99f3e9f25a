"""A step of a run played through without arrays: who takes memory when, who lets go of it, how much at worst.

The run's own memory (kernels/memory.py) is played too: it keeps blocks that are free, and lends the one that
fits best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod
from types import ModuleType

from minidnn.graph import Node
from minidnn.kernels import Kernel
from minidnn.kernels.memory import SLACK
from minidnn.layers import Conv, ReLU
from minidnn.layers.base import Shape, reads
from minidnn.net import Net
from minidnn.plan import prices
from minidnn.plan.prices import Price


@dataclass
class Block:
    """One piece of the run's memory."""

    nbytes: int
    holders: int = 0
    is_used: bool = True  # in this run


@dataclass(eq=False)
class Piece:
    """What one array takes: of a block, or of the system."""

    nbytes: int
    kind: str
    block: Block | None = None
    holders: int = 1


@dataclass
class Memory:
    """All pieces there are, and the worst moment so far: {"x": bytes, …}."""

    prepared: int = 0
    blocks: list[Block] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)
    system: int = 0
    peak: int = 0
    at_peak: dict[str, int] = field(default_factory=dict)

    def take(self, kind: str, nbytes: int, *, lent: bool = False) -> Piece:
        piece = Piece(nbytes, kind, self._block(nbytes) if lent else None)
        self.system += 0 if lent else nbytes
        self.held[kind] += nbytes
        self.look()
        return piece

    def let_go(self, piece: Piece | None) -> None:
        if piece is None:
            return
        piece.holders -= 1
        if piece.holders == 0:
            self.held[piece.kind] -= piece.nbytes
            self.gone(piece)

    def gone(self, piece: Piece) -> None:
        """Nobody holds it any more."""
        if piece.block is None:
            self.system -= piece.nbytes
        else:
            piece.block.holders -= 1

    def begin(self) -> None:
        """A new run: blocks that the last had no use for are let go."""
        self.blocks = [block for block in self.blocks if block.is_used or block.holders]
        for block in self.blocks:
            block.is_used = False

    def look(self) -> None:
        now = self.nbytes + self.prepared
        if now > self.peak:
            kinds = {kind: self.held[kind] for kind in ("x", "aux", "dzdx")}
            beside = now - self.prepared - sum(kinds.values())
            self.peak, self.at_peak = now, {**kinds, "workspace": beside, "prepared": self.prepared}

    @property
    def nbytes(self) -> int:
        """What the system has handed out."""
        return sum(block.nbytes for block in self.blocks) + self.system

    def _block(self, need: int) -> Block:
        fits = [b for b in self.blocks if not b.holders and need <= b.nbytes <= need + need // 4 + SLACK]
        block = min(fits, key=lambda block: block.nbytes, default=None)
        if block is None:
            block = Block(need)
            self.blocks.append(block)
        block.holders, block.is_used = block.holders + 1, True
        return block


class Rehearsal:
    """Steps of a net on images of one shape: forward to the targets, an objective, and back to the image."""

    def __init__(
        self,
        net: Net,
        image_shape: Shape,
        targets: Collection[str],
        *,
        keep: str = "needed",
        place: tuple[Memory, ModuleType] | None = None,
    ) -> None:
        """`place` is its memory and its prices; those of the host if none is given."""
        self.net, self.targets = net, net.names_of(targets)
        self.shapes = net.shapes(image_shape, upto=self.targets)
        self.nodes = [node for node in net.nodes if node.name in self.shapes]
        self.item = net.dtype.itemsize
        self.memory, self.prices = place or (Memory(), prices)
        self.keeps_all = keep == "all"
        self.x_kept, self.aux_kept = self._kept()
        self.x, self.aux, self.dzdx = dict[str, Piece](), dict[str, Piece](), dict[str, Piece]()
        self._prepared: set[tuple[str, str]] = set()

    def step(self) -> Memory:
        """One step; the memory is that of all steps so far."""
        for slots in (self.x, self.aux, self.dzdx):
            for piece in slots.values():
                self.memory.let_go(piece)
            slots.clear()
        self.memory.begin()
        self.x[self.net.input] = self.memory.take("x", self.bytes_of(self.net.input))
        self._forward()
        self._measure()
        self._backward()
        return self.memory

    def bytes_of(self, name: str) -> int:
        return self.item * prod(self.shapes[name])

    def _kept(self) -> tuple[set[str], set[str]]:
        """Whose x and aux stay for the way back, by the signatures (as net.forwardto has it)."""
        everything = set(self.shapes)
        if self.keeps_all:
            return everything, everything
        x, aux = {self.net.input, *self.targets}, set[str]()
        for node in self.nodes:
            read = reads(type(node.layer).backward)
            x.update(node.inputs if "x" in read else (), [node.name] if "y" in read else ())
            aux.update([node.name] if "aux" in read else ())
        return x, aux

    def _forward(self) -> None:
        memory, done = self.memory, set[str]()
        last = {name: node.name for node in self.nodes for name in node.inputs}
        for node in self.nodes:
            if node.name in done:
                continue
            relu = self._relu_of(node)
            made = node if relu is None else relu
            how, x_shapes, y = self._asked(node)
            price = self.prices.forward(node.layer, how, x_shapes, y, relu is not None, self.item)
            self.x[made.name] = self._run(node, price, "forward", self.x, node.inputs[0], "x")
            if price.aux:
                self.aux[node.name] = memory.take("aux", price.aux, lent=True)
                if node.name not in self.aux_kept:
                    memory.let_go(self.aux.pop(node.name))
            done |= {node.name, made.name}
            for name in {made.name, *node.inputs} - self.x_kept:
                if last.get(name) in (node.name, made.name, None):
                    memory.let_go(self.x.pop(name, None))

    def _measure(self) -> None:
        """An objective that squares, and makes one seed of each target."""
        for name in dict.fromkeys(self.targets):
            self.memory.let_go(self.memory.take("workspace", self.bytes_of(name)))
            self.dzdx[name] = self.memory.take("dzdx", self.bytes_of(name))

    def _backward(self) -> None:
        memory = self.memory
        wanted = self.net.ancestors(self.targets) & self.net.descendants([self.net.input])
        for node in reversed(self.nodes):
            if node.name not in wanted or node.name not in self.dzdx:
                continue
            how, x_shapes, y = self._asked(node)
            price = self.prices.backward(node.layer, how, x_shapes, y, self.item)
            into = [name for name in node.inputs if name in wanted or name == self.net.input]
            part = self._run(node, price, "backward", self.dzdx, node.name, "dzdx")
            for name in into:
                self._add(name, part)
            memory.let_go(part)
            if node.name not in self.targets and not self.keeps_all:
                memory.let_go(self.dzdx.pop(node.name))

    def _add(self, name: str, part: Piece) -> None:
        """To the gradient that is there already, out of place; or the first that comes."""
        if name in self.dzdx:
            self.memory.let_go(self.dzdx[name])
            self.dzdx[name] = self.memory.take("dzdx", self.bytes_of(name))
            return
        part.holders += 1
        self.dzdx[name] = part

    def _run(
        self, node: Node, price: Price, way: str, slots: dict[str, Piece], source: str, kind: str
    ) -> Piece:
        """What comes of it; or, when it is handed on, what went in."""
        memory = self.memory
        if price.prepared and (node.name, way) not in self._prepared:
            self._prepared.add((node.name, way))
            memory.let_go(memory.take("workspace", 2 * price.prepared))
            memory.prepared += price.prepared
        if not price.result:
            if source not in slots:
                slots[source] = memory.take(kind, 0)
            slots[source].holders += 1
            return slots[source]
        result = memory.take(kind, price.result, lent=price.is_lent) if price.is_first else None
        scratch = [memory.take("workspace", nbytes, lent=True) for nbytes in price.lent]
        scratch.append(memory.take("workspace", price.fresh))
        result = result or memory.take(kind, price.result, lent=price.is_lent)
        for piece in scratch:
            memory.let_go(piece)
        return result

    def _asked(self, node: Node) -> tuple[Kernel, list[Shape], int]:
        """Its kernel, the shapes of its inputs, and the count of numbers in its output."""
        x_shapes = [self.shapes[name] for name in node.inputs]
        return self.net.prepared[node.name], x_shapes, prod(self.shapes[node.name])

    def _relu_of(self, node: Node) -> Node | None:
        """The ReLU that its convolution does on the way."""
        readers = [other for other in self.nodes if node.name in other.inputs]
        alone = len(readers) == 1 and type(readers[0].layer) is ReLU and node.name not in self.x_kept
        return readers[0] if alone and isinstance(node.layer, Conv) else None

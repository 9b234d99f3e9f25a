"""A step of a run played through without arrays: who takes memory when, who lets go of it, how much at worst.

The run's own memory (kernels/memory.py) is played too: it keeps blocks, and lends of them what fits best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import ClassVar

from minidnn.graph import Node, in_steps
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.memory import ALIGN, LEAST, Room, Rooms, rounded
from minidnn.layers.base import Shape, reads
from minidnn.net import Net
from minidnn.plan import prices
from minidnn.plan.prices import Price


@dataclass(eq=False)
class Piece:
    """What one array takes."""

    nbytes: int
    kind: str
    holders: int = 1


@dataclass
class Memory:
    """All pieces there are, and the worst moment so far: {"x": bytes, …}.

    What a run lends lies in blocks, cut by the same rules as there; the rest is the system's.
    """

    unit: ClassVar[int] = ALIGN  # bytes: every request is rounded up to a multiple of it
    least: ClassVar[int] = LEAST
    lends_all: ClassVar[bool] = False
    prepared: int = 0
    rooms: Rooms = field(default_factory=Rooms)
    lent: dict[Piece, Room] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    system: int = 0
    desk: dict[str, int] = field(default_factory=dict)  # of one worker
    peak: int = 0
    at_peak: dict[str, int] = field(default_factory=dict)

    def take(self, kind: str, nbytes: int, *, lent: bool = False) -> Piece:
        piece = Piece(nbytes, kind)
        if nbytes and (lent or self.lends_all):
            self.lent[piece] = self.rooms.take(rounded(nbytes, self.unit), self.least)
        else:
            self.system += nbytes
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
        if piece in self.lent:
            self.rooms.give_back(self.lent.pop(piece))
        else:
            self.system -= piece.nbytes

    def sit(self, desk: Mapping[str, int]) -> None:
        """A desk has room for the largest that ever lay on it."""
        for name, nbytes in desk.items():
            self.desk[name] = max(nbytes, self.desk.get(name, 0))

    def begin(self) -> None:
        """A new run: blocks that the last had no use for are let go."""
        self.rooms.begin()

    def look(self) -> None:
        now = self.nbytes + self.prepared
        if now > self.peak:
            kinds = {kind: self.held[kind] for kind in ("x", "aux", "dzdx")}
            beside = now - self.prepared - sum(kinds.values())
            self.peak, self.at_peak = now, {**kinds, "workspace": beside, "prepared": self.prepared}

    @property
    def nbytes(self) -> int:
        """What the system has handed out."""
        return sum(self.rooms.blocks.values()) + self.system + CREW.size * sum(self.desk.values())


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
        steps = in_steps(self.nodes, self.x_kept)
        last_to_read = {name: step for step in steps for node in step for name in node.inputs}
        for step in steps:
            node, last = step[0], step[-1].name
            found = self._prices(step, self.prices.forward, self.prices.step)
            self.x[last] = self._run(step, found, self.x)
            for name in {last, *node.inputs} - self.x_kept:
                if last_to_read.get(name, step) is step:
                    self.memory.let_go(self.x.pop(name, None))

    def _measure(self) -> None:
        """An objective that squares, and makes one seed of each target."""
        for name in dict.fromkeys(self.targets):
            self.memory.let_go(self.memory.take("workspace", self.bytes_of(name)))
            self.dzdx[name] = self.memory.take("dzdx", self.bytes_of(name))

    def _backward(self) -> None:
        memory = self.memory
        wanted = self.net.ancestors(self.targets) & self.net.descendants([self.net.input])
        looked_at = set(self.shapes) if self.keeps_all else set(self.targets)
        for step in reversed(in_steps([node for node in self.nodes if node.name in wanted], looked_at)):
            node, last = step[0], step[-1].name
            if last not in self.dzdx:
                continue
            found = self._prices(step, self.prices.backward, self.prices.step_back)
            part = self._run(step, found, self.dzdx)
            for name in node.inputs:
                if name in wanted or name == self.net.input:
                    self._add(name, part)
            memory.let_go(part)
            if last not in self.targets and not self.keeps_all:
                memory.let_go(self.dzdx.pop(last))

    def _add(self, name: str, part: Piece) -> None:
        """To the gradient that is there already, out of place; or the first that comes."""
        if name in self.dzdx:
            self.memory.let_go(self.dzdx[name])
            self.dzdx[name] = self.memory.take("dzdx", self.bytes_of(name))
            return
        part.holders += 1
        self.dzdx[name] = part

    def _prices(self, step: tuple[Node, ...], alone: Callable, together: Callable) -> list[Price]:
        """What a step takes, one after the other."""
        node, x_shapes = step[0], [self.shapes[name] for name in step[0].inputs]
        how, y = self.net.prepared[node.name], prod(self.shapes[node.name])
        if step[1:]:
            return together([each.layer for each in step], how, x_shapes[0], self.item)
        return [alone(node.layer, how, x_shapes, y, self.item)]

    def _run(self, step: tuple[Node, ...], found: list[Price], slots: dict[str, Piece]) -> Piece:
        """What comes of it in the end; forward its aux is put down too."""
        is_forward = slots is self.x
        source, kind = (step[0].inputs[0], "x") if is_forward else (step[-1].name, "dzdx")
        made = first = slots.setdefault(source, Piece(0, kind))
        for i, price in enumerate(found):
            before, made = made, self._made(step[0], price, made, kind)
            if before is not first:
                self.memory.let_go(before)
            if price.aux and is_forward:
                remembered = self.memory.take("aux", price.aux, lent=True)
                if step[i].name in self.aux_kept:
                    self.aux[step[i].name] = remembered
                else:
                    self.memory.let_go(remembered)
        return made

    def _made(self, node: Node, price: Price, source: Piece, kind: str) -> Piece:
        """What comes of it; or, when it is handed on, what went in."""
        memory = self.memory
        if price.prepared and (node.name, kind) not in self._prepared:
            self._prepared.add((node.name, kind))
            memory.prepared += price.prepared
        memory.sit(price.desk)
        if not price.result:
            source.holders += 1
            return source
        result = memory.take(kind, price.result, lent=price.is_lent) if price.is_first else None
        scratch = [memory.take("workspace", nbytes, lent=True) for nbytes in price.lent]
        scratch.append(memory.take("workspace", price.fresh))
        result = result or memory.take(kind, price.result, lent=price.is_lent)
        for piece in scratch:
            memory.let_go(piece)
        return result

"""A net runs an image forward to any layer and a gradient back from any layers. It is never changed by a run.

All that a run computes is in its `Res`, so one net serves any number of runs at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Self

import numpy as np

from minidnn.arrays import Array, synchronize
from minidnn.entrance import check_seeds, check_weights, fitting_image, named_seeds
from minidnn.errors import StaleResError, UsageError
from minidnn.graph import Handle, Node, as_asked, listed, noted
from minidnn.layers import Conv, Layer, ReLU
from minidnn.layers.base import as_handed, reads
from minidnn.params import Weighted
from minidnn.res import AGAIN, Res

Rules = Mapping[type[Layer] | str, Callable[..., Any]]  # for a kind of layer, or for one by name


class Net(Weighted):
    """`Net([Node("conv1", Conv(...), ("data",)), ...])`, or `Net.chain({"conv1": Conv(...), ...})`.

    `input_shape` is the (h, w, c) of the images it was made for; then all shapes are checked at once. By
    `aliases` {"block1_conv1": "conv1_1"} layers are found under other names too; `source` says where the
    weights came from.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        input: str = "data",
        *,
        input_shape: tuple[int, int, int] | None = None,
        preprocess: Any = None,
        classes: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        source: Mapping[str, str] | None = None,
        kernels: str | Mapping[str, str] = "auto",
    ) -> None:
        about = {"input_shape": input_shape, "preprocess": preprocess, "classes": tuple(classes)}
        super().__init__(nodes, input, **about, aliases=aliases, source=source, kernels=kernels)
        self.input_shape, self.preprocess, self.classes = input_shape, preprocess, tuple(classes)
        self.aliases, self.source = dict(aliases or {}), dict(source or {})
        if input_shape is not None:
            self.shapes((1, *input_shape))

    @classmethod
    def chain(cls, layers: Mapping[str, Layer], input: str = "data", **about: Any) -> Self:
        """Every layer reads the one before."""
        before = [input, *layers]
        nodes = [Node(name, layer, (before[i],)) for i, (name, layer) in enumerate(layers.items())]
        return cls(nodes, input, **about)

    # The three verbs.

    def init_res(self, *, sync: bool = False) -> Res:
        """An empty run of this net; with `sync` its seconds are true on a GPU too."""
        return Res(self.names, self.name_of, sync=sync)

    def forwardto(
        self,
        res: Res,
        layer: Handle | Collection[Handle],
        image: Array | None = None,
        *,
        start: Handle | None = None,
        mode: str = "test",
        rng: np.random.Generator | None = None,
        keep: str | Collection[Handle] = "all",
    ) -> Any:
        """Run up to this layer and hand back its output; for a list of layers, a dict of theirs.

        An image (N, H, W, C) starts afresh. Without one only what is not there yet is computed; with `start`,
        all that depends on that slot, which the caller may have edited. `keep` is "all"; or "needed", what
        the way back reads (in training also for the weights); or the names of slots to keep, "needed" among
        them to keep both. Slots that are not kept to be looked at lose their dzdx too, once it has been used.
        """
        targets = self.names_of(layer)
        if mode not in ("test", "train"):
            raise UsageError(f'no mode {mode!r}; there are "test" and "train"')
        kept = {word if word in ("all", "needed") else self.name_of(word) for word in listed(keep)}
        if image is not None:
            if start is not None:
                raise UsageError("an image and start=... at once: a new image starts at the beginning")
            image = fitting_image(self, image, targets, sure=res.sure)
            res.begin(self.version)
            res[self.input].x = image
        else:
            check_weights(res, self.version)
        if start is not None:
            res.filled(self.name_of(start))
            for name in self.descendants([self.name_of(start)]):
                res[name].clear()
        nodes = self._missing(res, targets, mode)
        x_kept, aux_kept = self._to_keep(kept.union(targets), mode)
        res.shown = set(self.names) if "all" in kept else kept.union(targets)
        for i, node in enumerate(nodes):
            if res[node.name].x is not None:  # a ReLU that its convolution has done on the way
                continue
            self._forward(res, node, mode, rng, self._relu_of(node, nodes[i + 1 :], x_kept))
            if node.name not in aux_kept:
                res[node.name].drop_aux()
            for name in {node.name, *node.inputs} - x_kept:
                if not any(name in later.inputs for later in nodes[i + 1 :]):
                    res[name].drop_x()
        return as_asked(layer, {name: res[name].x for name in targets})

    def backwardfrom(
        self,
        res: Res,
        seeds: Mapping[Handle, Array],
        *,
        params: bool = False,
        rules: Rules | None = None,
        to: Handle | Collection[Handle] | None = 0,
        accumulate: bool = False,
    ) -> Any:
        """Send the derivatives {layer: dz/dx} back, and hand back dz/dx at `to`: by default at the image.

        For a list of layers that is a dict, ready to be the seeds for going on: each layer named is a wall,
        and what would pass through it to another one is left for then. `params` also fills the slots' dzdw,
        of every layer on the way; `accumulate` adds to those that are there. With to=None no gradient by the
        image is made, as for training. `rules` puts functions in the place of a layer's own backward
        (minidnn.rules).
        """
        check_weights(res, self.version)
        by_name = named_seeds(self, seeds)
        goals = () if to is None else self.names_of(to)
        rules = {k if isinstance(k, type) else self.name_of(k): rule for k, rule in (rules or {}).items()}
        after = set(self.names[1:]) if to is None else self.descendants(goals)
        on_the_way = (self.ancestors(by_name, walls=goals) & after).difference(goals)
        wanted = on_the_way.union(goals)  # the slots that get a dzdx
        check_seeds(self, res, by_name, goals, wanted)
        for name in self.ancestors(wanted):
            res[name].dzdx = None
        for slot in res.values() if params and not accumulate else ():
            slot.dzdw = {}
        for name, seed in by_name.items():
            res[name].dzdx = seed.astype(res[self.input].x.dtype, copy=False)
        for node in reversed(self.nodes):
            if node.name in on_the_way:
                self._backward(res, node, rules, wanted, params, accumulate)
                if node.name not in res.shown:
                    res[node.name].dzdx = None
        if to is None:
            return None
        return as_asked(to, {name: res[name].dzdx for name in goals})

    # One layer each way.

    def _forward(
        self, res: Res, node: Node, mode: str, rng: np.random.Generator | None, relu: Node | None
    ) -> None:
        """Run one layer; with a ReLU given, it and that, and then what is between is not kept."""
        slot, began = res[node.name], perf_counter()
        lent = {"mem": res.mem, "how": self.prepared[node.name], "mode": mode, "rng": rng}
        with noted(node):
            y, slot.aux = node.layer.forward(*(res[name].x for name in node.inputs), relu=bool(relu), **lent)
        if res.sync:
            synchronize(y)
        slot.mode, slot.aux_dropped, slot.seconds = mode, False, perf_counter() - began
        if relu is None:
            slot.x = y
        else:
            res[relu.name].x, res[relu.name].mode, slot.dropped_shape = y, mode, y.shape

    def _backward(
        self,
        res: Res,
        node: Node,
        rules: Mapping[Any, Callable],
        wanted: set[str],
        params: bool,
        accumulate: bool,
    ) -> None:
        slot, began, layer = res[node.name], perf_counter(), node.layer
        rule, dzdw = rules.get(node.name, rules.get(type(layer))), {}
        with noted(node):
            if params and layer.params:
                dzdw = layer.backward_params(slot.dzdx, **self._state(res, node, layer.backward_params))
                slot.dzdw = {name: slot.dzdw[name] + d if slot.dzdw else d for name, d in dzdw.items()}
            if not wanted.isdisjoint(node.inputs):
                if rule is None:
                    dzdx = layer.backward(slot.dzdx, dzdw=dzdw, **self._state(res, node, layer.backward))
                else:
                    dzdx = rule(layer, slot.dzdx, **self._state(res, node, rule))
                for name, part in zip(node.inputs, dzdx if isinstance(dzdx, tuple) else (dzdx,), strict=True):
                    if name in wanted:
                        into = res[name]  # what meets here is added out of place: joins hand back views
                        into.dzdx = part if into.dzdx is None else into.dzdx + part
        if res.sync:
            synchronize(slot.dzdx)
        slot.backward_seconds = perf_counter() - began

    def _state(self, res: Res, node: Node, method: Callable) -> dict[str, Any]:
        """What a backward asks for by its signature, and what is always there."""
        slot = res[node.name]
        shapes = [res[name].shape for name in node.inputs]
        state: dict[str, Any] = {"x_shape": as_handed(shapes), "mode": slot.mode}
        state |= {"mem": res.mem, "how": self.prepared[node.name]}
        asked = reads(method)
        if "x" in asked:
            state["x"] = as_handed([res.filled(name).x for name in node.inputs])
        if "y" in asked:
            state["y"] = res.filled(node.name).x
        if "aux" in asked:
            if slot.aux_dropped:
                raise StaleResError(f"what {node.name!r} remembered was dropped: {AGAIN}")
            state["aux"] = slot.aux
        return state

    # What to run, what to keep.

    def _missing(self, res: Res, targets: Iterable[str], mode: str) -> list[Node]:
        """The nodes that must run before all targets are there, in order."""
        wanted, nodes = set(targets), []
        for node in reversed(self.nodes):
            slot = res[node.name]
            if node.name in wanted and slot.x is None:
                if slot.shape is not None and "train" in (mode, slot.mode):
                    again = f"run again in training it would not be the same: {AGAIN}"
                    raise StaleResError(f"slot {node.name!r} was dropped, and {again}")
                self.check_ready(node)
                wanted.update(node.inputs)
                nodes.append(node)
        if nodes and self.input in wanted:
            res.filled(self.input)
        return nodes[::-1]

    def _relu_of(self, node: Node, to_run: list[Node], x_kept: set[str]) -> Node | None:
        """The ReLU behind a convolution whose own output nobody else reads or wants to keep."""
        if not isinstance(node.layer, Conv) or node.name in x_kept:
            return None
        readers = [other for other in to_run if node.name in other.inputs]
        return readers[0] if len(readers) == 1 and type(readers[0].layer) is ReLU else None

    def _to_keep(self, kept: set[str], mode: str) -> tuple[set[str], set[str]]:
        """Of which slots x and aux stay after the pass: those named, and those that the way back reads."""
        if "all" in kept:
            return set(self.names), set(self.names)
        x_kept, aux_kept = kept | {self.input}, set(kept)
        for node in self.nodes if "needed" in kept else ():
            read = reads(type(node.layer).backward)
            if mode == "train":
                read |= reads(type(node.layer).backward_params)
            x_kept.update(node.inputs if "x" in read else (), [node.name] if "y" in read else ())
            aux_kept.update([node.name] if "aux" in read else ())
        return x_kept, aux_kept

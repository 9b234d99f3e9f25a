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
from minidnn.graph import Handle, Node, as_asked, in_steps, listed, noted
from minidnn.kernels import Behind, ReluPool
from minidnn.kernels.cpu.threads import CREW
from minidnn.layers import Layer, MaxPool
from minidnn.layers.base import as_handed, reads
from minidnn.params import Weighted
from minidnn.res import AGAIN, Res
from minidnn.window import Window

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
        steps = in_steps(nodes, x_kept)
        last_to_read = {name: step for step in steps for node in step for name in node.inputs}
        with CREW.alone():
            for step in steps:
                self._forward(res, step, mode, rng)
                for name in {node.name for node in step} - aux_kept:
                    res[name].drop_aux()
                for name in {step[-1].name, *step[0].inputs} - x_kept:
                    if last_to_read.get(name, step) is step:
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
        looked_at = set(self.names) if params or rules else res.shown.union(goals, by_name)
        nodes = [node for node in self.nodes if node.name in on_the_way]
        with CREW.alone():
            for step in reversed(in_steps(nodes, looked_at)):
                self._backward(res, step, rules, wanted, params, accumulate)
                if step[-1].name not in res.shown:
                    res[step[-1].name].dzdx = None
        if to is None:
            return None
        return as_asked(to, {name: res[name].dzdx for name in goals})

    # One step each way: one layer, or a convolution and what it does on the way.

    def _forward(self, res: Res, step: tuple[Node, ...], mode: str, rng: np.random.Generator | None) -> None:
        (node, *after), began = step, perf_counter()
        behind = ReluPool(_window(after)) if after else None
        lent = {"mem": res.mem, "how": self.prepared[node.name], "mode": mode, "rng": rng, "behind": behind}
        with noted(node):
            y, aux = node.layer.forward(*(res[name].x for name in node.inputs), **lent)
        if res.sync:
            synchronize(y)
        known = (aux,) if behind is None else (None, aux.bits, aux.switches)
        for each, remembered in zip(step, known, strict=False):
            slot = res[each.name]
            slot.aux, slot.mode, slot.aux_dropped, slot.seconds = remembered, mode, False, 0.0
            if each is not step[-1]:
                slot.dropped_shape = node.layer.out_shape(res.filled(node.inputs[0]).x.shape)
        res[step[-1].name].x, res[node.name].seconds = y, perf_counter() - began

    def _backward(
        self,
        res: Res,
        step: tuple[Node, ...],
        rules: Mapping[Any, Callable],
        wanted: set[str],
        params: bool,
        accumulate: bool,
    ) -> None:
        (node, *after), began = step, perf_counter()
        slot, layer, dzdy = res[node.name], node.layer, res[step[-1].name].dzdx
        rule, dzdw = rules.get(node.name, rules.get(type(layer))), {}
        behind = self._behind(res, after)
        with noted(node):
            if params and layer.params:
                dzdw = layer.backward_params(dzdy, **self._state(res, node, layer.backward_params))
                slot.dzdw = {name: slot.dzdw[name] + d if slot.dzdw else d for name, d in dzdw.items()}
            if not wanted.isdisjoint(node.inputs):
                if rule is None:
                    state = self._state(res, node, layer.backward)
                    dzdx = layer.backward(dzdy, dzdw=dzdw, behind=behind, **state)
                else:
                    dzdx = rule(layer, dzdy, **self._state(res, node, rule))
                for name, part in zip(node.inputs, dzdx if isinstance(dzdx, tuple) else (dzdx,), strict=True):
                    if name in wanted:
                        into = res[name]  # what meets here is added out of place: joins hand back views
                        into.dzdx = part if into.dzdx is None else into.dzdx + part
        if res.sync:
            synchronize(dzdy)
        for each in after:
            res[each.name].backward_seconds = 0.0
        slot.backward_seconds = perf_counter() - began

    def _behind(self, res: Res, after: Sequence[Node]) -> Behind:
        """What was done on the way forward by the convolution before these nodes."""
        if not after:
            return None
        known = []
        for node in reversed(after):
            with noted(node):
                known.append(self._state(res, node, node.layer.backward)["aux"])
        return ReluPool(_window(after), *reversed(known))

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


def _window(after: Sequence[Node]) -> Window | None:
    """Of the pooling, if there is one behind the ReLU."""
    return next((node.layer.window for node in after if isinstance(node.layer, MaxPool)), None)

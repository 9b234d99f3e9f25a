"""A Keras model's JSON, of any of its three generations, as one list of calls in an order that can run.

Shared layers, models within models, chains and graphs: behind this file there is only `Wiring`. A class is a
word to be looked up in our own table (keras_layers); nothing is imported or run by its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from minidnn.errors import DamagedFileError, TooLargeError, UnsupportedError
from weights_tools.readers.keras.part import Part, kind_of, modern, snake_case

MAX_JSON = 8 << 20  # bytes
MAX_DEPTH = 100  # brackets within brackets; nested models need five for each model
MAX_CALLS = 10_000

CHAIN, GRAPHS = "Sequential", ("Functional", "Model")


class Ref(NamedTuple):
    """One output of one call of a layer of the same model."""

    name: str
    call: int
    output: int


class Step(NamedTuple):
    """Within a model: the `call`-th call of an entry."""

    name: str
    call: int
    reads: list[Ref]
    oddity: str


@dataclass
class Model:
    """A model, or a model within one, as the file has it."""

    entries: dict[str, Part | Model] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    inputs: list[Ref] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    input_shape: list | None = None
    input_name: str = ""


class Call(NamedTuple):
    """A layer at work: it reads values and makes one. Value 0 is the image, value n that of the n-th call."""

    part: Part
    reads: tuple[int, ...]
    oddity: str  # what about this call we have no word for


@dataclass
class Wiring:
    """The whole net, flat."""

    name: str
    calls: list[Call]
    parts: list[Part]  # every layer once, in the file's order
    outputs: list[int]
    input_name: str
    input_shape: list | None  # (n, ...), None where it is left open


def parsed(text: str | bytes, what: str) -> dict[str, Any]:
    """JSON that is neither too large nor too deep."""
    if len(text) > MAX_JSON:
        raise TooLargeError(f"{what}: {len(text):,} bytes of JSON, the limit is {MAX_JSON:,}")
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        raise DamagedFileError(f"{what}: no JSON ({str(error)[:80]}); fetch the file again") from None
    stack = [(found, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _too_deep(what)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        stack.extend((one, depth + 1) for one in inner if isinstance(one, dict | list))
    try:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot even be printed
    except ValueError:
        raise DamagedFileError(f"{what}: text that is none; fetch the file again") from None
    return _of(found, dict, f"{what}: the model")


def wiring(described: dict[str, Any], what: str) -> Wiring:
    """The calls of a model, from its JSON."""
    kind, config = described.get("class_name"), described.get("config")
    if kind != CHAIN and kind not in GRAPHS:
        raise UnsupportedError(
            f"{what}: the model is a class of its own, {str(kind)[:60]!r}, whose wiring is in its program; "
            f"save a Sequential or functional model, or convert its weights alone"
        )
    model = _Reader(what).model(str(kind), config, (), ())
    run = _Run(what)
    outputs = run.model(model, [0])
    name = config.get("name") if isinstance(config, dict) else described.get("name")
    return Wiring(
        str(name or kind)[:200], run.calls, list(_parts(model)), outputs, model.input_name, model.input_shape
    )


class _Reader:
    """From JSON to `Model`. It recurs once for each model within a model, as deep as the JSON is at most."""

    def __init__(self, what: str) -> None:
        self.what = what

    def model(self, kind: str, config: Any, within: tuple[str, ...], group: tuple[str, ...]) -> Model:
        held = {"layers": config} if isinstance(config, list) else _of(config, dict, f"{self.what}: a model")
        layers = _of(held.get("layers"), list, f"{self.what}: 'layers'")
        described = [_of(layer, dict, f"{self.what}: a layer") for layer in layers]
        model, twins = Model(), Counter[str]()
        for number, layer in enumerate(described):
            name, entry = self._entry(layer, number, within, group, twins)
            if name in model.entries:
                raise DamagedFileError(f"{self.what}: two layers are called {name!r}; fetch the file again")
            model.entries[name] = entry
        if kind == CHAIN:
            self._chain(model, held)
        else:
            self._graph(model, held, described)
        return model

    def _entry(
        self,
        layer: dict[str, Any],
        number: int,
        within: tuple[str, ...],
        group: tuple[str, ...],
        twins: Counter[str],
    ) -> tuple[str, Part | Model]:
        kind, config = kind_of(layer), layer.get("config")
        named = config if isinstance(config, dict) else {}
        name = layer.get("name") or named.get("name") or f"{kind.lower()}_{number + 1}"
        if not isinstance(name, str) or len(name) > 200:
            raise DamagedFileError(f"{self.what}: a layer is called {str(name)[:60]!r}; fetch it again")
        snake = snake_case(kind)
        own = (*group, f"{snake}_{twins[snake]}" if twins[snake] else snake)
        twins[snake] += 1
        if (kind == CHAIN or kind in GRAPHS) and (isinstance(config, list) or "layers" in named):
            return name, self.model(kind, config, (*within, name), own)
        config = _of(config, dict, f"{self.what}: the config of {name!r}")
        return name, Part(kind, name, modern(config), within, own)

    def _chain(self, model: Model, held: dict[str, Any]) -> None:
        """Every layer reads the one before; the size of the image is told by the first of them."""
        before = Ref("", 0, 0)  # a name that no layer has
        model.inputs = [before]
        for name, entry in model.entries.items():
            if isinstance(entry, Part) and entry.kind == "InputLayer":
                model.input_name = name
                continue
            model.steps.append(Step(name, 0, [before], ""))
            before = Ref(name, 0, 0)
        model.outputs = [before]
        first = next(iter(model.entries.values()), None)
        if isinstance(first, Part):
            model.input_shape = _shape(first.config) or held.get("build_input_shape")
        elif first is not None:
            model.input_shape = first.input_shape

    def _graph(self, model: Model, held: dict[str, Any], described: list[dict[str, Any]]) -> None:
        model.inputs = self._refs(held.get("input_layers"))
        model.outputs = self._refs(held.get("output_layers"))
        first = model.entries.get(model.inputs[0].name) if model.inputs else None
        if isinstance(first, Part):
            model.input_name, model.input_shape = first.name, _shape(first.config)
        given = {ref.name for ref in model.inputs}
        for (name, _), layer in zip(model.entries.items(), described, strict=True):
            calls = _of(layer.get("inbound_nodes", []), list, f"{self.what}: 'inbound_nodes' of {name!r}")
            for number, call in enumerate(calls if name not in given else ()):
                reads, oddity = self._read_by(call)
                model.steps.append(Step(name, number, reads, oddity))
        model.steps = in_order(model.steps, given, self.what)

    def _read_by(self, call: Any) -> tuple[list[Ref], str]:
        """What one call reads, and what is odd about it: Keras 3 writes a dict, those before a list."""
        if isinstance(call, dict):
            options = call.get("kwargs") or {}
            refs = [Ref(*self._ref(history)) for history in _histories(call.get("args"))]
            odd = "a tensor among its options" if any(_histories(options)) else ""
        else:
            listed = _of(call, list, f"{self.what}: a call in 'inbound_nodes'")
            listed = [listed] if listed and isinstance(listed[0], str) else listed
            refs = [Ref(*self._ref(one)) for one in listed]
            options = next((one[3] for one in listed if len(one) > 3 and one[3]), {})
            odd = ""
        if isinstance(options, dict) and options.get("training") is True:
            odd = odd or "always as in training"
        return refs, odd

    def _refs(self, value: Any) -> list[Ref]:
        """Inputs or outputs of a model: one, a list, or a dict of them."""
        value = list(value.values()) if isinstance(value, dict) else value
        value = _of(value, list, f"{self.what}: inputs or outputs of a model")
        return [Ref(*self._ref(one)) for one in ([value] if value and isinstance(value[0], str) else value)]

    def _ref(self, value: Any) -> tuple[str, int, int]:
        match value:
            case [str(name), int(call), int(output), *_]:
                return name, call, output
        raise DamagedFileError(f"{self.what}: {str(value)[:60]!r} is no output of a layer; fetch it again")


class _Run:
    """The calls of a model as they would happen, those within its inner models too."""

    def __init__(self, what: str) -> None:
        self.what, self.calls, self.count = what, list[Call](), 0

    def model(self, model: Model, given: list[int]) -> list[int]:
        if len(given) != len(model.inputs):
            raise UnsupportedError(
                f"{self.what}: a model of {len(model.inputs)} inputs, given {len(given)}; "
                f"a net here reads one image: cut out a model that does"
            )
        made = {(ref.name, ref.call): [value] for ref, value in zip(model.inputs, given, strict=True)}
        for step in model.steps:
            self.count += 1
            if self.count > MAX_CALLS:
                raise TooLargeError(f"{self.what}: more than {MAX_CALLS:,} layers; not a net we could run")
            reads, entry = [self._value(made, ref) for ref in step.reads], model.entries[step.name]
            if isinstance(entry, Model):
                made[step.name, step.call] = self.model(entry, reads)
            else:
                self.calls.append(Call(entry, tuple(reads), step.oddity))
                made[step.name, step.call] = [len(self.calls)]
        return [self._value(made, ref) for ref in model.outputs]

    def _value(self, made: dict[tuple[str, int], list[int]], ref: Ref) -> int:
        outputs = made.get((ref.name, ref.call), [])
        if not 0 <= ref.output < len(outputs):
            raise DamagedFileError(
                f"{self.what}: output {ref.output} of call {ref.call} of {ref.name[:60]!r} is read, "
                f"which there is not; fetch the file again"
            )
        return outputs[ref.output]


def in_order(steps: list[Step], given: set[str], what: str) -> list[Step]:
    """Each step behind all that it reads, and otherwise in the file's order."""
    number = {(step.name, step.call): at for at, step in enumerate(steps)}
    waits, readers = [0] * len(steps), [list[int]() for _ in steps]
    for at, step in enumerate(steps):
        for before in {(ref.name, ref.call) for ref in step.reads if ref.name not in given}:
            if before not in number:
                raise DamagedFileError(
                    f"{what}: {step.name!r} reads {before[0][:60]!r}, which there is not; fetch it again"
                )
            readers[number[before]].append(at)
            waits[at] += 1
    ready = [at for at, waiting in enumerate(waits) if not waiting]
    heapify(ready)
    ordered = []
    while ready:
        at = heappop(ready)
        ordered.append(steps[at])
        for reader in readers[at]:
            waits[reader] -= 1
            if not waits[reader]:
                heappush(ready, reader)
    if len(ordered) < len(steps):
        stuck = steps[next(at for at, waiting in enumerate(waits) if waiting)].name
        raise DamagedFileError(f"{what}: the layers read each other in a circle at {stuck!r}; fetch it again")
    return ordered


def _shape(config: Mapping[str, Any]) -> list | None:
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    return shape if isinstance(shape, list) else None


def _histories(value: Any) -> Iterator[Any]:
    """Whatever a call of Keras 3 reads, in order: tensors anywhere within its arguments."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict) and one.get("class_name") == "__keras_tensor__":
            held = one.get("config")
            yield held.get("keras_history") if isinstance(held, dict) else None
        elif isinstance(one, dict | list):
            stack.extend(reversed(list(one.values()) if isinstance(one, dict) else one))


def _parts(model: Model) -> Iterator[Part]:
    for entry in model.entries.values():
        if isinstance(entry, Part):
            yield entry
        else:
            yield from _parts(entry)


def _of(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        wanted = "a list" if kind is list else "an object"
        raise DamagedFileError(f"{what} is {str(value)[:60]!r}, expected {wanted}; fetch the file again")
    return value


def _too_deep(what: str) -> DamagedFileError:
    return DamagedFileError(f"{what}: JSON nested more than {MAX_DEPTH} deep; fetch the file again")

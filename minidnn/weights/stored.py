"""Nets whose numbers lie in a file: what they are known by, and when somebody looks at them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from minidnn.arrays import Array, to_host
from minidnn.errors import DamagedFileError
from minidnn.graph import Handle, Node
from minidnn.net import Net
from minidnn.params import once
from minidnn.weights.index import Fingerprint, digest_of, non_finite, sha256_of


class Known(NamedTuple):
    """An array as it came out of the file, by its name there, and the sha256 of its numbers."""

    array: Array
    name: str
    sha256: str


class StoredNet(Net):
    """A net from a file. Each layer's numbers are looked at once, when a run first comes to that layer.

    So a NaN is found before it spreads, and what no run needs is never read from the disk. `known` are the
    arrays as they came, by their ids. After `updating()` the numbers are no longer the file's.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        input: str = "data",
        *,
        known: Mapping[int, Known],
        allow_nonfinite: bool = False,
        **about: Any,
    ) -> None:
        super().__init__(nodes, input, **about)
        self.about |= {"known": known, "allow_nonfinite": allow_nonfinite}
        self.known = known
        self._seen: set[str] = set()  # the layers whose numbers have been looked at

    def check_ready(self, node: Node) -> None:
        """That the weights are there, and are numbers."""
        super().check_ready(node)
        if node.name in self._seen or self.version or self.about["allow_nonfinite"]:
            return
        for name, array in (node.layer.params | node.layer.buffers).items():
            found = self.known.get(id(array))
            check_finite(array, f"{node.name}/{name}" if found is None else found.name, self.source["path"])
        self._seen.add(node.name)


def check_finite(array: Array, name: str, path: str) -> None:
    """A NaN would not stop a run: it would spread until all is NaN."""
    if count := non_finite(array):
        how = "fetch it again, or take it as it is: load(..., allow_nonfinite=True)"
        raise DamagedFileError(f"{path}: {count:,} non-finite values in {name!r}; {how}")


def digest(net: Net, *, upto: Handle | Collection[Handle] | None = None) -> str:
    """The sha256 of all weights of a net, with their names and shapes; of those that `upto` needs alone.

    It is the same for a net and for what `load` makes of its float32 file; for arrays as they came from a
    file it is not computed again.
    """
    on_the_way = set(net.names) if upto is None else net.ancestors(net.names_of(upto))
    nodes = [node for node in net.nodes if node.name in on_the_way]
    known: Mapping[int, Known] = getattr(net, "known", {})

    def fingerprint(name: str, array: Array) -> Fingerprint:
        dtype = array.dtype.newbyteorder("<").str
        found = known.get(id(array))
        sha256 = sha256_of(to_host(array)) if found is None else found.sha256
        return Fingerprint(name, dtype, tuple(array.shape), sha256)

    arrays = once(nodes, "params") | once(nodes, "buffers")
    return digest_of(fingerprint(name, array) for name, array in arrays.items())

"""Where Keras keeps its arrays: in two layouts, under names that changed with every version.

So it is the order of a layer's arrays and their rank that tells what they are; names only where these do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError
from minidnn.weights.guarded import Guarded
from weights_tools.foreign import Arrays
from weights_tools.readers.keras.part import Part

MAX_NAMES = 100_000
GROUPS = ("layers", "_layer_checkpoint_dependencies")  # in Keras 3 files; the second until TensorFlow 2.15
VARIABLE = re.compile(rf"((?:.+/)?(?:{'|'.join(GROUPS)})/[^/]+)/vars/(\d{{1,4}})")
NOT_WEIGHTS = ("StateVar", "seed_generator_state")  # random generators of augmentation and dropout
MOMENTS = ("mean", "var")
COUNTED = {"layer_names": ("nb_layers", "layer"), "weight_names": ("nb_params", "param")}  # before Keras 1


def weight_counts(part: Part) -> tuple[int, int]:
    """How many arrays of a layer are trained, and how many are only kept."""
    match part.kind:
        case "Conv2D" | "DepthwiseConv2D" | "Conv2DTranspose" | "Dense":
            return 1 + part.flag("use_bias", True), 0
        case "SeparableConv2D":
            return 2 + part.flag("use_bias", True), 0
        case "BatchNormalization":
            return part.flag("scale", True) + part.flag("center", True), 2
        case "PReLU":
            return 1, 0
    return 0, 0


class Stored:
    """The arrays of a file as float32; all together they may not have more bytes than the file."""

    def __init__(self, file: Guarded) -> None:
        self.file, self.left = file, file.size
        self.dtypes: set[str] = set()  # those that were not float32

    def read(self, path: str) -> np.ndarray:
        info, what = self.file.info(path), f"{self.file.path}: {path!r}"
        self.left -= info.nbytes
        if self.left < 0:
            raise TooLargeError(f"{what}: the arrays listed have more bytes than the file; fetch it again")
        is_bfloat = (info.dtype.kind in "uV" and info.dtype.itemsize == 2) and (
            self.file.attributes(path).get("dtype") in ("bfloat16", b"bfloat16")
        )
        if not is_bfloat and info.dtype.kind != "f":
            raise UnsupportedError(f"{what} holds {info.dtype}, not floats; save the net unquantised")
        if info.dtype != np.float32:
            self.dtypes.add("bfloat16" if is_bfloat else info.dtype.name)
        held = self.file.read(path)
        if is_bfloat:  # the upper half of a float32
            return (held.view("<u2").astype("<u4") << 16).view("<f4")
        return held.astype(np.float32, copy=False)

    def texts(self, group: str, name: str) -> list[str]:
        """A list of names in an attribute; a long one lies in several: name0, name1, and so on."""
        held = self.file.attributes(group)
        parts = [held[name]] if name in held else []
        while f"{name}{len(parts)}" in held and name not in held:
            parts.append(held[f"{name}{len(parts)}"])
        texts = [text(one, f"{self.file.path}: {name!r}") for part in parts for one in np.ravel(part)]
        if len(texts) > MAX_NAMES:
            raise TooLargeError(f"{self.file.path}: {name!r} has {len(texts):,} names; not a net")
        return texts


class Legacy(Stored):
    """A group for each layer, which lists its arrays in `weight_names`.

    Theano slid its filters upside down (a true convolution), and Keras 1 kept them (K, C, kh, kw). Before
    that it only counted: layer_0, layer_1 …, and in each param_0 and param_1.
    """

    def __init__(self, file: Guarded, root: str) -> None:
        super().__init__(file)
        self.root = root
        held = file.attributes(root)
        backend = held.get("backend", file.attributes().get("backend", b""))
        self.backend = text(backend, f"{file.path}: 'backend'")
        version = held.get("keras_version", file.attributes().get("keras_version", b""))
        name = file.path.name
        self.is_old = text(version, f"{file.path}: 'keras_version'").split(".")[0] in ("", "0", "1")
        self.is_flipped = self.backend == "theano" or "_th_kernels" in name
        self.is_chw = "th_dim_ordering" in name  # the axes of maps, so of what a dense layer reads
        self._shares: dict[Part, list[np.ndarray]] = {}

    def texts(self, group: str, name: str) -> list[str]:
        counted, word = COUNTED[name]
        count = self.file.attributes(group).get(counted)
        if count is None:
            return super().texts(group, name)
        if not isinstance(count, np.integer) or not 0 <= count <= MAX_NAMES:
            found = f"{self.file.path}: {counted!r} of {group or 'the file'} is {str(count)[:60]}"
            raise DamagedFileError(f"{found}, expected a number up to {MAX_NAMES:,}; fetch it again")
        return [f"{word}_{number}" for number in range(count)]

    def of_layer(self, name: str) -> dict[str, np.ndarray]:
        """A layer's arrays by their names in the file, in its order."""
        group = f"{self.root}/{name}".lstrip("/")
        listed = [one for one in self.texts(group, "weight_names") if not is_state(one)]
        if len(set(listed)) < len(listed):
            raise DamagedFileError(f"{self.file.path}: {name!r} lists an array twice; fetch it again")
        return self._upright({one: self.read(f"{group}/{one}") for one in listed})

    def layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        names = self.texts(self.root, "layer_names")
        if len(set(names)) < len(names):
            raise DamagedFileError(f"{self.file.path}: 'layer_names' has one name twice; fetch it again")
        for name in names:
            held = self.of_layer(name)
            owners = {path: path.rpartition("/")[0] for path in held}
            if len(set(owners.values())) < 2:
                yield name, held
                continue
            for owner in dict.fromkeys(owners.values()):  # a model within the model
                inner = {path: array for path, array in held.items() if owners[path] == owner}
                yield f"{name}/{owner.rpartition('/')[2]}", inner

    def share(self, parts: Iterable[Part]) -> None:
        """Hand out to the layers what is theirs, those of a model within a model from its one list.

        That one has all that is trained first, layer by layer, and then what is only kept; what is frozen
        counts as kept.
        """
        families: dict[str, list[Part]] = {}
        for part in parts:
            families.setdefault((*part.within, part.name)[0], []).append(part)
        for name, family in families.items():
            split = [(part, *_split(part, weight_counts(part))) for part in family]
            wanted = sum(trained + kept for _, trained, kept in split)
            arrays = list(self.of_layer(name).values()) if wanted else []
            if len(arrays) != wanted:
                raise MismatchError(
                    f"{self.file.path}: layer {name!r} has {len(arrays)} arrays, its config asks for "
                    f"{wanted}; fetch the file again"
                )
            rest = iter(arrays)
            for part, trained, _ in split:
                self._shares[part] = [next(rest) for _ in range(trained)]
            for part, _, kept in split:
                self._shares[part] += [next(rest) for _ in range(kept)]

    def __call__(self, part: Part) -> list[np.ndarray]:
        return self._shares[part]

    def _upright(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The filters among them as (kh, kw, C, K), not flipped."""
        kernel, bias = (*arrays.values(), None, None)[:2]
        if self.is_old and kernel is not None and bias is not None and (kernel.ndim, bias.ndim) == (4, 1):
            self.is_chw |= len(bias) == kernel.shape[0] != kernel.shape[3]
        for name, array in arrays.items():
            if array.ndim == 4 and self.is_old and self.is_chw:
                array = array.transpose(2, 3, 1, 0)
            if array.ndim == 4 and self.is_flipped:
                array = array[::-1, ::-1]
            arrays[name] = np.ascontiguousarray(array)
        return arrays


class Keras3(Stored):
    """A group for each layer, named after its class and numbered; its arrays are numbered too."""

    def __call__(self, part: Part) -> list[np.ndarray]:
        for word in GROUPS:
            group = "/".join(f"{word}/{name}" for name in part.group) + "/vars"
            if group in self.file:
                numbers = sorted(self.file.names(group), key=int_of)
                return [self.read(f"{group}/{number}") for number in numbers]
        return []

    def layers(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(group, arrays) of every layer, conv2d_2 before conv2d_10."""
        found: dict[str, list[int]] = {}
        for path in self.file.walk():
            if (match := VARIABLE.fullmatch(path)) and not path.startswith("optimizer"):
                found.setdefault(match[1], []).append(int(match[2]))
        for group in sorted(found, key=numbered):
            yield group, {str(n): self.read(f"{group}/vars/{n}") for n in sorted(found[group])}

    def name_of(self, group: str) -> str:
        """The user's name of a layer where the file says it, else that of its group."""
        given = self.file.attributes(f"{group}/vars").get("name", b"")
        return text(given, f"{self.file.path}: a name") or group.rpartition("/")[2]


def named(name: str, arrays: dict[str, np.ndarray], hint: str = "") -> dict[str, Arrays]:
    """What the arrays of a layer are, by their order and rank; a separable layer becomes two."""
    values, ranks = list(arrays.values()), [array.ndim for array in arrays.values()]
    words = [path.rpartition("/")[2].partition(":")[0] for path in arrays]
    bias: Arrays = {"b": values[-1]} if ranks[-1] == 1 and len(ranks) > 1 else {}
    match ranks:
        case [4] | [4, 1] if "depthwise" in hint + words[0] or _is_depthwise(values):
            return {name: {"w": depthwise(values[0])} | bias}
        case [4] | [4, 1] | [2] | [2, 1]:
            return {name: {"w": values[0]} | bias}
        case [4, 4] | [4, 4, 1]:
            return {f"{name}_depthwise": {"w": depthwise(values[0])}, name: {"w": values[1]} | bias}
        case [3] if sorted(values[0].shape)[:2] == [1, 1]:
            return {name: {"slope": values[0].reshape(-1)}}
        case [1, 1, *rest] if len(rest) <= 2 and rest.count(1) == len(rest):
            learnt = ("gamma", "beta") if len(rest) == 2 else ("beta",) if len(rest) == 1 else ()
            if len(rest) == 1 and "gamma" in words[0]:
                learnt = ("gamma",)
            return {name: dict(zip((*learnt, *MOMENTS), values, strict=True))}
    raise UnsupportedError(f"{name!r} with arrays of shape {', '.join(str(a.shape) for a in values)}")


def depthwise(kernel: np.ndarray) -> np.ndarray:
    """(kh, kw, C, M), M filters for each channel alone, as (kh, kw, 1, C*M) for a Conv of C groups."""
    kh, kw, c, m = kernel.shape
    return kernel.reshape(kh, kw, 1, c * m)


def text(value: Any, what: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            return str(value)
    except UnicodeDecodeError:
        pass
    raise DamagedFileError(f"{what} is {str(value)[:60]!r}, expected text; fetch the file again")


def int_of(name: str) -> int:
    """The number that an array of Keras 3 is named by."""
    if not re.fullmatch(r"\d{1,4}", name):
        raise DamagedFileError(f"an array is called {name[:60]!r}, expected a number; fetch the file again")
    return int(name)


def numbered(path: str) -> list[tuple[str, int]]:
    """For sorting: conv2d, conv2d_1, conv2d_2, conv2d_10."""
    parts = [re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", part, re.DOTALL) for part in path.split("/")]
    return [(match[1], int(match[2] or 0)) for match in parts if match]


def is_state(name: str) -> bool:
    return name.rpartition("/")[2].startswith(NOT_WEIGHTS)


def _split(part: Part, counts: tuple[int, int]) -> tuple[int, int]:
    trained, kept = counts
    frozen = part.within and part.config.get("trainable") is False
    return (0, trained + kept) if frozen else (trained, kept)


def _is_depthwise(values: list[np.ndarray]) -> bool:
    """(kh, kw, C, M) has C*M outputs, and its bias as many; in other kernels the last axis is that long."""
    shape = values[0].shape
    return len(values) > 1 and len(values[1]) == shape[2] * shape[3] != shape[3]

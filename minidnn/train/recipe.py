"""A run as a recipe: all that it takes, in words and numbers alone, so that it can be told and repeated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from minidnn import optim, weights, zoo
from minidnn.errors import ShapeError, UsageError, did_you_mean
from minidnn.layers import Dropout
from minidnn.net import Net, Node
from minidnn.train import augment, schedules
from minidnn.train.data import DataSet, Splits, brought, preprocess_for, split
from minidnn.train.fit import Way
from minidnn.train.init import initialised
from minidnn.train.opening import open_data
from minidnn.train.pictures import size_of
from minidnn.train.relearn import replace_head

FOLDER = Path(__file__).parent / "recipes"
TRAINED = "trained"  # as first weights: those of a net that comes so
OPTIMISERS: dict[str, type[optim.Optimiser]] = {
    "sgd": optim.SGD,
    "slide-momentum": optim.SlideMomentum,
    "momentum": optim.Momentum,
    "nesterov": optim.Nesterov,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSProp,
    "adam": optim.Adam,
}


@dataclass(frozen=True)
class Recipe:
    """What to train on what, and how. In a TOML file each line is one of these names = a value."""

    net: str = "lenet"  # by its name in the zoo, or a file of ours to go on with
    options: tuple[str, ...] = ()  # of the net's builder: ("batch_norms=true",)
    head: str = ""  # "last": a last layer anew, for these classes; or the layer behind which a new end comes
    learn: tuple[str, ...] = ()  # the layers whose weights move, as ("conv10", "fire9/*"); none: all
    data: str = ""  # a path: minidnn.train.opening says what may lie there
    size: str = ""  # "32x48", height first: what pictures are brought to
    grey: bool = False
    validation: float = 0.1  # the share that is set aside, where the data bring a test set
    normalise: bool = True  # mean 0 and deviation 1 by these data; false: as the net has it
    first_weights: str = "he"
    dropout: float = -1.0  # the rate of all Dropout layers; -1: as the net has it
    epochs: int = 10
    batch: int = 128
    optimiser: str = "nesterov"
    rate: float = 0.01
    alpha: float = 0.9  # of the momenta
    schedule: str = "cosine"
    warm_up: float = 0.0  # epochs
    every: int = 10  # epochs between the drops of schedule "step"
    drop: float = 0.1  # and of "plateau"
    plateau: int = 3  # epochs without a new low before it drops
    loss: str = "cross_entropy"
    weight_penalty: float = 0.0  # λ of λ * sum of w²
    clip: float = 0.0  # the gradient's greatest length; 0: any
    patience: int = 0  # epochs without a new low before the run ends early; 0: it never does
    augment: tuple[str, ...] = ()  # ("flip", "crop 4")
    norm_share: float = 0.1
    seed: int = 0
    fold: bool = True  # save with batch norms merged into the convolutions
    dtype: str = "float32"  # or float16, in which the weights are saved

    def way(self) -> Way:
        """How to train."""
        return Way(
            epochs=self.epochs,
            batch=self.batch,
            optimiser=self._optimiser(),
            schedule=self._schedule(),
            augment=augment.from_words(self.augment),
            loss=self.loss,
            weight_penalty=self.weight_penalty,
            clip=self.clip,
            patience=self.patience,
            norm_share=self.norm_share,
            learn=self.learn,
            seed=self.seed,
        )

    def splits(self, cache: Path | None = None) -> Splits:
        """The data, opened and split."""
        if not self.data:
            raise UsageError('no data to train on; give --data PATH, or data = "..." in the recipe')
        size = size_of(self.size) if self.size else None
        parts = open_data(self.data, size=size, grey=self.grey, cache=cache)
        parts = {name: brought(part, size, grey=self.grey) for name, part in parts.items()}
        return split(parts, seed=self.seed, validation=self.validation)

    @property
    def goes_on(self) -> bool:
        """Whether it begins with what a net has learned before."""
        return self.first_weights == TRAINED or self.net.endswith((".h5", ".hdf5"))

    def drawn(self, net: Net) -> Net:
        """The net with first weights, drawn by the seed."""
        return initialised(net, self.first_weights, np.random.default_rng([self.seed, 0xF1]))

    def first_net(self, learned: DataSet) -> Net:
        """The net with its first weights, and with the preprocessing and classes of these data."""
        if self.goes_on:
            net: Net = zoo.trained(self.net) if self.first_weights == TRAINED else weights.load(self.net)
            net = Net(net.nodes, net.input, **{k: v for k, v in net.about.items() if k in _ABOUT})
        else:
            net = self.drawn(zoo.get(self.net, seed=None, **self._options()))
        if self.head:
            after, rng = None if self.head == "last" else self.head, np.random.default_rng([self.seed, 0xE4D])
            net = replace_head(net, learned.classes, after=after, rng=rng)
        _check_channels(net, learned)
        preprocess = net.preprocess
        if self.normalise or preprocess is None:
            preprocess = preprocess_for(learned, preprocess)
        nodes = self._dropping(net) if self.dropout >= 0 else net.nodes
        about = {"input_shape": learned.shape, "preprocess": preprocess, "classes": learned.classes}
        return net.with_nodes(nodes, **about)

    def _dropping(self, net: Net) -> list[Node]:
        """The nodes, with the rate that was asked for in all Dropout layers."""
        drops = [node.name for node in net.nodes if isinstance(node.layer, Dropout)]
        if not drops and self.dropout > 0:
            raise UsageError(f"dropout={self.dropout:g}, and {self.net} has no Dropout layer; leave it out")
        new = Dropout(self.dropout)
        return [node._replace(layer=new) if node.name in drops else node for node in net.nodes]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Recipe:
        known = {field.name for field in fields(cls)}
        kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        return cls(**{name: value for name, value in kept.items() if name in known})

    def _optimiser(self) -> optim.Optimiser:
        if self.optimiser not in OPTIMISERS:
            near = did_you_mean(self.optimiser, OPTIMISERS)
            raise UsageError(f"no optimiser {self.optimiser!r}; there are {', '.join(OPTIMISERS)}{near}")
        kind = OPTIMISERS[self.optimiser]
        takes_alpha = "alpha" in {field.name for field in fields(kind)}
        return kind(rate=self.rate, **({"alpha": self.alpha} if takes_alpha else {}))

    def _schedule(self) -> schedules.Schedule:
        if self.schedule not in schedules.SCHEDULES:
            near = did_you_mean(self.schedule, schedules.SCHEDULES)
            raise UsageError(
                f"no schedule {self.schedule!r}; there are {', '.join(schedules.SCHEDULES)}{near}"
            )
        kind = schedules.SCHEDULES[self.schedule]
        own = {"every": self.every, "drop": self.drop, "patience": self.plateau}
        taken = {field.name for field in fields(kind)}
        return kind(warm_up=self.warm_up, **{name: value for name, value in own.items() if name in taken})

    def _options(self) -> dict[str, Any]:
        """("batch_norms=true", "classes=5") as the net's builder takes them."""
        found: dict[str, Any] = {}
        for words in self.options:
            name, equals, value = words.partition("=")
            if not equals:
                raise UsageError(f"options: {words!r}; give it as name=value")
            known = {"true": True, "false": False}
            found[name.strip()] = known.get(
                value.strip().lower(), int(value) if value.strip().isdigit() else value
            )
        return found


def _check_channels(net: Net, learned: DataSet) -> None:
    """That a net for grey sees grey, and one for colour colour."""
    wanted, found = net.input_shape[2] if net.input_shape else 0, learned.shape[2]
    if wanted not in (0, found):
        advice = "set grey=true" if (wanted, found) == (1, 3) else "give others, or another net"
        raise ShapeError(f"{learned.name}: pictures of {found} channels, the net sees {wanted}; {advice}")


_ABOUT = set(signature(Net.__init__).parameters)


def built_in() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}

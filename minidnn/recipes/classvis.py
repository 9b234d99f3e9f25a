"""What does a net think a bee eater looks like? Begin with noise and climb the class (Simonyan et al. 2014).

Pixel by pixel with the numbers of the practical that many know, or painted in waves (`canvas="fourier"`). In
the practical, pictures are counted in deviations of ImageNet's colours; here they become those of a dream.
"""

from __future__ import annotations

from dataclasses import dataclass

from minidnn.dream.priors import MIDDLE
from minidnn.errors import UsageError
from minidnn.recipes.deepdream import DeepDream

DEVIATION = 255 * 0.225  # pixels to one deviation of the colours in ImageNet
ABLATION = {"none": (0.0, 0), "moderate": (1e-3, 10), "strong": (1e-1, 2)}  # regularisation, blur every


PAINTED = {"canvas": "fourier", "rule": "adam", "rate": 0.05, "turn": 5.0}  # of all that was tried, by eye


@dataclass(frozen=True)
class ClassVis:
    """The class, and how it is climbed.

    regularisation * |x|² is held against it and each step has length `rate`, both in deviations; painted in
    waves nothing needs to be held back.
    """

    target: str  # a class by name or number
    steps: int = 200
    jitter: int = 16
    after_softmax: bool = False
    seed: int = 0
    painted: bool = False
    rate: float = 5.0  # this and what follows is not for a painted one
    regularisation: float = 1e-3
    blur: float = 0.5
    blur_every: int = 10  # 0: never

    def __post_init__(self) -> None:
        if self.blur_every < 0 or self.blur < 0:
            raise UsageError(f"blur {self.blur} every {self.blur_every} steps; give 0 or more")

    def as_dream(self, **changes: object) -> DeepDream:
        """The same as settings of a dream."""
        told = {
            "objective": f"{'probability' if self.after_softmax else 'class'}:{self.target}",
            "steps": self.steps,
            "octaves": 1,
            "jitter": self.jitter,
            "seed": self.seed,
        }
        told |= PAINTED if self.painted else self._practical()
        return DeepDream(**told | changes)  # type: ignore[arg-type]

    def _practical(self) -> dict[str, object]:
        return {
            "rule": "unit",
            "rate": self.rate * DEVIATION,
            "decay": self.regularisation * (MIDDLE / DEVIATION) ** 2,
            "blur": self.blur if self.blur_every else 0.0,
            "blur_every": self.blur_every or 1,
            "colours": 0.0,
            "smooth": (),
        }

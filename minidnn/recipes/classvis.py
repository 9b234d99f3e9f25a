"""What does a net think a bee eater looks like? Begin with noise and climb the class (Simonyan et al. 2014).

The settings speak the language of the practical that many know: there pictures are counted in deviations of
the colours in ImageNet. Here they become those of a dream, so that all that dreams can do, this can too.
"""

from __future__ import annotations

from dataclasses import dataclass

from minidnn.dream.priors import MIDDLE
from minidnn.errors import UsageError
from minidnn.recipes.deepdream import DeepDream

DEVIATION = 255 * 0.225  # pixels to one deviation of the colours in ImageNet
ABLATION = {"none": (0.0, 0), "moderate": (1e-3, 10), "strong": (1e-1, 2)}  # regularisation, blur every


@dataclass(frozen=True)
class ClassVis:
    """regularisation * |x|² is held against the class; each step has length `rate`; both in deviations."""

    target: str  # a class by name or number
    steps: int = 200
    rate: float = 5.0
    regularisation: float = 1e-3
    blur: float = 0.5
    blur_every: int = 10  # 0: never
    jitter: int = 16
    after_softmax: bool = False
    painted: bool = False  # in waves with natural colours instead: another climb, and a richer picture
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blur_every < 0 or self.blur < 0:
            raise UsageError(f"blur {self.blur} every {self.blur_every} steps; give 0 or more")

    def as_dream(self, **changes: object) -> DeepDream:
        """The same as settings of a dream."""
        kind = "probability" if self.after_softmax else "class"
        told = {
            "objective": f"{kind}:{self.target}",
            "steps": self.steps,
            "octaves": 1,
            "rule": "unit",
            "rate": self.rate * DEVIATION,
            "decay": self.regularisation * (MIDDLE / DEVIATION) ** 2,
            "blur": self.blur if self.blur_every else 0.0,
            "blur_every": self.blur_every or 1,
            "jitter": self.jitter,
            "colours": 0.0,
            "smooth": (),
            "seed": self.seed,
        }
        if self.painted:
            told |= {
                "canvas": "fourier",
                "rule": "adam",
                "rate": 0.05,
                "decay": 0.0,
                "blur": 0.0,
                "turn": 5.0,
            }
        return DeepDream(**told | changes)  # type: ignore[arg-type]

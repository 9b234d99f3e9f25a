"""Taking the frames of a dream, with a bar, previews and checkpoints on the way; and stopping it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from minidnn import images, weights
from minidnn.arrays import Array, to_host
from minidnn.dream import Frame
from minidnn.errors import DivergedError
from minidnn.recipes import checkpoint
from minidnn.recipes.job import Opened, picture_digest
from minidnn.recipes.microscope import Microscope, Seen

NOTED = (
    "value",
    "penalty",
    "gradient_norm",
    "penalty_norm",
    "step_norm",
    "layer_norms",
    "seconds",
    "octave",
    "number",
)
STRIP = 480  # pixels of the long side at which pictures are kept for a strip


@dataclass
class Watched:
    """What came of it: the last picture, what was noted of every step, and how it ended."""

    picture: Array
    history: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[str, Array]] = field(default_factory=list)  # for the strip, small
    seen: Seen | None = None  # through the microscope
    stopped: bool = False
    diverged: DivergedError | None = None

    @property
    def digests(self) -> list[str]:
        return [row["digest"] for row in self.history]


def watch(
    opened: Opened,
    *,
    preview: tuple[int, Path] | None = None,
    save_to: tuple[Path, float] | None = None,
    resume: checkpoint.Checkpoint | None = None,
    keep_pictures: bool = False,
    microscope: bool = False,
) -> Watched:
    """All frames of a dream. `preview`: (every so many steps, where); `save_to`: (where, every so many s).

    The first Ctrl-C ends it after the step at hand, with all that it has; the second at once. When numbers
    run away the picture before is what came of it.
    """
    found = Watched(opened.picture, history=list(resume.history) if resume else [])
    if resume:
        found.picture = resume.frame.picture
    digest, saved = weights.digest(opened.net) if save_to else "", monotonic()
    last = resume.frame if resume else None
    if keep_pictures:
        found.pictures.append(("start", _small(opened.picture)))
    scope = None
    if microscope:
        scope = Microscope(opened.net, opened.picture, opened.objective.layers, steps=opened.total)
    label = ", ".join(opened.net.name_of(layer) for layer in opened.objective.layers)
    with (
        tqdm(total=opened.total, initial=len(found.history), desc=label, unit="step") as bar,
        stopping() as asked,
    ):
        try:
            for frame in opened.frames(last):
                last, found.picture = frame, frame.picture
                found.history.append({name: getattr(frame, name) for name in NOTED})
                found.history[-1]["digest"] = picture_digest(to_host(frame.picture))
                bar.update()
                bar.set_postfix_str(f"z {frame.value:.4g}, octave {frame.octave + 1}/{len(opened.sizes)}")
                done = len(found.history)
                if keep_pictures:
                    found.pictures.append((f"step {done}", _small(frame.picture)))
                if scope:
                    scope.show(done, frame.picture)
                if preview and done % preview[0] == 0:
                    images.save(preview[1], frame.picture)
                if save_to and monotonic() - saved > save_to[1]:
                    checkpoint.save(save_to[0], _there(opened, digest, frame, found))
                    saved = monotonic()
                if asked:
                    found.stopped = True
                    break
        except DivergedError as error:
            if last is None:
                raise
            found.diverged = error
    if save_to and last is not None:
        checkpoint.save(save_to[0], _there(opened, digest, last, found))
    found.seen = scope.seen(len(found.history), found.picture) if scope else None
    return found


@contextmanager
def stopping() -> Iterator[list[bool]]:
    """A list that is empty until Ctrl-C is pressed; pressed again, it interrupts as ever."""
    words = b"\nstopping after this step; Ctrl-C again stops at once\n"
    asked: list[bool] = []

    def ask(number: int, where: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        os.write(2, words)  # print might be in the middle of a word of the bar

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: whoever runs us there stops us in another way
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _there(opened: Opened, digest: str, frame: Frame, found: Watched) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(opened.job, digest, opened.files, frame, found.history)


def _small(picture: Array) -> np.ndarray:
    h, w = picture.shape[1:3]
    share = min(1.0, STRIP / max(h, w))
    return images.resize(to_host(picture), (max(1, round(h * share)), max(1, round(w * share))))

"""A folder of photos, or of the frames of a film, dreamed in order; each begins with some of the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minidnn import images
from minidnn.arrays import Array, to_host
from minidnn.cli.watching import Watched, watch
from minidnn.errors import OutputError, UsageError
from minidnn.recipes.forecast import check_cost
from minidnn.recipes.job import Job, Opened

PHOTOS = (*images.WRITABLE, ".gif")


def dream_folder(
    folder: str, output: str, job: Job, *, device: str = "cpu", watching: Callable[[Opened], Watched] = watch
) -> int:
    """Every photo of the folder by name, into the folder `output` under the same names, as PNG."""
    photos = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PHOTOS)
    if not photos:
        raise UsageError(f"{folder}: no photos in it; they end in {', '.join(PHOTOS)}")
    goal, stems = Path(output), [photo.stem for photo in photos]
    if goal.suffix.lower() in images.WRITABLE or (goal.exists() and goal.samefile(folder)):
        raise UsageError(f"--output {output}: many pictures need a folder of their own to go to")
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise UsageError(
            f"{folder}: several photos are called {', '.join(sorted(twice))}; rename one of each"
        )
    for photo in photos:
        images.load(photo)  # a broken one is better known now than after a night of dreaming
    try:
        goal.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {goal}: {error.strerror}") from None
    before: Array | None = None
    for number, photo in enumerate(photos, start=1):
        opened = replace(job, photo=str(photo)).opened(device)
        check_cost(opened)
        if before is not None and before.shape == opened.picture.shape:
            blend = job.settings.blend
            opened = opened._replace(picture=(1 - blend) * opened.picture + blend * before)
        found = watching(opened)
        before, path = found.picture, goal / f"{photo.stem}.png"
        images.save(path, to_host(before))
        print(f"wrote {path} ({number} of {len(photos)})")
        if found.diverged is not None:
            raise found.diverged
        if found.stopped:
            return 130
    return 0

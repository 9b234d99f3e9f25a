"""Pictures in a row as a film: GIF, animated PNG and WebP by Pillow; MP4 with the extra `video`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from minidnn.errors import OutputError, UsageError
from minidnn.files import replacing

ENDINGS = (".gif", ".png", ".webp", ".mp4")
FASTEST = 50  # pictures a second, for in a GIF each stays for whole hundredths
KINDS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}


def check(path: str | os.PathLike, *, rate: int = 12) -> None:
    """That such a film can be written here."""
    if not 1 <= rate <= FASTEST:
        raise UsageError(f"{rate} pictures a second; give 1 to {FASTEST}: no film shows more")
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{path}: no film ends in {ending!r}; end it in {', '.join(ENDINGS)}")
    if ending == ".mp4":
        _ffmpeg()


def save(path: str | os.PathLike, pictures: Sequence[np.ndarray], *, rate: int = 12) -> None:
    """Write pictures (1, H, W, 3), all of one size, `rate` of them a second; whole or not at all."""
    check(path, rate=rate)
    if not pictures or len({picture.shape for picture in pictures}) != 1:
        raise UsageError(f"{path}: a film wants pictures of one size, at least one")
    frames = [np.rint(picture[0].clip(0, 255)).astype(np.uint8) for picture in pictures]
    ending = Path(path).suffix.lower()
    with replacing(path) as partial:
        if ending == ".mp4":
            h, w = frames[0].shape[:2]  # H.264 wants even sizes
            even = [frame[: h - h % 2, : w - w % 2] for frame in frames]
            film = _ffmpeg().mimsave(
                "<bytes>", even, format="mp4", fps=rate, codec="libx264", macro_block_size=2
            )
            partial.write_bytes(film)  # ffmpeg itself would want a name that ends in .mp4
            return
        first, *others = (Image.fromarray(frame) for frame in frames)
        more = {"save_all": True, "append_images": others, "duration": round(1000 / rate), "loop": 0}
        try:
            first.save(partial, KINDS[ending], **more)
        except ValueError as error:
            raise OutputError(f"{path}: {error}; choose another kind of film") from error


def _ffmpeg():  # type: ignore[no-untyped-def]  # a module without types
    try:
        import imageio.v2
    except ImportError:
        raise UsageError("MP4 wants ffmpeg: pip install 'minidnn[video]', or end the name in .gif") from None
    return imageio.v2

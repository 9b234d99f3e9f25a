"""Pictures of pictures: sheets with a caption under each, and strips that show how a dream went."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minidnn.arrays import Array, to_host
from minidnn.dream.octaves import sized
from minidnn.errors import UsageError

GAP = 6  # pixels between pictures
CAPTION = 240  # pixels that a caption may take under a picture that is narrower
PAPER = (255, 255, 255)
INK = (40, 40, 40)


def sheet(
    pictures: Sequence[tuple[str, Array]], *, columns: int | None = None, height: int = 240
) -> np.ndarray:
    """Pictures of any sizes in rows, brought to one height: (1, H, W, 3), 0..255."""
    if not pictures:
        raise UsageError("a sheet of no pictures; give at least one")
    columns = columns or min(len(pictures), 4)
    font = ImageFont.load_default(size=14)
    tiles = [(caption, _as_image(picture, height)) for caption, picture in pictures]
    longest, line = max(font.getlength(caption) for caption, _ in tiles), 20
    width = max(*(tile.width for _, tile in tiles), min(CAPTION, ceil(longest)))
    rows = -(-len(tiles) // columns)
    paper = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (height + line + GAP)), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (caption, tile) in enumerate(tiles):
        left = GAP + number % columns * (width + GAP)
        top = GAP + number // columns * (height + line + GAP)
        paper.paste(tile, (left + (width - tile.width) // 2, top))
        words = _shortened(caption, width, font)
        pen.text((left + width / 2, top + height + 3), words, INK, font, anchor="ma")
    return np.asarray(paper, np.float32)[None]


def strip(frames: Sequence[tuple[str, Array]], count: int = 6) -> np.ndarray:
    """`count` of many pictures, evenly chosen, the first and the last among them, side by side."""
    if not frames:
        raise UsageError("a strip of no pictures; give at least one")
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    return sheet([frames[number] for number in chosen], columns=len(chosen), height=180)


def _as_image(picture: Array, height: int) -> Image.Image:
    pixels = to_host(picture)
    h, w = pixels.shape[1:3]
    scale = min(height / h, 4 * height / w)  # a picture like a ribbon shall not make a sheet of miles
    pixels = sized(pixels, (max(1, round(h * scale)), max(1, round(w * scale))))[0].clip(0, 255)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _shortened(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the caption as fits."""
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"

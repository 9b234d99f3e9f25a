"""Published weights from the web: resumed where they broke off, checked where a hash is known.

The standard library does it. Where pooch is installed (pip install 'minidnn[fetch]') it begins the download:
it brings its own certificates. What was fetched is still a foreign file: it is read behind the wall.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from minidnn.errors import DamagedFileError, OutputError, TooLargeError, UsageError, did_you_mean
from weights_tools.registry import FILES

MAX_BYTES = 1 << 30
CHUNK = 1 << 18
PATIENCE = 30  # seconds without a byte
NAMED = {"User-Agent": "minidnn"}

Progress = Callable[[int, int | None], None]  # bytes so far, and in all where that is known


def home() -> Path:
    """MINIDNN_HOME, or a folder in the user's cache."""
    said = os.environ.get("MINIDNN_HOME")
    if said:
        return Path(said)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "minidnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minidnn"


def fetch(name: str, *, folder: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """The files of that name, fetched unless they are there already; weights first."""
    if name not in FILES:
        raise UsageError(
            f"no published weights {name!r}; there are {', '.join(FILES)}{did_you_mean(name, FILES)}"
        )
    published, folder = FILES[name], folder or home()
    place = folder / published.file
    parts = [(published.url, place, published.hash)]
    if published.beside:
        parts.append((published.beside, folder / f"{place.stem}.prototxt", None))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; set MINIDNN_HOME to another folder") from None
    for url, path, known in parts:
        if not path.exists():
            _fetch_one(url, path, known, progress)
        elif known is not None:
            check(path, known)
    return [path for _, path, _ in parts]


def _fetch_one(url: str, path: Path, known: str | None, progress: Progress | None) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        if importlib.util.find_spec("pooch") and not partial.exists():
            _download_by_pooch(url, partial, progress)
        else:
            _download(url, partial, progress)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        have = partial.stat().st_size if partial.exists() else 0
        kept = f"; {have:,} bytes are kept, say it again to go on" if have else ""
        raise OutputError(f"{url}: {reason}{kept}; or fetch it by other means and put it to {path}") from None
    except OSError as error:
        raise OutputError(
            f"{partial}: {error.strerror or error}; free some space or set MINIDNN_HOME"
        ) from None
    if known is not None:
        try:
            check(partial, known)
        except DamagedFileError:
            partial.unlink()
            raise
    os.replace(partial, path)


def _download(url: str, partial: Path, progress: Progress | None) -> None:
    """From where the partial file ends, if the server can do that."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers=NAMED | _from(have))
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left of it: it was whole
            return
        raise
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        done = have if answer.status == 206 else 0
        left = answer.headers.get("Content-Length")
        total = done + int(left) if left and left.isdigit() else None
        if (total or 0) > MAX_BYTES:
            raise TooLargeError(
                f"{url}: {total:,} bytes, the limit is {MAX_BYTES:,}; fetch it by other means"
            )
        while chunk := answer.read(CHUNK):
            done += len(chunk)
            if done > MAX_BYTES:
                raise TooLargeError(f"{url}: more than {MAX_BYTES:,} bytes; fetch it by other means")
            file.write(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)


class Counted:
    """A file that says how far it is, and takes no more than the limit."""

    def __init__(self, file: BinaryIO, url: str, progress: Progress | None) -> None:
        self.file, self.url, self.progress, self.done = file, url, progress, 0

    def write(self, chunk: bytes) -> int:
        self.done += len(chunk)
        if self.done > MAX_BYTES:
            raise TooLargeError(f"{self.url}: more than {MAX_BYTES:,} bytes; fetch it by other means")
        if self.progress is not None:
            self.progress(self.done, None)
        return self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()


def _download_by_pooch(url: str, partial: Path, progress: Progress | None) -> None:
    """From the beginning; where it breaks off, the other one goes on."""
    import pooch
    import requests

    bring = pooch.HTTPDownloader(timeout=PATIENCE, chunk_size=CHUNK, headers=NAMED)
    try:
        with partial.open("wb") as file:
            bring(url, Counted(file, url, progress), None)
    except requests.RequestException as error:
        raise urllib.error.URLError(str(error)) from None


def _from(have: int) -> dict[str, str]:
    return {"Range": f"bytes={have}-"} if have else {}


def check(path: Path, known: str) -> None:
    """The file's hash is the one that its publisher states, as far as it is stated."""
    kind, _, wanted = known.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if not found.startswith(wanted):
        raise DamagedFileError(
            f"{path}: {kind} is {found}, published was {wanted}; delete it and fetch it again"
        )

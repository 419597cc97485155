"""The living line of `prepare`."""

import time

from imagesprint.console import Console


class Progress:
    """Shows images done of all, images/s of this run and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = self._new = 0
        self._begun = time.monotonic()
        self.images_per_second = 0.0

    def begin(self, total: int, done: int) -> None:
        """Begin with `done` of `total` images already there."""
        self._total, self._done = total, done
        self._begun = time.monotonic()
        if done:
            self._console.line(f"going on: {done:,} of {total:,} images are in finished shards")

    def add(self, images: int) -> None:
        """Count `images` more and show the line."""
        self._new += images
        self._console.live(self._text())

    def end(self) -> None:
        """Show the last state for good."""
        if self._new:
            self._console.live(self._text(), last=True)

    def _text(self) -> str:
        seconds = time.monotonic() - self._begun
        self.images_per_second = self._new / max(seconds, 1e-9)
        done = self._done + self._new
        left = (self._total - done) / max(self.images_per_second, 1e-9)
        rate = f"{self.images_per_second:,.0f} images/s"
        return f"preparing  {done:,}/{self._total:,} images  {done / self._total:.0%}  {rate}  ETA {_clock(left)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

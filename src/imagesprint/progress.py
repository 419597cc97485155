"""The living line of work on many images."""

import time

from imagesprint.console import Console, duration


class Progress:
    """Shows images done of all, images/s of this run and the time that is left."""

    def __init__(self, console: Console, doing: str) -> None:
        self._console, self._doing = console, doing
        self._total = self._done = self._new = 0
        self._begun = time.monotonic()
        self.images_per_second = 0.0

    def begin(self, total: int, done: int) -> None:
        """Begin with `done` of `total` images already there; 0 where the number of all is not known yet."""
        self._total, self._done = total, done
        self._begun = time.monotonic()
        if done:
            self._console.line(f"going on: {done:,} of {total:,} images are in finished shards")

    def expect(self, total: int) -> None:
        """Take `total` for the number of all images: it was not known, or only about, before."""
        self._total = total

    def add(self, images: int) -> None:
        """Count `images` more and show the line."""
        self._new += images
        self._show()

    def end(self) -> None:
        """Show the last state for good."""
        if self._new:
            self._show(last=True)

    def _show(self, last: bool = False) -> None:
        seconds = time.monotonic() - self._begun
        self.images_per_second = self._new / max(seconds, 1e-9)
        done, rate = self._done + self._new, f"{self.images_per_second:,.0f} images/s"
        if not self._total:
            self._console.live(f"{self._doing}  {done:,} images", rate, last=last)
            return
        share, left = done / self._total, duration((self._total - done) / max(self.images_per_second, 1e-9))
        self._console.live(
            f"{self._doing}  {done:,}/{self._total:,} images  {share:.0%}  ETA {left}",
            rate,
            short=f"{self._doing}  {share:.0%}  ETA {left}",
            last=last,
        )

"""At which steps something besides training happens. Pure."""

from dataclasses import dataclass

from imagesprint.recipes.schedule import Schedule

LOG_EVERY = 10  # steps between rows of metrics.jsonl, each of which costs one host read


@dataclass(frozen=True)
class Cadence:
    """`step` below is always the number of steps done.

    `checkpoint_every` counts steps, or is None for every epoch; `until` is the step at which this command ends.
    """

    schedule: Schedule
    eval_every: int
    checkpoint_every: int | None
    until: int

    def evaluate(self, step: int) -> bool:
        """At the end of every `eval_every`-th epoch, and at the end of the run."""
        if step == self.schedule.total_steps:
            return True
        epoch = self.schedule.position(step).epoch
        return self.eval_every > 0 and self.schedule.is_epoch_start(step) and epoch % self.eval_every == 0

    def checkpoint(self, step: int) -> bool:
        """At every epoch, or every so many steps; and where this command ends."""
        if step == self.until:
            return True
        if self.checkpoint_every is None:
            return self.schedule.is_epoch_start(step)
        return step % self.checkpoint_every == 0

    def log(self, step: int) -> bool:
        """Every LOG_EVERY steps and wherever a phase, an epoch or the command ends, or a checkpoint is written.

        A window of logged steps never spans a checkpoint: a resumed run logs the same windows.
        """
        if step % LOG_EVERY == 0 or self.checkpoint(step) or self.evaluate(step):
            return True
        return any(step == end for _, end in self.schedule.bounds)

    def evaluations(self, start: int) -> list[int]:
        """The steps after `start`, up to the command's end, at which one is due; in order."""
        return [step for step in self.schedule.epoch_ends() if start < step <= self.until and self.evaluate(step)]

    def checkpoints(self, start: int) -> list[int]:
        """The steps after `start`, up to the command's end, at which one is due; in order."""
        every = self.checkpoint_every
        due = self.schedule.epoch_ends() if every is None else range(every, self.until, every)
        return sorted({step for step in (*due, self.until) if start < step <= self.until})

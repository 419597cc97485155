"""What the figures of a run tell of its accuracy."""

from collections import Counter
from typing import Final

from imagesprint.images.decoders import decoder_name
from imagesprint.measuring.doctor.check import Check, failure, ok, warning
from imagesprint.measuring.reporting.run_record import RunRecord
from imagesprint.recipes.schedule import Schedule

_LEARNT: Final = 20.0  # points of top-1 over chance, on training images
_LOST: Final = 0.25  # the share of that which is suspiciously little on validation images
_SHIFTED: Final = 0.8  # the share of the most frequent confusions
_FEW: Final = 20  # confusions, which say nothing yet
_MANY_OVERFLOWS: Final = 0.01  # of the steps
_MANY_BAD: Final = 0.001  # of the images: what `prepare --max-rejected` takes for too many


def result_checks(record: RunRecord, schedule: Schedule | None) -> list[Check]:
    """What the logs, the newest checkpoint and the results of `evaluate` say; `schedule` where it is known."""
    checks = [_files(record), _finished(record, schedule), _labels(record), _bad_records(record), _decoder(record)]
    return [*checks, _overflows(record)] if record.recipe.precision == "fp16" else checks


def _files(record: RunRecord) -> Check:
    if not record.remarks:
        return ok("files", "all are whole")
    return warning("files", "; ".join(record.remarks), "the weights do not depend on it")


def _finished(record: RunRecord, schedule: Schedule | None) -> Check:
    step = record.last.step
    if record.result is not None:
        return ok("finished", f"all {step:,} steps are done")
    found = f"{step:,}{f' of {schedule.total_steps:,}' if schedule else ''} steps are done"
    hint = "give the same train command again: most of the accuracy comes where the learning rate falls"
    return warning("finished", f"{found}, at learning rate {record.last.lr:.3g}", hint)


def _labels(record: RunRecord) -> Check:
    """Whether validation labels mean what training labels do: else one learns and the other stays at chance."""
    name, classes = "labels", record.checkpoint.get("classes", [])
    if not record.evaluations or not classes:
        return ok(name, "nothing was evaluated and saved yet")
    chance = 100 / len(classes)
    learnt, judged = record.last.top1, record.evaluations[-1].top1
    found = f"top-1 {learnt:.1f}% in training, {judged:.1f}% in evaluation, {chance:.1f}% by chance"
    shift = _shift(record, classes)
    if shift:
        hint = f"labels are off by {abs(shift)}: prepare or index both splits anew, from one list of classes"
        return failure(
            name, f"{found}; most mistakes are {abs(shift)} class{'es' if abs(shift) > 1 else ''} away", hint
        )
    if learnt >= chance + _LEARNT and judged < chance + _LOST * (learnt - chance):
        hint = (
            "look at both: imagesprint inspect ROOT --ids 0,1,2 --split validation; if they are right, batch norm's "
            "statistics may not be: imagesprint evaluate RUN --data ROOT --recalibrate 10000"
        )
        return warning(name, f"{found}: the labels of validation may mean other classes", hint)
    return ok(name, found)


def _shift(record: RunRecord, classes: list[str]) -> int:
    """By how many classes most mistakes of the newest evaluation in RUN/evaluated are off; 0: by no one number."""
    if not record.judged or record.judged[0]["top1"] > 50 or len(classes) < 3:
        return 0
    confusions = record.judged[0]["details"]["confusions"]
    number = {name: index for index, name in enumerate(classes)}
    shifts: Counter[int] = Counter()
    for row in confusions:
        if row["class"] in number and row["taken_for"] in number:
            shifts[number[row["taken_for"]] - number[row["class"]]] += row["count"]
    if shifts.total() < _FEW:
        return 0
    shift, count = shifts.most_common(1)[0]
    return shift if count >= _SHIFTED * shifts.total() else 0


def _bad_records(record: RunRecord) -> Check:
    count = record.total("bad_records")
    images = sum(row.images_per_second * row.seconds for row in record.metrics)
    if not count:
        return ok("bad records", "none")
    found = f"{count:,} times another record stood in for a bad one, in {images:,.0f} images"
    hint = "imagesprint verify ROOT --decode lists the bad ones; prepare them again"
    return (warning if count > _MANY_BAD * images else ok)("bad records", found, hint)


def _overflows(record: RunRecord) -> Check:
    count = record.total("overflows")
    found = f"{count:,} of {record.last.step:,} steps were lost to gradients that fp16 cannot hold"
    if count <= _MANY_OVERFLOWS * record.last.step:
        return ok("overflows", found)
    return warning("overflows", found, "train anew with --set precision=bf16, or a lower --set loss_scale=64")


def _decoder(record: RunRecord) -> Check:
    trained, here = record.checkpoint.get("decoder", ""), decoder_name()
    if trained in ("", here):
        return ok("decoder", f"{here}, in training and here")
    found = f"trained with {trained}, evaluated here with {here}: pixels differ slightly"
    return warning("decoder", found, f"IMAGESPRINT_DECODER={trained}, or an installation that has it")

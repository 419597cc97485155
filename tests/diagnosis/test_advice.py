"""Only what applies is advised, in order of what it saves."""

from dataclasses import replace

import pytest

from imagesprint.diagnosis.advice import Setting, Variant, advise
from imagesprint.diagnosis.doctor import limit_checks
from imagesprint.diagnosis.verdict import STAGES, Figures, find_limits

# Two threads load 512 images in 1 s; the step needs 0.5.
STARVED = Figures(images=512, step=1.0, load=1.0, read_share=0.1, jpeg_share=0.7, data_wait=0.5)
FULL = Variant("full", False, 100_000, 500 * 375)
SETTING = Setting(phase=1, image_size=128, variant="full", world_size=1, threads=2)


def advised(figures: Figures, setting: Setting, stage: str = "decode") -> dict[str, float | None]:
    return {each.what: each.saved for each in advise(stage, figures, setting)}


def test_threads_only_where_cores_are_left() -> None:
    assert not any("thread" in what for what in advised(STARVED, SETTING))
    found = advised(STARVED, replace(SETTING, spare_cores=2))
    (what,) = [what for what in found if "thread" in what]
    assert what == "2 more threads: unset OMP_NUM_THREADS, or set it to 4"
    assert found[what] == pytest.approx(0.5)


def test_a_smaller_variant_by_its_bytes() -> None:
    small = Variant("160", False, 16_000, 213 * 160)
    there = advised(STARVED, replace(SETTING, source=FULL, smaller=(small,)))
    what, saved = next(iter(there.items()))
    assert what == "--set phases.1.source=160, which changes the result"
    assert saved == pytest.approx(0.5)  # all that there is to save: the step needs the rest
    missing = advised(STARVED, replace(SETTING, source=FULL))
    assert next(iter(missing)).startswith(
        "imagesprint prepare SOURCE ROOT --variants 160, and --set phases.1.source=160"
    )
    already = advised(STARVED, replace(SETTING, variant="160", source=small))
    assert not any("phases.1.source" in what for what in already)
    assert not any("phases" in what for what in advised(STARVED, replace(SETTING, variant="160")))


def test_raw_pixels_cost_reading_and_save_decoding() -> None:
    small = Variant("160", False, 16_000, 213 * 160)
    found = advised(STARVED, replace(SETTING, variant="160", source=small))
    (what,) = found
    assert "--variants 160 --format raw" in what
    assert "6.4 times the bytes" in what
    assert found[what] == pytest.approx(0.7 - 0.1 * (213 * 160 * 3 / 16_000 - 1))
    raw = replace(small, is_raw=True)
    assert not advised(replace(STARVED, jpeg_share=0.0), replace(SETTING, variant="160", source=raw))


def test_the_native_decoder_where_it_is_missing() -> None:
    assert any("native decoder" in what for what in advised(STARVED, replace(SETTING, decoder="pillow")))


def test_the_most_that_helps_comes_first() -> None:
    small = Variant("256", False, 60_000, 340 * 256)
    setting = replace(SETTING, source=FULL, smaller=(small,), spare_cores=2, decoder="pillow")
    saved = list(advised(STARVED, setting).values())
    assert len(saved) == 4
    assert saved == sorted(saved, key=lambda value: -(value or 0))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_advice(stage: str) -> None:
    figures = replace(
        STARVED,
        copy=0.4,
        copy_wait=0.1,
        straggler=0.1,
        straggling_rank=5,
        reduction=0.1,
        checkpoint=0.2,
        evaluation=0.3,
    )
    assert advised(figures, replace(SETTING, device="cuda", spare_cores=1), stage)


def test_checks_say_the_figures_and_what_to_do() -> None:
    checks = limit_checks(STARVED, find_limits([(STARVED, 1)]), replace(SETTING, spare_cores=2))
    first = checks[0]
    assert (first.name, first.status) == ("phase 1: decode", "warning")
    assert first.detail == "decoding feeds 569 images/s, training does 512; were it free it would be +100%"
    assert first.hint.startswith("2 more threads: unset OMP_NUM_THREADS, or set it to 4: +100%; or ")
    assert {check.name for check in checks} == {"phase 1: decode", "phase 1: compute", "phase 1: read"}
    straggling = replace(STARVED, data_wait=0.0, load=0.1, straggler=0.5, straggling_rank=5)
    assert "the others wait 50% of the time (500.0 ms a step) for rank 5" in limit_checks(
        straggling, find_limits([(straggling, 1)]), SETTING
    )[0].detail  # fmt: skip

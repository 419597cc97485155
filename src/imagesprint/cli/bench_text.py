"""What the benches print for people: at most 100 columns wide."""

from collections.abc import Mapping
from typing import Any

from imagesprint.cli.output import table
from imagesprint.console import duration, printable


def head(result: Mapping[str, Any]) -> str:
    """Return the line that says what the figures were measured on."""
    return f"{result['device']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def step_text(result: Mapping[str, Any]) -> str:
    """Return the result of `bench step`."""
    ceilings = result["ceilings"]
    lines = [
        head(result),
        f"{_training(result)}, {result['steps']} steps each on synthetic data",
        f"ceilings of one rank: copy {ceilings['copy_bytes_per_second'] / 1e9:,.1f} GB/s (read and written), matrix "
        f"product {ceilings['matmul_flops_per_second'] / 1e12:,.3g} TFLOP/s ({ceilings['dtype']})",
        "",
        _step_table(result["phases"]),
        "ms: of an eager step, by part. bound: images/s ÷ what the memory allows each operation by itself",
    ]
    if "projection" in result:
        lines += ["", _projection_text(result["projection"])]
    if "variants" in result:
        left_out = (f"{name} is left out: {why}" for name, why in result["left_out"].items())
        lines += ["", _variants_table(result["variants"]), *left_out]
    return "\n".join(lines)


def _training(result: Mapping[str, Any]) -> str:
    ranks = result["world_size"]
    seconds = sum(row["compile_seconds"] for row in result["phases"])
    mode = f"compiled in {seconds:.1f} s" if result["compiled"] else "eager"
    return (
        f"{printable(result['recipe'])}: {result['model']}, {result['precision']}, {mode}, "
        f"{ranks} rank{'s' if ranks > 1 else ''} of {result['threads']} CPU threads"
    )


def _step_table(phases: list[Mapping[str, Any]]) -> str:
    header = ["px", "batch", "micro", "images/s", "input", "forw.", "backw.", "reduce", "update ms"]
    rows = []
    for row in phases:
        parts = [round(1000 * seconds, 1) for seconds in row["seconds_by_part"].values()]
        rows.append(
            [
                *(row[key] for key in ("image_size", "batch_size", "micro_batch")),
                rate(row["images_per_second"]),
                *parts,
                f"{row['flops_per_second'] / 1e12:.3g} ({row['share_of_matmul']:.0%})",
                f"{row['share_of_memory_bound']['eager']:.0%}",
                round(row["peak_memory"] / 1e9, 2),
            ]
        )
    return table([*header, "TFLOP/s", "bound", "GB"], rows)


def _variants_table(variants: list[Mapping[str, Any]]) -> str:
    rows: list[list[object]] = [
        [
            *(row[key] for key in ("image_size", "batch_size", "micro_batch", "variant")),
            rate(row["images_per_second"]),
            round(1000 * row["seconds_per_step"], 1),
            round(row["compile_seconds"], 1),
            round(row["peak_memory"] / 1e9, 2),
        ]
        for row in variants
    ]
    return table(["px", "batch", "micro", "variant", "images/s", "ms a step", "compiling s", "GB"], rows)


def rate(images_per_second: float) -> float:
    """Return images a second as they are shown."""
    return round(images_per_second) if images_per_second >= 100 else round(images_per_second, 1)


def _projection_text(projection: Mapping[str, Any]) -> str:
    rows: list[list[object]] = [
        [row["image_size"], row["steps"], row["images"], rate(row["images_per_second"]), duration(row["seconds"])]
        for row in projection["phases"]
    ]
    return (
        f"derived, not measured: the whole recipe on {projection['num_train']:,} images would train for "
        f"{projection['seconds']:,.0f} s ({duration(projection['seconds'])})\n"
        f"= {projection['derived']}\n{table(['px', 'steps', 'images', 'images/s', 'time'], rows)}"
    )


def train_text(result: Mapping[str, Any]) -> str:
    """Return the result of `bench train`."""
    rows: list[list[object]] = [
        [
            *(row[key] for key in ("image_size", "batch_size", "micro_batch")),
            rate(row["images_per_second"]),
            rate(row["synthetic_images_per_second"]),
            f"{row['share_of_synthetic']:.1%}",
            f"{row['data_wait_seconds']:.2f} s",
            f"{row['data_wait']:.1%}",
        ]
        for row in result["phases"]
    ]
    return "\n".join(
        [
            head(result),
            _training(result),
            f"{printable(str(result['data']))}, decoder {result['decoder']}",
            f"medians of {result['rounds']} rounds of {result['steps']} steps on images and as many on synthetic data",
            "",
            table(["px", "batch", "micro", "images/s", "synthetic", "share", "data wait", "of the time"], rows),
        ]
    )

"""What the benches print for people: at most 100 columns wide."""

from collections.abc import Mapping
from typing import Any

from imagesprint.cli.output import table
from imagesprint.console import duration


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
    return "\n".join(lines)


def _training(result: Mapping[str, Any]) -> str:
    ranks = result["world_size"]
    mode = "compiled" if result["compiled"] else "eager"
    return (
        f"{result['recipe']}: {result['model']}, {result['precision']}, {mode}, "
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
            f"{result['data']}, decoder {result['decoder']}",
            f"medians of {result['rounds']} rounds of {result['steps']} steps on images and as many on synthetic data",
            "",
            table(["px", "batch", "micro", "images/s", "synthetic", "share", "data wait", "of the time"], rows),
        ]
    )

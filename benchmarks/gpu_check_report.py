"""The report of gpu_check.py: report.json with everything, report.md with what people look for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def write_report(folder: Path, about: Row, outcomes: Sequence[Row]) -> None:
    """Write both files into `folder`: what it is `about`, and the outcomes so far."""
    (folder / "report.json").write_text(json.dumps({"about": about, "parts": outcomes}, indent=1) + "\n")
    lines = [f"# GPU check, {about['begun']}", "", *_about(about), "", *_overview(outcomes)]
    for outcome in outcomes:
        lines += ["", f"## {outcome['name']}: {outcome['status']}", "", f"    {outcome['command']}", ""]
        if outcome["said"]:
            lines += ["```", outcome["said"].strip(), "```"]
        if outcome["result"]:
            lines += _DETAILS[outcome["result"]["bench"]](outcome["result"])
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def _about(about: Row) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    missing = ", ".join(about["missing"]) or "nothing"
    lines = [
        f"- Device: {about['device']}; GPU: {about.get('gpu') or 'none'}; {about.get('processor', 'unknown')}",
        f"- {versions or 'versions unknown'}; {about['system']}; commit {about['commit']}",
        f"- Decoder: {about.get('decoder', 'unknown')}. Not installed: {missing}.",
    ]
    if about["device"] == "cpu":
        lines.append("- A rehearsal with tiny sizes on the CPU: its figures say nothing of any GPU.")
    return [*lines, f"- {about['error']}"] if "error" in about else lines


def _overview(outcomes: Sequence[Row]) -> list[str]:
    rows = [[row["name"], row["status"], f"{row['seconds']:.0f}"] for row in outcomes]
    return _table(["part", "", "seconds"], rows)


def _step(result: Row) -> list[str]:
    ceilings = result["ceilings"]
    rows = [
        [
            *_shape(row),
            f"{row['images_per_second']:,.1f}",
            *(f"{1000 * seconds:.2f}" for seconds in row["seconds_by_part"].values()),
            f"{row['flops_per_second'] / 1e12:.3g} ({row['share_of_matmul']:.0%})",
            *(f"{share:.0%}" for share in row["share_of_memory_bound"].values()),
            f"{row['peak_memory'] / 1e9:.2f}",
            f"{row['compile_seconds']:.1f}",
        ]
        for row in result["phases"]
    ]
    header = ["px", "batch", "images/s", "input ms", "forward", "backward", "reduction", "update", "TFLOP/s"]
    bounds = ["of bound, eager", "norm kernels", "norm fused", "convolutions", "GB", "compiling s"]
    return [
        f"{result['recipe']}, {result['model']}, {result['precision']}, {result['steps']} steps each. Copy "
        f"{ceilings['copy_bytes_per_second'] / 1e12:.3g} TB/s, matrix product "
        f"{ceilings['matmul_flops_per_second'] / 1e12:.4g} TFLOP/s in {ceilings['dtype']}. Parts are of eager steps.",
        "",
        *_table([*header, *bounds], rows),
        "",
        *(_variants(result) if "variants" in result else _projection(result["projection"])),
    ]


def _projection(projection: Row) -> list[str]:
    return [
        f"Derived: {projection['seconds']:,.0f} s for the whole recipe on {projection['num_train']:,} images "
        f"({projection['derived']})."
    ]


def _variants(result: Row) -> list[str]:
    rows = [
        [
            *_shape(row),
            row["variant"],
            f"{row['images_per_second']:,.1f}",
            f"{1000 * row['seconds_per_step']:.2f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['peak_memory'] / 1e9:.2f}",
        ]
        for row in result["variants"]
    ]
    header = ["px", "batch", "variant", "images/s", "ms a step", "compiling s", "GB"]
    return [*_table(header, rows), *(f"\n{name} is left out: {why}." for name, why in result["left_out"].items())]


def _train(result: Row) -> list[str]:
    rows = [
        [
            *_shape(row),
            f"{row['images_per_second']:,.1f}",
            f"{row['synthetic_images_per_second']:,.1f}",
            f"{row['share_of_synthetic']:.1%}",
            f"{row['data_wait_seconds']:.3f}",
            f"{row['data_wait']:.1%}",
            f"{row['mean_bytes']:,.0f}",
        ]
        for row in result["phases"]
    ]
    header = ["px", "batch", "images/s", "synthetic", "share", "data wait, s", "of the time", "bytes an image"]
    described = f"Decoder {result['decoder']}, {result['threads']} threads, {result['rounds']} rounds"
    return [f"{described} of {result['steps']} steps.", "", *_table(header, rows)]


def _losses(result: Row) -> list[str]:
    rows = [[name, f"{far:.4f}"] for name, far in result["distances"].items()]
    windows = [[name, *(f"{value:.4f}" for value in values)] for name, values in result["windows"].items()]
    numbers = [str(number) for number in range(1, len(windows[0]))]
    return [
        f"{result['steps']} steps; `fast` {'agrees' if result['agrees'] else 'does NOT agree'}: "
        f"{result['distances']['fast']:.4f} from the reference, the spread is {result['spread']:.4f}.",
        "",
        *_table(["run", "from the reference"], rows),
        "",
        *_table(["mean loss of window", *numbers], windows),
    ]


_DETAILS = {"step": _step, "train": _train, "losses": _losses}


def _shape(row: Row) -> list[str]:
    return [
        str(row["image_size"]),
        f"{row['batch_size']} = {row['batch_size'] // row['micro_batch']} × {row['micro_batch']}",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]

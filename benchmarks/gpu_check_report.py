"""The report of gpu_check.py: report.json with everything, report.md with what people look for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

NUM_TRAIN, NUM_VALIDATION = 1_281_167, 50_000  # ImageNet's
# Images a second of one GPU that were set as targets, first and then, by the word in its name and the image size.
TARGETS = {
    "H200": {128: (16_000,), 224: (6_300, 7_950), 288: (3_300,)},
    "H100": {224: (4_800, 5_700)},
}


def write_report(folder: Path, about: Row, outcomes: Sequence[Row]) -> None:
    """Write both files into `folder`: what it is `about`, and the outcomes so far."""
    _write(folder / "report.json", json.dumps({"about": about, "parts": outcomes}, indent=1) + "\n")
    lines = [f"# GPU check, {about['begun']}", "", *_about(about, outcomes), "", *_overview(outcomes)]
    lines += ["", *_speeds(outcomes)]
    for outcome in outcomes:
        lines += ["", f"## {outcome['name']}: {outcome['status']}", "", f"    {outcome['command']}", ""]
        if outcome["said"]:
            lines += ["```", outcome["said"].strip(), "```"]
        if outcome["result"]:
            lines += _DETAILS[outcome["result"]["bench"]](outcome["result"])
    _write(folder / "report.md", "\n".join(lines) + "\n")


def headline(outcome: Row) -> str:
    """Return in one line what a part found, or why it found nothing."""
    result = outcome["result"]
    if result:
        return _HEADLINES[result["bench"]](result)
    lines = [line for line in outcome["said"].splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _write(path: Path, text: str) -> None:
    """So that one who is cut off meanwhile leaves the report before."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _found(outcomes: Sequence[Row], bench: str) -> list[Row]:
    return [row["result"] for row in outcomes if row["result"] and row["result"]["bench"] == bench]


def _about(about: Row, outcomes: Sequence[Row]) -> list[str]:
    machine = next(iter(_found(outcomes, "machine")), {})
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    missing = ", ".join(about["missing"]) or "nothing"
    lines = [
        f"- Device: {about['device']}; GPU: {machine.get('gpu') or 'none'}; {machine.get('processor', 'unknown')}; "
        f"{about['cores']} cores",
        f"- {versions or 'versions unknown'}; {about['system']}; commit {about['commit']}, source {about['source']}",
        f"- Decoder: {machine.get('decoder', 'unknown')}. Not installed: {missing}.",
    ]
    if about["device"] == "cpu":
        lines.append("- A rehearsal with tiny sizes on the CPU: its figures say nothing of any GPU.")
    return lines


def _overview(outcomes: Sequence[Row]) -> list[str]:
    rows = [[row["name"], row["status"], f"{row['seconds']:.0f}", headline(row)] for row in outcomes]
    total = sum(row["seconds"] for row in outcomes)
    return [*_table(["part", "", "seconds", ""], rows), "", f"{total:.0f} s in all parts."]


def _speeds(outcomes: Sequence[Row]) -> list[str]:
    """All steps side by side, with the targets, and what the whole recipe would take."""
    gpu = next((result["gpu"] or "" for result in _found(outcomes, "machine")), "")
    targets = next((sizes for name, sizes in TARGETS.items() if name in gpu), {})
    ceilings: Row = next((result.get("ceilings", {}) for result in _found(outcomes, "machine")), {})
    rows, best = [], dict[int, float]()
    for result in _found(outcomes, "steps"):
        for row in result["phases"]:
            speed, size = row["images_per_second"], row["image_size"]
            best[size] = max(speed, best.get(size, 0.0))
            flops = speed * row["flops_per_image"]
            share = f" ({flops / ceilings['matmul_flops_per_second']:.0%})" if ceilings else ""
            rows.append(
                [
                    *_shape(row),
                    result["variant"],
                    f"{speed:,.0f}",
                    ", ".join(f"{target:,}" for target in targets.get(size, ())),
                    f"{1000 * row['seconds_per_step']:.1f}",
                    f"{flops / 1e12:.3g}{share}",
                    f"{row['peak_memory'] / 1e9:.1f}",
                    f"{row['compile_seconds']:.1f}",
                ]
            )
    header = ["px", "batch", "variant", "images/s", "target", "ms a step", "TFLOP/s", "GB", "compiling s"]
    return [*_table(header, rows), *_derived(best, outcomes)] if rows else []


def _derived(speeds: Mapping[int, float], outcomes: Sequence[Row]) -> list[str]:
    """The time of minutes104 at these speeds, its evaluations included, where all of its sizes were measured."""
    from imagesprint.recipes.library import load_recipe
    from imagesprint.recipes.schedule import Schedule

    recipe = load_recipe("minutes104")
    if any(phase.image_size not in speeds for phase in recipe.phases):
        return []
    pairs = zip(recipe.phases, Schedule(recipe, NUM_TRAIN).bounds, strict=True)
    training = sum((end - start) * phase.batch_size / speeds[phase.image_size] for phase, (start, end) in pairs)
    lines = ["", f"Derived, not measured: minutes104 on {NUM_TRAIN:,} images trains for {training:,.0f} s."]
    count = int(recipe.phases[-1].epochs[1] // recipe.eval_every) if recipe.phases[-1].epochs else 0
    for result in _found(outcomes, "evaluation"):
        for precision, speed in result["images_per_second"].items():
            seconds = count * NUM_VALIDATION / speed
            total = training + seconds
            lines.append(f"With {count} evaluations in {precision}, {seconds:,.0f} s more: {total:,.0f} s (6,273).")
    return lines


def _machine(result: Row) -> list[str]:
    return [_machine_line(result)]


def _machine_line(result: Row) -> str:
    name = result["gpu"] or result["processor"]
    if "ceilings" not in result:
        return f"{name}, ceilings unknown"
    ceilings = result["ceilings"]
    return (
        f"{name}: copy {ceilings['copy_bytes_per_second'] / 1e12:.3g} TB/s, matrix product "
        f"{ceilings['matmul_flops_per_second'] / 1e12:.4g} TFLOP/s in {ceilings['dtype']}"
    )


def _steps(result: Row) -> list[str]:
    lines = [_steps_line(result)] if result["not_fused"] else []
    for row in result["phases"]:
        speed = f"{row['images_per_second']:,.0f} images/s"
        lines += [f"{' px, '.join(_shape(row))}, {result['variant']}, {result['precision']}: {speed}."]
        if "kernels" in row:
            covered = row["kernel_seconds"] / row["profiled_step_seconds"]
            lines += [
                f"One step under the profiler took {1000 * row['profiled_step_seconds']:.1f} ms, its "
                f"{row['kernel_calls']:,} kernels {covered:.0%} of that.",
                "",
                *_table(
                    ["kernel", "calls", "ms", "of all kernels"],
                    [
                        [_short(kernel["name"]), kernel["calls"], f"{1000 * kernel['seconds']:.2f}", _share(kernel)]
                        for kernel in row["kernels"]
                    ],
                ),
                "",
            ]
    return lines


def _short(name: str) -> str:
    return "`" + (name if len(name) <= 90 else f"{name[:60]}…{name[-29:]}").replace("|", "/") + "`"


def _share(kernel: Row) -> str:
    return f"{kernel['share']:.1%}"


def _steps_line(result: Row) -> str:
    if result["not_fused"]:
        return f"{result['variant']}, our kernels do not train: {result['not_fused']}"
    rows = (f"{row['image_size']} px {row['images_per_second']:,.0f} images/s" for row in result["phases"])
    return f"{result['variant']}, {', '.join(rows)}"


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
    return [f"{described} of {result['steps']} steps; the target is 97%.", "", *_table(header, rows)]


def _train_line(result: Row) -> str:
    rows = (f"{row['image_size']} px {row['share_of_synthetic']:.1%} of synthetic" for row in result["phases"])
    return f"{', '.join(rows)}, decoder {result['decoder']}"


def _evaluation(result: Row) -> list[str]:
    rows = [
        [precision, f"{speed:,.0f}", f"{NUM_VALIDATION / speed:.1f}"]
        for precision, speed in result["images_per_second"].items()
    ]
    shape = f"{result['image_size']} px, batches of {result['batch_size']}, on noise, nothing loaded."
    return [shape, "", *_table(["precision", "images/s", f"seconds for {NUM_VALIDATION:,}"], rows)]


def _evaluation_line(result: Row) -> str:
    return ", ".join(f"{precision} {speed:,.0f} images/s" for precision, speed in result["images_per_second"].items())


def _losses(result: Row) -> list[str]:
    rows = [[name, f"{far:.4f}"] for name, far in result["distances"].items() if name != "reference"]
    windows = [[name, *(f"{value:.4f}" for value in values)] for name, values in result["windows"].items()]
    numbers = [str(number) for number in range(1, len(windows[0]))]
    return [
        f"{result['steps']} steps; {_losses_line(result)}.",
        "",
        *_table(["run", "from the reference"], rows),
        "",
        *_table(["mean loss of window", *numbers], windows),
    ]


def _losses_line(result: Row) -> str:
    if "agrees" not in result:
        return f"{', '.join(result['windows'])} alone: too few to judge `fast`"
    agrees = "agrees" if result["agrees"] else "does NOT agree"
    return (
        f"`fast` {agrees}: {result['distances']['fast']:.4f} from the reference, the spread is {result['spread']:.4f}"
    )


_DETAILS = {"machine": _machine, "steps": _steps, "train": _train, "evaluation": _evaluation, "losses": _losses}
_HEADLINES = {
    "machine": _machine_line,
    "steps": _steps_line,
    "train": _train_line,
    "evaluation": _evaluation_line,
    "losses": _losses_line,
}


def _shape(row: Row) -> list[str]:
    return [
        str(row["image_size"]),
        f"{row['batch_size']} = {row['batch_size'] // row['micro_batch']} × {row['micro_batch']}",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *rows)]

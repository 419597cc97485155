"""`report`: one self-contained HTML file on a run, which opens from disk without a network."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from imagesprint.errors import UsageError
from imagesprint.files import read_rows, write_text
from imagesprint.measuring.plots import save_plots
from imagesprint.recipes.toml_format import to_toml
from imagesprint.runs.directory import RunDirectory

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem }
.card { display: flex; flex-wrap: wrap; gap: 2rem } .card b { display: block; font-size: 1.5rem }
"""


def write_report(path: Path) -> Path:
    """Write report.html into the run directory `path`, with its plots; returns where it lies.

    Raises UsageError where there is no run.
    """
    run = RunDirectory(path)
    recipe = run.recipe()
    if recipe is None:
        raise UsageError(f"{path} holds no run", "name the --output of an imagesprint train")
    plots = save_plots(run)
    metrics, evaluations = read_rows(run.metrics_file), run.evaluations()
    last = metrics[-1]
    finished = run.result() is not None
    body = [
        f"<h1>{escape(recipe.name)}: {escape(recipe.model)}</h1>",
        f"<p>{'Finished' if finished else 'Not finished'}: {last['step']:,} steps, {last['epoch']:g} epochs.</p>",
        _card(evaluations, last),
        *(
            f'<h2>{title}</h2><img alt="{title} over the steps" src="{_data_url(plot)}">'
            for title, plot in zip(TITLES, plots, strict=True)
        ),
        "<h2>Evaluations</h2>",
        _table(evaluations),
        f"<h2>Recipe</h2><pre>{escape(to_toml(recipe))}</pre>",
    ]
    target = path / "report.html"
    write_text(target, _page(recipe.name, "\n".join(body)))
    return target


TITLES = ("Loss", "Learning rate", "Accuracy")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - imagesprint</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _card(evaluations: list[dict[str, Any]], last: dict[str, Any]) -> str:
    figures = {"images/s": f"{last['images_per_second']:,.0f}", "waiting for data": f"{last['data_wait']:.1%}"}
    if evaluations:
        newest = evaluations[-1]
        best = max(evaluations, key=lambda row: row["top1"])
        figures = {
            "top-1": f"{newest['top1']:.2f}%",
            "top-5": f"{newest['top5']:.2f}%",
            f"best top-1, epoch {best['epoch']:g}": f"{best['top1']:.2f}%",
            **figures,
        }
    return f'<div class="card">{"".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures.items())}</div>'


def _table(evaluations: list[dict[str, Any]]) -> str:
    if not evaluations:
        return "<p>Nothing was evaluated yet.</p>"
    header = "<tr><th>step</th><th>epoch</th><th>images</th><th>top-1 %</th><th>top-5 %</th><th>loss</th></tr>"
    rows = (
        f"<tr><td>{row['step']:,}</td><td>{row['epoch']:g}</td><td>{row['num_images']:,}</td>"
        f"<td>{row['top1']:.2f}</td><td>{row['top5']:.2f}</td><td>{row['loss']:.4f}</td></tr>"
        for row in evaluations
    )
    return f"<table>{header}{''.join(rows)}</table>"


def _data_url(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()

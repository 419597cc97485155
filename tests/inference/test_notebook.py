"""The notebook runs from a clean kernel and shows what it says."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="there are no notebooks without nbclient")
nbformat = pytest.importorskip("nbformat", reason="there are no notebooks without nbformat")

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "inference.ipynb"


def test_the_notebook_runs(
    digit_images: Path, digit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESPRINT_RUN", str(digit_run))
    monkeypatch.setenv("IMAGESPRINT_IMAGES", str(digit_images))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):  # nothing goes into the home folder
        monkeypatch.setenv(variable, str(tmp_path / variable))
    book = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)  # none is committed: it would grow old
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "resnet20 after step 10, 3 classes, images of 20 × 20 pixels" in text
    assert text.count(".jpg: ") == 8
    assert "p50 " in text
    assert any("image/png" in output.get("data", {}) for output in outputs)

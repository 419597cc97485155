"""What `bench data` prints is complete and hangs together; how fast this machine is, no test says."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from imagesprint.cli.main import main
from imagesprint.diagnosis import bench_data
from imagesprint.images.native import is_available

KEYS = {"bench", "device", "versions", "images_per_second", "images_per_cpu_second", "decoder", "peers", "left_out"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data, "PASS_SECONDS", 0.01)
    monkeypatch.setattr(bench_data, "ROUNDS", 2)
    monkeypatch.setattr(bench_data, "OWN_ROUNDS", 2)


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_data(photo_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--data", str(photo_root), "--image-size", "24", "--threads", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert "measured " in said.err
    result = json.loads(said.out)
    assert set(result) > KEYS
    assert (result["bench"], result["threads"], result["image_size"]) == ("data", 2, 24)
    assert result["data"] == str(photo_root / "full")
    assert result["versions"]["torch"] == metadata.version("torch")
    assert re.search(r", \d+ cores?$", result["device"])
    assert [entry["threads"] for entry in result["by_threads"]] == [1, 2]
    last = result["by_threads"][-1]
    assert result["images_per_second"] == last["images_per_second"] > 0
    assert last["decoder_alone"]["images_per_second"] > 0
    pillow = result["peers"]["pillow"]
    assert min(pillow["images_per_second"], pillow["images_per_cpu_second"], pillow["cpu_speedup"]) > 0
    assert list(result["stages"]) == ["read", "crc", "entropy", "idct_and_colour", "resize", "hand_over"]
    entropy = result["entropy"]
    assert entropy["whole_microseconds"] > entropy["rows_microseconds"] > 0
    assert entropy["decoder_over_rows"] > entropy["decoder_over_whole"] > 1


def test_text_and_plot_without_the_native_decoder(
    photo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    plot = tmp_path / "plot.png"
    words = ["bench", "data", "--data", str(photo_root), "--variant", "32", "--image-size", "16", "--threads", "1"]
    assert main([*words, "--plot", str(plot)]) == 0
    said = capsys.readouterr()
    assert f"{photo_root / '32'}: 70 images of " in said.out
    assert "decoder pillow, medians of 2 rounds" in said.out
    assert "% of the decoder alone" in said.out
    assert "\n      1  pillow " in said.out
    assert "entropy" not in said.out
    assert f"drawn in {plot}" in said.err
    with Image.open(plot) as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn


def test_errors(photo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert main(["bench", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert said().startswith("error: imagesprint bench: no command given\nhint: ")
    missing = said("data", "--data", photo_root, "--variant", "64")
    assert missing.startswith(f"error: {photo_root} has no variant '64'; it has full, 32\nhint: ")
    plot = tmp_path / "no" / "plot.png"
    elsewhere = said("data", "--data", photo_root, "--plot", plot)
    assert elsewhere.startswith(f"error: cannot write {plot}: there is no folder {plot.parent}\nhint: ")

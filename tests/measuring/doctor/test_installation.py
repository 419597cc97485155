from pathlib import Path

import pytest

from imagesprint.images import native_library
from imagesprint.measuring.doctor import installation
from imagesprint.measuring.doctor.check import FAILURE, OK, WARNING


def install(folder: Path, name: str, version: str, code: str) -> None:
    """What pip leaves of a package: its module, and the folder that says its version."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def packages_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages come before those that are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_this_installation() -> None:
    assert installation.python().status == OK
    assert installation.packages().status == OK
    assert installation.pytorch().detail.count("built ") == 1


def test_a_package_that_is_too_old(packages_first: Path) -> None:
    install(packages_first, "tensorboard", "1.0", "")
    found = installation.packages()
    assert (found.status, found.detail) == (FAILURE, "tensorboard 1.0")
    assert found.hint.startswith("pip install 'tensorboard>=")


def test_optional_packages_are_those_of_the_extras(packages_first: Path) -> None:
    install(packages_first, "timm", "1.0.99", "raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    install(packages_first, "pyarrow", "99.0", "")
    found = {check.name: check for check in installation.optional_packages()}
    assert found["extra parquet"].detail == "pyarrow 99.0"
    assert found["extra export"].detail.startswith("onnxruntime")
    assert "extra dev" not in found
    assert found["timm"].status == WARNING
    assert found["timm"].detail == "timm 1.0.99 cannot be imported: operator torchvision::nms does not exist"
    assert "version of timm" in found["timm"].hint


def test_without_the_native_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "libimagesprint.so")
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    native_library.library.cache_clear()
    found = installation.decoder()
    assert found.status == WARNING
    assert "slower: the native decoder is not installed: there is no" in found.detail
    assert "libjpeg-dev" in found.hint
    assert installation.libjpeg().detail.endswith(" in Pillow")
    monkeypatch.setenv("IMAGESPRINT_DECODER", "native")
    assert installation.decoder().status == FAILURE
    monkeypatch.setenv("IMAGESPRINT_DECODER", "opencv")
    assert installation.decoder().detail == "IMAGESPRINT_DECODER=opencv: there is no such decoder"


@pytest.mark.skipif(not native_library.is_available(), reason="the native decoder is not built")
def test_the_native_decoder_and_its_libjpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    assert (installation.decoder().status, installation.decoder().hint) == (OK, "")
    assert "in the native decoder, " in installation.libjpeg().detail
    assert "unknown" not in installation.libjpeg().detail
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    assert (installation.decoder().status, installation.decoder().hint) == (WARNING, "unset IMAGESPRINT_DECODER")

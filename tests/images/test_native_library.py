import subprocess
import sys
from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.images import native


def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libimagesprint.so")
    with pytest.raises(UsageError, match="not installed: there is no ") as caught:
        native.library.__wrapped__()
    assert "libjpeg-dev" in caught.value.hint
    (tmp_path / "libimagesprint.so").write_bytes(b"no library")
    with pytest.raises(UsageError, match="too short"):
        native.library.__wrapped__()


@pytest.mark.skipif(not native.LIBRARY.exists(), reason="the native decoder is not built")
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "libimagesprint.so"
    other.write_bytes(native.LIBRARY.read_bytes().replace(b"ims_shrink\0", b"ims_shrank\0"))
    monkeypatch.setattr(native, "LIBRARY", other)
    monkeypatch.setattr(native, "_ABI", native._ABI + 1)
    with pytest.raises(UsageError, match=r"is version \d+, but version \d+ is needed") as caught:
        native.library.__wrapped__()
    assert "install imagesprint again" in caught.value.hint


def test_importing_it_loads_no_library() -> None:
    code = "import imagesprint.images.decoders, imagesprint.images.native as n; print(n.library.cache_info())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "currsize=0" in done.stdout

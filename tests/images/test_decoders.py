from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.images import native
from imagesprint.images.decoders import Pool, chosen_decoder, decoder_name, describe_decoder, open_decoder, use_native

built = pytest.mark.skipif(not native.is_available(), reason="the native decoder is not built")


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libimagesprint.so")
    native.library.cache_clear()


@built
def test_the_native_one_is_taken_where_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    assert (open_decoder(1).name, decoder_name(), chosen_decoder()) == ("native", "native", "")
    assert describe_decoder() == f"native ({Pool(1).resizer})"


@built
def test_the_environment_can_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESPRINT_DECODER", "native-portable")
    assert (open_decoder(1).name, decoder_name(), describe_decoder()) == ("native", "native", "native (portable)")
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    assert (open_decoder(1).name, decoder_name()) == ("pillow", "pillow")
    assert describe_decoder() == "pillow, as IMAGESPRINT_DECODER says"


@pytest.mark.usefixtures("not_built")
def test_where_it_is_not_built_pillow_is_taken_and_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IMAGESPRINT_DECODER", raising=False)
    assert (open_decoder(1).name, decoder_name()) == ("pillow", "pillow")
    missing = tmp_path / "libimagesprint.so"
    assert describe_decoder().startswith(f"pillow: the native decoder is not installed: there is no {missing}; apt-get")
    monkeypatch.setenv("IMAGESPRINT_DECODER", "native")  # but who asks for it is told
    for ask in (use_native, describe_decoder, decoder_name):
        with pytest.raises(UsageError, match="not installed"):
            ask()


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESPRINT_DECODER", "opencv")
    with pytest.raises(UsageError, match="IMAGESPRINT_DECODER=opencv") as caught:
        open_decoder(1)
    assert "native-portable" in caught.value.hint

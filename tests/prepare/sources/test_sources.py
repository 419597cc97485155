from collections import Counter
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.prepare.preparing import prepare
from imagesprint.records.dataset import Dataset, open_dataset
from imagesprint.records.manifest import Manifest


@pytest.fixture(scope="module")
def roots(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniatures that have a validation split, prepared as full and 48 into folders of the same names."""
    folder = tmp_path_factory.mktemp("roots")
    for kind in ("ilsvrc", "kaggle", "webdataset", "class-folders", "parquet"):
        prepare(
            miniature / kind, folder / kind, variants=("full", "48"), shards=3, workers=1, console=Console(quiet=True)
        )
        assert Manifest.read(folder / kind / "full").made_by["source"]["kind"] == kind
    return folder


def facts(dataset: Dataset) -> list[tuple[int, str, str, bytes]]:
    records = [dataset.read_record(i) for i in range(len(dataset))]
    return [(record.label, record.synset, record.filename, record.encoded) for record in records]


@pytest.mark.parametrize("variant", ["full", "48"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_all_sources_prepare_into_the_same_dataset(roots: Path, variant: str, split: str) -> None:
    official = open_dataset(roots / "ilsvrc", variant, split)
    assert len(official) == {"train": 12, "validation": 6}[split]
    for path in (roots / "ilsvrc" / variant).glob(f"{split}-*"):
        assert path.read_bytes() == (roots / "kaggle" / variant / path.name).read_bytes()
    for kind in ("class-folders", "webdataset"):
        assert facts(official) == facts(open_dataset(roots / kind, variant, split))
    # Row groups stay together, so the order is another one.
    assert Counter(facts(official)) == Counter(facts(open_dataset(roots / "parquet", variant, split)))


def test_records_have_words_and_boxes(roots: Path) -> None:
    for kind, text in (("ilsvrc", "tench, Tinca tinca"), ("class-folders", "n01440764")):
        dataset = open_dataset(roots / kind, "full", "train")
        records = [dataset.read_record(i) for i in range(len(dataset))]
        found = next(record for record in records if record.filename == "n01440764_10026.JPEG")
        assert (found.label, found.text) == (0, text)
        assert found.boxes.tolist() == ([pytest.approx([0.1, 0.1, 0.5, 0.5])] if kind == "ilsvrc" else [])

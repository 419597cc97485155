import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def read_tree() -> Callable[[Path], dict[str, bytes]]:
    """Returns the bytes of every file below a folder, by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture(scope="session")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder tree of 2 × 30 training and 2 × 3 validation photos of 600 × 400 pixels: a second of work."""
    folder = tmp_path_factory.mktemp("large-photos")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", 30), ("val", 3)):
            target = folder / split / name
            target.mkdir(parents=True)
            for i in range(count):
                crop = Image.fromarray(photo[i % 27 :, i:][:400, :600])
                crop.save(target / f"{split}-{i}.jpg", quality=90 if split == "train" else 85)  # of another content
    return folder


@dataclass(frozen=True)
class Photo:
    """An image of the miniature ImageNet: its file's name without extension, class, bytes and, maybe, annotation."""

    stem: str
    synset: str
    data: bytes
    annotation: bytes | None


# In the order of their ids in the development kit, which is not the sorted one.
WORDS = {"n03126707": "crane", "n01440764": "tench, Tinca tinca", "n02012849": "crane, wading bird"}
# By split and number of the image: class (None: the image's own), xmin, ymin, xmax, ymax in an image of 80×60.
BOXES: dict[tuple[str, int], list[tuple[str | None, float, float, float, float]]] = {
    ("train", 0): [(None, 8, 6, 40, 30)],
    ("train", 1): [(None, 70, 50, 10, 20), (None, -5, 0, 100, 60.0)],  # sides exchanged; beyond the image
    ("train", 2): [("n02084071", 1, 1, 9, 9), (None, 20, 15, 60, 45)],
    ("train", 4): [(None, 30, 20, 30, 40), (None, 90, 5, 95, 9)],  # empty; outside
    ("val", 0): [(None, 16, 12, 64, 48)],
    ("val", 3): [("n01440764", 1, 1, 9, 9), ("n03126707", 1, 1, 9, 9), ("n02012849", 1, 1, 9, 9)],
}


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet with 3 classes of 4 training images and 6 validation images, in folders named after the kinds of source.

    Those are ilsvrc, kaggle, webdataset, parquet, class-folders and, with the training images alone, synset-tars.
    """
    root = tmp_path_factory.mktemp("miniature")
    photos = {split: list(take_photos(split)) for split in ("train", "val")}
    for kind, write in (
        ("ilsvrc", write_ilsvrc),
        ("kaggle", write_kaggle),
        ("webdataset", write_webdataset),
        ("parquet", write_parquet),
        ("class-folders", write_class_folders),
    ):
        write(root / kind, photos)
    for synset in WORDS:
        write_tar(root / f"synset-tars/{synset}.tar", jpegs(photos["train"], synset))
    return root


def take_photos(split: str) -> Iterator[Photo]:
    generator = np.random.default_rng(len(split))
    pictures = load_sample_images().images
    for i in range({"train": 12, "val": 6}[split]):
        synset = sorted(WORDS)[(i * 2) % 3]
        height, width = generator.integers(40, 90, 2)
        top, left = generator.integers(0, 300, 2)
        stem = f"{synset}_{10026 + 7 * i}" if split == "train" else f"ILSVRC2012_val_{i + 1:08d}"
        encoded = io.BytesIO()
        Image.fromarray(pictures[i % 2][top : top + height, left : left + width]).save(encoded, "JPEG", quality=90)
        boxes = BOXES.get((split, i))
        yield Photo(stem, synset, encoded.getvalue(), annotate(stem, synset, boxes) if boxes else None)


def annotate(stem: str, synset: str, boxes: list[tuple[str | None, float, float, float, float]]) -> bytes:
    objects = "".join(
        f"<object><name>{name or synset}</name><pose>Unspecified</pose><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>\n"
        for name, xmin, ymin, xmax, ymax in boxes
    )
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{stem}</filename>{size}{objects}</annotation>\n".encode()


def jpegs(photos: Sequence[Photo], synset: str) -> dict[str, bytes]:
    return {f"{photo.stem}.JPEG": photo.data for photo in photos if photo.synset == synset}


def write_tar(path: Path, files: Mapping[str, bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """Write a tar in the order of `files`; return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def write_ilsvrc(folder: Path, photos: Mapping[str, Sequence[Photo]]) -> None:
    inner = {f"{synset}.tar": write_tar(folder / "inner", jpegs(photos["train"], synset)) for synset in WORDS}
    (folder / "inner").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    backwards = {f"{photo.stem}.JPEG": photo.data for photo in reversed(photos["val"])}
    write_tar(folder / "ILSVRC2012_img_val.tar", backwards)
    ids = {synset: i for i, synset in enumerate(WORDS, 1)}
    devkit = {
        "readme.txt": b"ILSVRC2012 development kit",
        "data/meta.mat": to_mat(ids),
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{ids[photo.synset]}\n" for photo in photos["val"]
        ).encode(),
    }
    prefixed = {f"ILSVRC2012_devkit_t12/{name}": data for name, data in devkit.items()}
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", prefixed, "w:gz")
    for archive, split in (("ILSVRC2012_bbox_train_v2.tar.gz", "train"), ("ILSVRC2012_bbox_val_v3.tgz", "val")):
        annotations = {
            f"{photo.synset if split == 'train' else 'val'}/{photo.stem}.xml": photo.annotation
            for photo in photos[split]
            if photo.annotation is not None
        }
        write_tar(folder / archive, {**annotations, "n99999999/n99999999_1.xml": b"of no class here"}, "w:gz")


def to_mat(ids: Mapping[str, int]) -> bytes:
    """Return meta.mat as the development kit has it: the classes, then the synsets above them."""
    above = {"n00001740": "entity", "n00015388": "animal, animate being"}
    rows: list[tuple[object, ...]] = [
        (number, wnid, WORDS[wnid], "a gloss", 0, [], 0, 4) for wnid, number in ids.items()
    ]
    rows += [(number, wnid, words, "a gloss", 2, [1, 2], 3, 0) for number, (wnid, words) in enumerate(above.items(), 4)]
    fields = "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"
    synsets = np.empty((len(rows), 1), [(name, object) for name in fields])
    synsets[:, 0] = rows
    file = io.BytesIO()
    savemat(file, {"synsets": synsets})
    return file.getvalue()


def write_kaggle(folder: Path, photos: Mapping[str, Sequence[Photo]]) -> None:
    for split, place in (("train", "train/{0.synset}/{0.stem}"), ("val", "val/{0.stem}")):
        for photo in photos[split]:
            write_file(folder / f"ILSVRC/Data/CLS-LOC/{place.format(photo)}.JPEG", photo.data)
            if photo.annotation is not None:
                write_file(folder / f"ILSVRC/Annotations/CLS-LOC/{place.format(photo)}.xml", photo.annotation)
    write_file(folder / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", photos["val"][0].data)
    mapping = "".join(f"{synset} {words}\n" for synset, words in sorted(WORDS.items()))
    write_file(folder / "LOC_synset_mapping.txt", mapping.encode())
    rows = "".join(
        f"{photo.stem},{photo.synset} 1 2 3 4 {photo.synset} 5 6 7 8 \n" for photo in reversed(photos["val"])
    )
    write_file(folder / "LOC_val_solution.csv", f"ImageId,PredictionString\n{rows}".encode())


def write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_class_folders(folder: Path, photos: Mapping[str, Sequence[Photo]]) -> None:
    for split in ("train", "val"):
        for photo in photos[split]:
            write_file(folder / split / photo.synset / f"{photo.stem}.JPEG", photo.data)


def write_webdataset(folder: Path, photos: Mapping[str, Sequence[Photo]]) -> None:
    for name, entries in (
        ("miniature-train-0000", photos["train"][:7]),
        ("miniature-train-0001", photos["train"][7:]),
        ("miniature-validation-00", photos["val"]),
        ("miniature-test-00", photos["val"][:2]),
    ):
        samples = ((f"{photo.stem}.JPEG", photo.data, f"{photo.stem}.cls", photo.synset) for photo in entries)
        files = {
            name: data for image, jpeg, cls, synset in samples for name, data in ((image, jpeg), (cls, synset.encode()))
        }
        write_tar(folder / f"{name}.tar", files)


def write_parquet(folder: Path, photos: Mapping[str, Sequence[Photo]]) -> None:
    (folder / "data").mkdir(parents=True)
    labels = {synset: label for label, synset in enumerate(sorted(WORDS))}
    features = {"image": {"_type": "Image"}, "label": {"names": sorted(WORDS), "_type": "ClassLabel"}}
    for name, entries in (
        ("train-00000-of-00002", photos["train"][:7]),
        ("train-00001-of-00002", photos["train"][7:]),
        ("validation-00000-of-00001", photos["val"]),
        ("test-00000-of-00001", photos["val"][:2]),
    ):
        table = pyarrow.table(
            {
                "image": [{"bytes": photo.data, "path": f"{photo.stem}.JPEG"} for photo in entries],
                "label": [labels[photo.synset] for photo in entries],
            }
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, folder / f"data/{name}.parquet", row_group_size=3)

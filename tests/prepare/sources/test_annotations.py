import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.sources.ilsvrc import collect_boxes, parse_boxes


def make(*boxes: tuple[object, ...], size: tuple[object, object] = (200, 100)) -> bytes:
    """Return a document with boxes of (name, xmin, ymin, xmax, ymax)."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>"
        f"<ymax>{ymax}</ymax></bndbox></object>"
        for name, xmin, ymin, xmax, ymax in boxes
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>".encode()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((20, 10, 100, 75), (0.1, 0.1, 0.75, 0.5)),
        ((100, 75, 20, 10), (0.1, 0.1, 0.75, 0.5)),  # sides exchanged
        ((-9, 10, 300, 75), (0.1, 0.0, 0.75, 1.0)),  # beyond the image
        (("20.5", 10, 100, "75.25"), (0.1, 0.1025, 0.7525, 0.5)),
    ],
)
def test_boxes_are_scaled_ordered_and_clipped(box: tuple[object, ...], expected: tuple[float, ...]) -> None:
    (found,) = parse_boxes(make(("n01", *box)), "n01", "x.xml")
    assert found == pytest.approx(expected)


def test_empty_boxes_and_those_of_other_classes_are_left_out() -> None:
    document = make(("n01", 20, 10, 20, 75), ("n02", 1, 1, 9, 9), ("n01", 201, 1, 209, 9), (" n01 ", 0, 0, 200, 100))
    assert parse_boxes(document, "n01", "x.xml") == ((0.0, 0.0, 1.0, 1.0),)
    assert parse_boxes(document, "n03", "x.xml") == ()


def test_objects_named_in_words_are_of_the_class_of_the_file() -> None:
    document = make(("Scottish_deerhound", 20, 10, 100, 75), ("n02084071", 1, 1, 9, 9), ("newt", 0, 0, 200, 100))
    assert parse_boxes(document, "n02092002", "x.xml") == ((0.1, 0.1, 0.75, 0.5), (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (make(("n01", 1, 1, 2, 2))[:-20], "unclosed token"),
        (b"", "no element found"),
        (make(("n01", "left", 1, 2, 2)), "could not convert string to float: 'left'"),
        (make(("n01", "nan", 1, 2, 2)), "bndbox/xmin is nan"),
        (make(("n01", 1, 1, 2, 2), size=(0, 100)), "the image size is 0×100"),
        (make(("n01", 1, 1, 2, 2)).replace(b"ymax", b"yend"), "it has no bndbox/ymax"),
    ],
)
def test_broken_document(document: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"the boxes in val.tgz/val/a.xml cannot be read: .*{reason}"):
        parse_boxes(document, "n01", "val.tgz/val/a.xml")


def test_collecting() -> None:
    document = make(("n01", 20, 10, 100, 75))
    documents = [("a/deep/n01_1.xml", document), ("n02_1.xml", b"not wanted"), ("readme", b""), ("n01_2.xml", make())]
    found = collect_boxes(documents, lambda stem: "n01" if stem.startswith("n01") else None)
    assert found == {"n01_1": ((0.1, 0.1, 0.75, 0.5),)}

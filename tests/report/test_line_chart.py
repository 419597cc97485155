import pytest

from imagesprint.report.charts import MOST_POINTS, Chart, Line, _thinned, _ticks, draw


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 102, [0, 50, 100]),
        (0, 0.21, [0, 0.05, 0.1, 0.15, 0.2]),
        (0, 14, [0, 5, 10]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == expected


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(i), 1.0) for i in range(10_000)]
    points[7777] = (7777.0, 9.0)
    thin = _thinned(points)
    assert len(thin) <= MOST_POINTS + 2
    assert (7777.0, 9.0) in thin
    assert list(thin) == sorted(thin)
    assert thin[0] == points[0]


def test_names_are_text_and_the_drawing_says_its_last_values() -> None:
    text = draw(Chart("<b>", [Line("a&b", [(0, 1), (1, 2.5)], "#000")], "x", [(0, 1, "<i>")]))
    assert "a&amp;b: 2.5" in text
    assert "<i>" not in text
    assert 'role="img"' in text


def test_what_is_no_number_has_no_point() -> None:
    points = [(0.0, 1.0), (1.0, float("nan")), (2.0, float("inf")), (3.0, 1.7e308), (4.0, 3.0)]
    text = draw(Chart("loss", [Line("a", points, "#000"), Line("b", points[1:4], "#000")], "x"))
    assert text.count("<polyline") == 1
    assert 'data-y-high="3.15' in text


def test_a_chart_without_points_is_drawn() -> None:
    assert "<polyline" not in draw(Chart("empty", [Line("a", [], "#000")], "x"))

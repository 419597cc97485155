from pathlib import Path

import pytest

from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import to_toml


@pytest.fixture
def tiny(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    """The tiny recipe as a .toml file, as a user gives his own."""
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe))
    return path

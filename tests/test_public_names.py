"""The package's public names: what a user may import, and that importing the package alone costs nothing."""

import subprocess
import sys

import imagesprint

PUBLIC = [
    "Batch",
    "BatchSpec",
    "CropSpec",
    "ImagesprintError",
    "Loader",
    "Phase",
    "Recipe",
    "load_model",
    "load_recipe",
    "open_dataset",
    "open_root",
]


def test_public_names_are_these_and_exist() -> None:
    assert imagesprint.__all__ == PUBLIC
    assert all(getattr(imagesprint, name).__doc__ for name in PUBLIC)
    assert dir(imagesprint) == PUBLIC


def test_importing_the_package_or_a_recipe_does_not_import_torch() -> None:
    code = "import sys, imagesprint; imagesprint.load_recipe('small'); assert not {'torch', 'PIL'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_error_has_an_exit_code_and_keeps_its_hint_across_processes() -> None:
    import pickle

    from imagesprint import errors
    from imagesprint.errors import ImagesprintError

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ImagesprintError)]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 75, 130, 143}
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("what", "hint")))
        assert (type(copy), copy.what, copy.hint) == (kind, "what", "hint")

"""Builds the native decoder (native/) beside the package, where a C compiler and libjpeg-turbo are found.

The rest of the build is in pyproject.toml. The library has a C interface and no Python in it, so one build serves every
Python version. IMAGESPRINT_STATIC_JPEG=1 puts libjpeg-turbo into it, for carrying it to another Linux machine.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

STATIC = os.environ.get("IMAGESPRINT_STATIC_JPEG", "") not in ("", "0")

native = Extension(
    "imagesprint.images.libimagesprint",
    sources=sorted(str(path) for path in Path("native").glob("*.c")),
    depends=sorted(str(path) for path in Path("native").glob("*.h")),
    # No fused multiply-add: the weights of the resizer are the same on every processor.
    extra_compile_args=["-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"],
    # A static libjpeg stays private, so that it meets no other one in the process.
    extra_link_args=["-pthread", *(["-l:libjpeg.a", "-Wl,--exclude-libs,ALL"] if STATIC else ["-ljpeg"]), "-lm"],
    optional=True,
)


class BuildNative(build_ext):
    """Goes on without the library where it cannot be built: Pillow then decodes."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:  # without a compiler, each platform and setuptools raises something else
            print(f"imagesprint: no native decoder, Pillow will decode: {error} (apt-get install gcc libjpeg-dev)")


class WheelForAnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[native], cmdclass={"build_ext": BuildNative, "bdist_wheel": WheelForAnyPython})

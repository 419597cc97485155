"""Builds the image of `Containerfile` for CPUs and trains in it: python benchmarks/container.py [FLAG OF THE BUILD…]

It needs buildah, podman or docker, whichever is found first, and a registry with the base image, or --build-arg BASE=…
of one that is there. Prints what was checked as one JSON object; exits 3 where a check is not met, 2 without a builder.
With buildah on a machine without user namespaces, as root: BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BUILDERS = ("buildah", "podman", "docker")
TAG = "localhost/imagesprint-check"


def main(flags: list[str]) -> int:
    builder = next(filter(shutil.which, BUILDERS), None)
    if builder is None:
        print(f"error: none of {', '.join(BUILDERS)} is installed\nhint: apt-get install buildah", file=sys.stderr)
        return 2
    began = time.monotonic()
    words = [builder, "build", "--file", "Containerfile", "--build-arg", "DEVICE=cpu", "--tag", TAG, *flags, "."]
    subprocess.run(words, cwd=PROJECT, check=True, stdout=sys.stderr)
    found: dict[str, object] = {"builder": builder, "build_seconds": round(time.monotonic() - began)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        found |= checks(Runner(builder, Path(folder)))
    print(json.dumps(found))
    return 3 if False in found.values() else 0


class Runner:
    """Runs the image with a folder mounted where it works."""

    def __init__(self, builder: str, folder: Path) -> None:
        self._volume = ["--volume", f"{folder}:/work"]
        self._builder, self._container = builder, ""
        if builder == "buildah":  # which runs containers, not images, without their entry point
            self._container = self._output("buildah", "from", TAG).strip()

    def run(self, *words: str) -> str:
        """What `imagesprint WORDS` prints in the image."""
        if self._container:
            return self._output("buildah", "run", *self._volume, self._container, "--", "imagesprint", *words)
        return self._output(self._builder, "run", "--rm", *self._volume, TAG, *words)

    def user(self) -> str:
        """The user id that the image runs as."""
        if self._container:
            return self._output("buildah", "run", self._container, "--", "id", "-u").strip()
        return self._output(self._builder, "run", "--rm", "--entrypoint", "id", TAG, "-u").strip()

    def entry(self) -> object:
        """The words before a verb."""
        if self._container:
            described = json.loads(self._output("buildah", "inspect", "--type", "image", TAG))
            return described["OCIv1"]["config"]["Entrypoint"]
        return json.loads(self._output(self._builder, "inspect", TAG))[0]["Config"]["Entrypoint"]

    def close(self) -> None:
        if self._container:
            self._output("buildah", "rm", self._container)

    def _output(self, *words: str) -> str:
        return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout


def checks(image: Runner) -> dict[str, object]:
    """What must be true, by name."""
    try:
        demo = json.loads(image.run("demo", "--output", "demo", "--json", "--quiet"))
        found = json.loads(image.run("doctor", "--json"))["checks"]
        decoder = next(check for check in found if check["name"] == "decoder")
        return {
            "runs_as_user_1000": image.user() == "1000",
            "any_verb_is_its_argument": image.entry() == ["imagesprint"],
            "decodes_natively": decoder["status"] == "ok" and decoder["detail"].startswith("native"),
            "trained_to_top1": demo["top1"],
            "has_trained": demo["top1"] > 90,
        }
    finally:
        image.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

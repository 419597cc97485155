"""Gets what a NameNode and a DataNode need into a folder: the jars of Hadoop 2.7.3, and Debian's of Jersey 1.

    python benchmarks/servers/hadoop.py FOLDER

The jars of Hadoop come inside the source distribution of pyspark 2.4.8 (218 MB; nothing of Spark itself is kept), the
others with apt-get, which need not be root for this. Java 17 must be there. Both registries are asked by their own
programs. Nothing happens where the folder has them.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SPARK = "pyspark==2.4.8"
DEBIAN = (
    *(f"libjersey1-{part}-java" for part in ("core", "server", "servlet", "json")),
    "libasm-java",
    "libjsr311-api-java",
)
# The jars of the distribution that the two servers load.
HADOOP = (
    "hadoop-annotations", "hadoop-auth", "hadoop-common", "hadoop-hdfs", "commons-", "guava", "protobuf-java",
    "htrace-core", "jackson-core-asl", "jackson-mapper-asl", "jetty", "servlet-api", "javax.servlet", "log4j",
    "slf4j-", "netty", "xercesImpl", "xml-apis", "xmlenc", "leveldbjni", "avro-1", "paranamer", "stax-api", "jsp-api",
    "apacheds-", "api-", "curator-", "zookeeper", "httpc", "gson", "activation",
)  # fmt: skip


def main() -> int:
    folder = Path(sys.argv[1])
    if (folder / "whole").exists():
        return 0
    if shutil.which("java") is None:
        print("error: there is no Java: apt-get install openjdk-17-jre-headless", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _take_from_pyspark(Path(scratch), folder)
        _take_from_debian(Path(scratch), folder)
    (folder / "whole").touch()
    return 0


def _run(*words: str, folder: Path) -> None:
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _take_from_pyspark(scratch: Path, folder: Path) -> None:
    """Its setup.py needs setuptools of 2022, in an environment of its own."""
    python = str(scratch / "venv/bin/python")
    _run(sys.executable, "-m", "venv", "venv", folder=scratch)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    _run(*pip, "install", "setuptools<66", "wheel", folder=scratch)
    _run(*pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", SPARK, folder=scratch)
    with tarfile.open(next(scratch.glob("pyspark-*.tar.gz"))) as archive:
        for member in archive:
            name = Path(member.name).name
            if "/jars/" in member.name and name.startswith(HADOOP) and name.endswith(".jar"):
                source = archive.extractfile(member)
                assert source is not None
                (folder / name).write_bytes(source.read())


def _take_from_debian(scratch: Path, folder: Path) -> None:
    try:
        _run("apt-get", "download", *DEBIAN, folder=scratch)
    except subprocess.CalledProcessError:  # a new machine does not know of its packages yet
        _run("apt-get", "update", folder=scratch)
        _run("apt-get", "download", *DEBIAN, folder=scratch)
    for package in scratch.glob("*.deb"):
        _run("dpkg", "-x", str(package), "unpacked", folder=scratch)
    for jar in (scratch / "unpacked/usr/share/java").glob("*.jar"):
        if not jar.is_symlink():
            shutil.copy(jar, folder)


if __name__ == "__main__":
    sys.exit(main())

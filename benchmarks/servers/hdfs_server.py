"""A real HDFS for tests and benchmarks: NameNode and DataNode of Hadoop 2.7.3, with their data in a folder."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagesprint.storage.url import Url
from server_process import ListeningServer, free_ports

JARS = Path(__file__).parents[2] / ".hadoop"  # `hadoop.py` fills it
_PROPERTY = "<property><name>{}</name><value>{}</value></property>"
_LOGGING = """log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d %p %c: %m%n
"""
# What Hadoop of 2016 reaches into, and Java 17 keeps closed.
_OPENED = ("java.lang", "java.nio", "java.util", "sun.nio.ch", "java.net")


def is_hdfs_there() -> bool:
    """Whether this machine has what it takes."""
    return (JARS / "whole").exists() and shutil.which("java") is not None


def _write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write `settings` as Hadoop's configuration, core and hdfs alike."""
    text = "".join(_PROPERTY.format(name, value) for name, value in settings.items())
    for name in ("core-site.xml", "hdfs-site.xml"):
        (folder / name).write_text(f"<?xml version='1.0'?><configuration>{text}</configuration>")
    (folder / "log4j.properties").write_text(_LOGGING)
    for name in ("hdfs", "datanode"):  # their web pages, which nobody looks at, must be there
        (folder / "webapps" / name / "WEB-INF").mkdir(parents=True, exist_ok=True)


def _java(folder: Path, name: str, *words: str) -> list[str]:
    """The words that start one of Hadoop's programs."""
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
    program = f"org.apache.hadoop.hdfs.server.{name}"
    memory = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
    return ["java", *memory, *opened, "-cp", f"{folder}:{JARS}/*", program, *words]


def _started(words: list[str], folder: Path, port: int) -> ListeningServer:
    return ListeningServer(words, folder, port, {"HADOOP_USER_NAME": "root", "HADOOP_CONF_DIR": str(folder)})


class HdfsServer:
    """`url` is its root, `environment` what a client needs. Both servers can be killed, paused and started again."""

    def __init__(self, folder: Path) -> None:
        rpc, name_http, data, data_http, data_ipc = free_ports(5)
        self.url = f"hdfs://127.0.0.1:{rpc}"
        self.environment = {"HADOOP_USER_NAME": "root"}
        settings: dict[str, object] = {
            "fs.defaultFS": self.url,
            "hadoop.tmp.dir": folder / "data",
            "dfs.namenode.name.dir": folder / "data/name",
            "dfs.datanode.data.dir": folder / "data/blocks",
            "dfs.replication": 1,
            "dfs.namenode.http-address": f"127.0.0.1:{name_http}",
            "dfs.datanode.address": f"127.0.0.1:{data}",
            "dfs.datanode.http.address": f"127.0.0.1:{data_http}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{data_ipc}",
            "dfs.namenode.safemode.extension": 0,
            "dfs.heartbeat.interval": 1,
            "dfs.ls.limit": 20,  # entries in one answer
            "dfs.namenode.fs-limits.min-block-size": 0,
        }
        parts = [folder / "name", folder / "blocks"]
        for part in parts:
            part.mkdir(parents=True, exist_ok=True)
            _write_settings(part, settings)
        if not (folder / "data/name/current").exists():
            words = _java(parts[0], "namenode.NameNode", "-format", "-force", "-nonInteractive")
            subprocess.run(words, check=True, capture_output=True, env=os.environ | {"HADOOP_CONF_DIR": str(parts[0])})
        self.namenode = _started(_java(parts[0], "namenode.NameNode"), parts[0], rpc)
        self.datanode = _started(_java(parts[1], "datanode.DataNode"), parts[1], data)
        self._state = f"http://127.0.0.1:{name_http}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        self.wait()

    @property
    def pid(self) -> int:
        return self.namenode.pid

    def is_alive(self) -> bool:
        """Whether both run."""
        return self.namenode.is_alive() and self.datanode.is_alive()

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the NameNode knows of the DataNode, as after a start. Raises RuntimeError."""
        end = time.monotonic() + seconds
        while True:
            with suppress(OSError, ValueError), urllib.request.urlopen(self._state, timeout=5) as answer:
                state = json.load(answer)["beans"][0]
                if state["NumLiveDataNodes"] and state["FSState"] == "Operational":
                    return
            if time.monotonic() > end:
                raise RuntimeError(f"HDFS does not come up: see {self.namenode.log} and {self.datanode.log}")
            time.sleep(0.05)

    def release(self) -> None:
        """Use it no more: it ends once nobody does."""
        self.namenode.release()
        self.datanode.release()

    def kill(self) -> None:
        """End both; their data stay."""
        self.namenode.kill()
        self.datanode.kill()


@dataclass(frozen=True)
class Hdfs:
    """A place of a test's own: in `url` there is nothing yet."""

    url: Url
    server: HdfsServer

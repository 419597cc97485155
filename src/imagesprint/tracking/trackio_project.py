"""A run in a project of Trackio: in its database on this machine, or on the server that its variables name.

Each point is sent with an id of its own, of which Trackio keeps one: so none is there twice, whatever was cut short.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from imagesprint.errors import needing
from imagesprint.tracking.points import NAMES, Key, Point, RunIdentity, Setting, group_of
from imagesprint.tracking.tracker import PROJECT, asking

_AT_ONCE: Final = 1000  # points of one request


class TrackioRun:
    """The run of project `imagesprint`; on a server where TRACKIO_SERVER_URL or TRACKIO_SPACE_ID names one.

    A server notes the time at which a point comes: it takes no other.
    """

    def __init__(self, run: RunIdentity, settings: Mapping[str, Setting]) -> None:
        with needing("trackio"):
            from trackio.remote_client import RemoteClient
            from trackio.sqlite_storage import SQLiteStorage
        self._storage: Any = SQLiteStorage
        self._id, self._name = run.id, f"{run.name}-{run.id[:6]}"
        self._settings: dict[str, Setting] = {**settings, "run.place": run.place}
        self._server = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or ""
        self._client: Any = None
        self._last: Point | None = None  # of those that are there
        if self._server:
            token = os.environ.get("TRACKIO_WRITE_TOKEN")
            with self._asking():
                self._client = RemoteClient(self._server, hf_token=os.environ.get("HF_TOKEN"), write_token=token)

    @property
    def where(self) -> str:
        place = self._server.partition("?")[0] or self._storage.get_project_db_path(PROJECT)
        return f"{place}, run {self._name}"

    def sent(self) -> set[Key]:
        wanted = {"project": PROJECT, "run": self._name, "run_id": self._id}
        with self._asking():
            if self._client is None:
                rows = self._storage.get_logs(**wanted)
            else:
                rows = self._client.predict(api_name="/get_logs", **wanted)
            there = [Point(int(row["step"]), 0.0, {name: row[name] for name in NAMES if name in row}) for row in rows]
        there = [point for point in there if point.figures]
        self._last = there[-1] if there else None
        return {(name, point.step) for point in there for name in point.figures}

    def send(self, points: Sequence[Point]) -> None:
        for start in range(0, len(points), _AT_ONCE):
            self._send(points[start : start + _AT_ONCE])
            self._last = points[-1]

    def finish(self, outcome: str, facts: Mapping[str, Setting], files: Sequence[Path]) -> None:  # noqa: ARG002
        """Its settings get `facts`; files have no place beside a run in Trackio, and settings say where the run is."""
        self._settings |= {**facts, "outcome": outcome}
        if self._last is not None:  # settings come with points alone; of one that is there nothing else is changed
            self._send([self._last])

    def _send(self, points: Sequence[Point]) -> None:
        figures, steps = [dict(point.figures) for point in points], [point.step for point in points]
        ids = [f"{self._id}-{group_of(point)}-{point.step}" for point in points]
        with self._asking():
            if self._client is None:
                times = [datetime.fromtimestamp(point.time, UTC).isoformat() for point in points]
                self._storage.bulk_log(
                    project=PROJECT, run=self._name, run_id=self._id, metrics_list=figures, steps=steps,
                    timestamps=times, log_ids=ids, config=dict(self._settings),
                )  # fmt: skip
                return
            logs = [
                {"project": PROJECT, "run": self._name, "run_id": self._id, "metrics": row, "step": step, "log_id": one}
                for row, step, one in zip(figures, steps, ids, strict=True)
            ]
            logs[0]["config"] = dict(self._settings)
            self._client.predict(api_name="/bulk_log", logs=logs, hf_token=None)

    def _asking(self) -> AbstractContextManager[None]:
        where = self._server.partition("?")[0] or "on this machine"
        return asking(
            f"Trackio {where}",
            "see to TRACKIO_SERVER_URL and TRACKIO_WRITE_TOKEN, or to TRACKIO_SPACE_ID and "
            "HF_TOKEN; the same command goes on where this one stopped",
        )

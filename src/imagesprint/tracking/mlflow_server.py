"""A run on an MLflow server, or wherever else MLflow's variables point: MLFLOW_TRACKING_URI and those of its login.

The run is found by a tag that is made with it, in one request. What it has of each metric is asked for, so nothing
need be kept here. A request that the server was still working on when this process was killed may be sent again: the
point is then the same in name, step, time and value, which MLflow's database keeps once.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from imagesprint.errors import needing
from imagesprint.tracking.points import FAILED, FINISHED, NAMES, RUNNING, STOPPED, Key, Point, RunIdentity, Setting
from imagesprint.tracking.tracker import PROJECT, asking

_TAG: Final = "imagesprint.run"
_MOST_METRICS: Final = 1000  # of one request, https://mlflow.org/docs/latest/api_reference/rest-api.html#log-batch
_MOST_PARAMETERS: Final = 100
_LONGEST_VALUE: Final = 6000  # characters of a parameter
_STATUS: Final = {FINISHED: "FINISHED", RUNNING: "RUNNING", STOPPED: "KILLED", FAILED: "FAILED"}


class MlflowRun:
    """The run in the experiment that MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME names, by default `imagesprint`."""

    def __init__(self, run: RunIdentity, settings: Mapping[str, Setting]) -> None:
        # It would try for four minutes before it says that nobody listens. `track` asks again by itself.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        with needing("mlflow"):
            import mlflow
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        self._metric, self._parameter = Metric, Param
        self._shown = re.sub("//[^/@]*@", "//", mlflow.get_tracking_uri())  # without a password in it
        with self._asking():
            self._client = MlflowClient()
            self._experiment = self._find_experiment()
            found = self._find(run) or self._create(run)
        self._id = str(found.info.run_id)
        with self._asking():
            self._tell_settings(settings, found.data.params)

    @property
    def where(self) -> str:
        if not self._shown.startswith("http"):
            return self._shown
        return f"{self._shown.rstrip('/')}/#/experiments/{self._experiment}/runs/{self._id}"

    def sent(self) -> set[Key]:
        with self._asking():
            known = self._client.get_run(self._id).data.metrics
            return {
                (name, row.step)
                for name in NAMES
                if name in known
                for row in self._client.get_metric_history(self._id, name)
            }

    def send(self, points: Sequence[Point]) -> None:
        metrics = [
            self._metric(name, value, round(1000 * point.time), point.step)
            for point in points
            for name, value in point.figures.items()
        ]
        with self._asking():
            for start in range(0, len(metrics), _MOST_METRICS):
                self._client.log_batch(self._id, metrics=metrics[start : start + _MOST_METRICS])

    def finish(self, outcome: str, facts: Mapping[str, Setting], files: Sequence[Path]) -> None:
        with self._asking():
            for key, value in facts.items():
                self._client.set_tag(self._id, key, value)
            for file in files:
                self._client.log_artifact(self._id, str(file))
            if outcome == RUNNING:
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._client.set_terminated(self._id, _STATUS[outcome])

    def _find_experiment(self) -> str:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return str(number)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _find(self, run: RunIdentity) -> Any:
        wanted = f"tags.`{_TAG}` = '{run.id}'"
        return next(iter(self._client.search_runs([self._experiment], wanted, max_results=1)), None)

    def _create(self, run: RunIdentity) -> Any:
        tags = {_TAG: run.id, "imagesprint.place": run.place}
        return self._client.create_run(self._experiment, round(1000 * run.begun), tags, run.name)

    def _tell_settings(self, settings: Mapping[str, Setting], known: Mapping[str, str]) -> None:
        """Those that are not there: MLflow takes no second value for one."""
        new = [self._parameter(key, str(settings[key])[:_LONGEST_VALUE]) for key in settings if key not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[start : start + _MOST_PARAMETERS])

    def _asking(self) -> AbstractContextManager[None]:
        return asking(
            f"MLflow at {self._shown}",
            "see to MLFLOW_TRACKING_URI and its server, and, where it wants a "
            "login, to MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN; the same command goes on where this one "
            "stopped",
        )

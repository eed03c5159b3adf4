"""Callback for trial events: writes records, prints progress, and logs an MLflow run per trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray.tune

from pipeline.cli.progress import duration
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.sweep_folder import ENDED, FAILED, FINISHED, RUNNING, STOPPED, SweepFolder
from pipeline.storage.outs import as_json
from pipeline.sweep.records import settings_of
from pipeline.sweep.sampler import COMPLETE, SCORE
from pipeline.sweep.space import format_settings
from pipeline.tracking import Run

OpenRun = Callable[[Mapping[str, Any], str | None], Run]
"""Creates the MLflow run of a configuration, or resumes the one with this id."""


class Listener(ray.tune.Callback):  # type: ignore[misc]  # ray has no types
    """Receives the events of all trials; Ray pickles it with its state, without open runs and records.

    Records are read from the storage once, then cached. A record that cannot be written is retried with the next ones,
    so that an outage of the storage ends neither a trial nor the sweep.

    Args:
        trials: maximum number.
        epochs: of a full trial.
        open_run: see OpenRun; must be picklable.
        sample_images: sample images of val, drawn for every trial and epoch.
    """

    def __init__(
        self, folder: SweepFolder, *, trials: int, epochs: int, open_run: OpenRun, sample_images: SampleImages
    ) -> None:
        self.folder, self.trials, self.epochs, self.open_run, self.sample_images = (
            folder,
            trials,
            epochs,
            open_run,
            sample_images,
        )
        self.runs: dict[str, Run] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.unwritten: set[str] = set()
        self.begun = time.time()
        self.ended_before = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "runs": {}, "records": {}, "unwritten": set()}

    def setup(self, **info: Any) -> None:
        """Handle the start or the resume of a sweep."""
        self.records = {record["key"]: record for record in self.folder.records()}
        self.begun = time.time()
        self.ended_before = self.count_ended()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Handle the start or the retry of a trial."""
        past, configuration = self.own(trial)
        if past.get("state") == FINISHED:
            return
        run = self.run_of(configuration, past.get("run_id"))
        self.keep(configuration, past | {"state": RUNNING, "run_id": run.run_id})
        if not past:
            print(f"{title(configuration)} starts: {format_settings(settings_of(configuration))}", flush=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Handle an evaluated epoch of a trial."""
        past, configuration = self.own(trial)
        history = result.get("history") or []
        if past.get("state") == FINISHED or "error" in result:
            self.keep(configuration, past | ({"error": result["error"]} if "error" in result else {}))
            return
        run = self.run_of(configuration, past.get("run_id"))
        run.log_history(history)
        self.sample_images.keep(result.get("found") or {}, epoch=history[-1]["epoch"])
        self.sample_images.log(run, epoch=history[-1]["epoch"])
        seconds = past.get("seconds", 0.0) + result.get("time_this_iter_s", 0.0)
        where = {name: result.get(name) for name in ("hostname", "pid")}
        figures = {"history": history, SCORE: result[SCORE], COMPLETE: result.get(COMPLETE, False)}
        self.keep(configuration, past | figures | {"seconds": seconds} | where)
        last = history[-1]
        print(
            f"{title(configuration)} epoch {last['epoch']}/{self.epochs}  loss {last['loss']:.4f}  "
            f"AP {last['AP']:.3f}  {last['images_per_s']:.1f} images/s",
            flush=True,
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Handle the end of a trial, finished or stopped by the scheduler."""
        past, configuration = self.own(trial)
        if past.get("state") == FINISHED:
            return
        history = past.get("history") or []
        whole = past.get(COMPLETE) or (bool(history) and history[-1]["epoch"] >= self.epochs)
        state = FAILED if "error" in past else FINISHED if whole else STOPPED
        self.end(configuration, past | {"state": state})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Handle the final failure of a trial."""
        past, configuration = self.own(trial)
        self.end(configuration, past | {"state": FAILED, "error": error_of(trial)})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Handle a failure of a trial that is retried."""
        print(f"{title(self.own(trial)[1])} failed and is retried: {error_of(trial)}", flush=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Handle the end of the sweep; unfinished trials keep their runs for a resume."""
        for run in self.runs.values():
            run.finish("KILLED")
        self.runs = {}
        self.write_records()

    def own(self, trial: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the record of a trial, and its configuration.

        PBT gives a bad trial all of a better one's configuration, number and key too; the trial's name in Ray stays.
        """
        past = self.records.get(str(trial), {})
        known = past or trial.config
        return past, {**trial.config, "key": str(trial), "number": known["number"], "seed": known["seed"]}

    def end(self, configuration: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Write the final record of a trial, and finish its run."""
        self.keep(configuration, record)
        run = self.run_of(configuration, record.get("run_id"))
        best = best_row(record.get("history") or [])
        run.set_tags({"sweep.state": record["state"]} | ({"error": record["error"]} if "error" in record else {}))
        run.finish("FAILED" if record["state"] == FAILED else "FINISHED")
        self.runs.pop(configuration["key"], None)
        score = f"AP {best['AP']:.3f}" if best else record.get("error", "no AP")
        print(f"{title(configuration)} {record['state']}: {score}; {self.progress()}", flush=True)

    def run_of(self, configuration: Mapping[str, Any], run_id: str | None) -> Run:
        """Return the open run of a trial."""
        key = configuration["key"]
        if key not in self.runs:
            self.runs[key] = self.open_run(configuration, run_id)
        return self.runs[key]

    def keep(self, configuration: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Write the record of a trial, and print changed settings."""
        own = {name: configuration[name] for name in ("key", "number", "seed")}
        settings = settings_of(configuration)
        if record.get("settings", settings) != settings:
            print(f"{title(configuration)} continues from a better trial: {format_settings(settings)}", flush=True)
        self.records[own["key"]] = {**record, **own, "settings": settings}
        self.unwritten.add(own["key"])
        self.write_records()

    def write_records(self) -> None:
        """Write pending records; warn about those that fail, and retry them next time."""
        for key in sorted(self.unwritten):
            try:
                self.folder.write_json(f"trials/{key}.json", as_json(self.records[key]))
            except ValueError as error:
                left = f"{len(self.unwritten)} trial record(s) will be written when it answers"
                print(f"warning: {error}; the sweep continues, {left}", flush=True)
                return
            self.unwritten.remove(key)

    def count_ended(self) -> int:
        """Return the number of trials that are done."""
        return sum(record["state"] in ENDED for record in self.records.values())

    def progress(self) -> str:
        """Format the number of finished trials, and the time left at the current pace."""
        ended = self.count_ended()
        here = max(ended - self.ended_before, 1)
        left = (time.time() - self.begun) / here * max(self.trials - ended, 0)
        return f"{ended} of {self.trials} trials ended, at most {duration(left)} left"


def title(configuration: Mapping[str, Any]) -> str:
    """Format the name of a trial."""
    return f"trial {configuration['number']} seed {configuration['seed']}"


def best_row(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the best epoch by AP; empty if there is none."""
    return max((row for row in history if row.get("AP") is not None), key=lambda row: row["AP"], default={})


def error_of(trial: Any) -> str:
    """Return the last line of a trial's error."""
    text = str(trial.get_error() or trial.get_pickled_error() or "its process died").strip()
    return text.splitlines()[-1][:300]

"""A run's own page, and the data that it shows."""

import json
import logging
import math
import os
import re
import signal
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ctr import train
from ctr.artifact.save import save_model
from ctr.config.compose import resolve
from ctr.datasets.prepared import read_vocabulary
from ctr.datasets.stream import RowStream
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Planner
from ctr.models import FeatureEmbedding
from ctr.report import run_figures, run_page
from ctr.training.curve import COLUMNS
from ctr.training.details import Details, norms
from ctr.training.experiment import run_family
from ctr.training.folder import read_result
from ctr.training.result import Result
from ctr.training.run import Follower, Run
from ctr.training.settings import Settings
from tests.commands import composed
from tests.datasets.criteo_text import arguments
from tests.training.runs import configuration, magnitude

COMMAND = "python -m ctr.train 'dataset.test_days=[1,2]' \"run <one> & two\""
VOID = {"meta", "br", "path", "use", "rect"}  # HTML's, and SVG's that close themselves


@dataclass
class Seen:
    """What a run has handed to its page, and what it was trained to."""

    run: Run
    settings: Settings
    result: Result
    details: Details
    training: Any
    data: Any


def run(settings: Settings, folder: Path, *, draws: bool = False, **how: Any) -> Seen:
    """A run to its end, its page drawn or only its data kept."""
    seen: dict[str, Any] = {}

    def save(folder: Path, settings: Settings, data: Any, training: Any, *rest: Any) -> None:
        seen.update(training=training, data=data)
        save_model(folder, settings, data, training, *rest)

    def draw(path: Path, settings: Settings, result: Result, details: Details, command: str) -> None:
        seen.update(settings=settings, result=result, details=details)
        if draws:
            run_page.write(path, settings, result, details, command)

    one = Run(settings, folder, save=save, draw=draw, **how)
    run_family([one], lambda rows: None)
    if one.error is not None:
        raise one.error
    return Seen(run=one, training=seen.pop("training", None), data=seen.pop("data", None), **seen)


@pytest.fixture(scope="module")
def avazu(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run to which all drawings apply."""
    folder = tmp_path_factory.mktemp("avazu")
    sample = [
        "dataset=avazu",
        "dataset.source=sample",
        "dataset.sample_rows=4000",
        f"dataset.prepared={folder / 'rows'}",
    ]
    net = ["model.embedding_dim=4", "model.hidden=[8]", "batch_size=64", "window=4", "opt.lr=5e-3"]
    keys = [
        "dataset.test_days=[20141029,20141030]",
        "progressive=true",
        "opt.budget=0.2",
        "tracking=none",
        "report=true",
    ]
    settings = resolve(composed("train", *sample, *net, *keys))
    return run(settings, folder / "run", draws=True, command=COMMAND)


class Page(HTMLParser):
    """What a page holds: text, tables by their heading, drawings, and every address."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.drawings: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [str(named[name]) for name in ("src", "href", "xlink:href", "action") if name in named]
        if tag == "svg":
            self.drawings.append(str(named["aria-label"]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self.rows and {"th", "td"} & {*self.open}:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page(avazu: Seen) -> Page:
    return Page(avazu.run.folder / "report.html")


def test_a_page_is_one_small_file_that_loads_nothing(avazu: Seen, page: Page) -> None:
    written = (avazu.run.folder / "report.html").read_text()
    assert len(written.encode()) < 400_000
    assert "//" not in re.sub(r"data:[^\"]*", "", written)  # no address of any kind
    assert "@import" not in written
    assert all(address.startswith("#") for address in page.addresses)
    assert "url(" not in re.sub(r"url\(#", "", written)
    assert "<script" not in written


def test_a_page_says_what_the_run_was(avazu: Seen, page: Page) -> None:
    assert (
        "group_adam budget=0.2 threshold=hard batch_size=64 lr=0.005 seed=0 avazu mlp embedding_dim=4: a run of ctr"
        in page.text
    )
    assert COMMAND in page.text
    assert "Generated rows: says nothing about real clicks." in page.text
    assert ["test AUC", f"{avazu.result.auc:.4f}"] in page.rows
    assert avazu.result.machine in page.text
    assert f"torch {torch.__version__}" in page.text
    everything = ["Training loss", "Training AUC", "Living rows", "lambda21", "AUC by day", "Calibration"]
    assert page.drawings == [*everything, "Norms of the rows"]
    assert f"{avazu.result.budget:,} features live at the end" in page.text


def test_the_fields_on_a_page_are_those_of_the_model(avazu: Seen, page: Page) -> None:
    embedding, vocabulary = avazu.training.model.embedding, read_vocabulary(avazu.data)
    counts = {name: [0, 0] for name in avazu.data.manifest.fields}
    for field, seen, row in zip(
        vocabulary["field"].to_pylist(), embedding.seen.tolist(), embedding.weight.tolist(), strict=True
    ):
        counts[avazu.data.manifest.fields[field]][0] += seen and any(row)
        counts[avazu.data.manifest.fields[field]][1] += seen
    shown = {row[0]: row[1:3] for row in page.rows if row[0] in counts}
    assert shown == {name: [f"{kept:,}", f"{seen:,}"] for name, (kept, seen) in counts.items()}


def test_the_size_on_a_page_is_that_of_the_files(avazu: Seen, page: Page) -> None:
    model = avazu.run.folder / "model"
    sizes = {name: (model / name).stat().st_size for name in ("manifest.json", "model.safetensors", "vocabulary.arrow")}
    rows = 4 * 4 * avazu.result.features_nonzero
    shown = {row[0]: row[1] for row in page.rows if len(row) == 4 and row[0] in ("rows", "values", "net", "together")}
    assert shown == {
        "rows": f"{rows / 1e3:.0f} kB",
        "net": f"{(sizes['model.safetensors'] - rows) / 1e3:.0f} kB",
        "values": f"{sizes['vocabulary.arrow'] / 1e3:.0f} kB",
        "together": kilobytes(sum(sizes.values())),
    }
    # Estimated: the saved values cost as much each as all would.
    all_values = avazu.details.dense_values_bytes * avazu.result.features_nonzero / avazu.result.features_present
    assert all_values == pytest.approx(sizes["vocabulary.arrow"], rel=0.25)


def kilobytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 1e5 else f"{number / 1e3:.0f} kB"


def test_calibration_and_auc_by_day_are_those_of_the_test_rows(avazu: Seen) -> None:
    split, days = avazu.data.split, {day: (start, stop) for day, start, stop in avazu.data.manifest.days}
    batches = [*RowStream(avazu.data.rows, split.test, 512)]
    logits = np.concatenate([avazu.training.learner.predict(batch).numpy() for batch in batches]).astype(float)
    labels = np.concatenate([batch.label.numpy() for batch in batches])
    expected = np.array_split(np.argsort(logits, kind="stable"), min(20, len(logits) // 50))
    found = avazu.details.calibration
    assert len(found) > 3
    assert sum(each.rows for each in found) == len(labels)
    for each, rows in zip(found, expected, strict=True):
        assert each.rows == pytest.approx(len(rows), abs=len(rows) * 0.1)  # equal predictions stay together
        assert each.predicted == pytest.approx(np.mean(1 / (1 + np.exp(-logits[rows]))), rel=0.02)
    clicks = sum(each.observed * each.rows for each in found)
    assert clicks == pytest.approx(labels.sum())
    assert sum(each.predicted * each.rows for each in found) / clicks == pytest.approx(avazu.result.calibration)
    start = 0
    for day in (20141029, 20141030):
        rows = slice(start, start + days[day][1] - days[day][0])
        assert avazu.result.auc_by_day[str(day)] == pytest.approx(roc_auc_score(labels[rows], logits[rows]))
        start = rows.stop


def test_norms_are_those_of_all_rows_at_the_start_and_of_the_touched_ones_at_the_end(avazu: Seen) -> None:
    embedding, (before, after) = avazu.training.model.embedding, (avazu.details.before, avazu.details.after)
    assert before is not None
    assert (before.counts.sum(), before.zero) == (embedding.num_features, 0)
    weights = embedding.weight.detach().numpy()[embedding.seen.numpy()]
    lengths = np.sqrt((weights.astype(float) ** 2).sum(axis=1))
    assert after.zero == int((lengths == 0).sum()) == avazu.result.features_present - avazu.result.features_nonzero
    edges = 10.0 ** np.arange(-10, 4.001, 1 / 8)
    assert np.abs(after.counts - np.histogram(lengths[lengths > 0], edges)[0]).sum() <= 2  # one at an edge, by rounding


def test_norms_without_end_and_nan_are_in_the_last_bucket() -> None:
    embedding = FeatureEmbedding(4, 2)
    with torch.no_grad():
        embedding.weight[:] = torch.tensor([[math.nan, 1], [math.inf, 1], [0, 0], [3, 4]])
    found = norms(embedding, "rows")
    assert (found.zero, found.counts[-1], found.counts.sum()) == (1, 2, 3)


def test_the_curve_has_a_point_for_each_window(avazu: Seen) -> None:
    curve = {name: avazu.details.curve[:, number] for number, name in enumerate(COLUMNS)}
    assert curve["step"].tolist() == [*range(4, avazu.training.steps + 1, 4)]
    assert curve["rows"].tolist() == [64 * step for step in curve["step"]]
    assert curve["loss"][-1] < curve["loss"][0]
    assert avazu.result.feature_rate <= curve["living"][-1] < 0.5  # the budget is met exactly after the last step
    assert len({*curve["lambda21"]}) > 1


def test_what_does_not_apply_is_left_out(avazu: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense model of hashed values that was not saved, without days, test rows and command; names are escaped."""
    monkeypatch.setattr(run_figures, "svg", lambda title, draw, **_: f'<svg aria-label="{title}"></svg>')
    hostile = "<img src=x onerror='a'>&amp;"
    dense = replace(
        avazu.result,
        features_nonzero=avazu.result.features_present,
        source="raw",
        auc_by_day={"20141030": 0.5},
        auc_progressive_by_day={},
        dataset=hostile,
        warnings=[hostile],
        calibration=None,
    )
    details = replace(
        avazu.details, curve=avazu.details.curve[:, :] * [1, 1, 1, math.nan, 0, 1], fields=[], calibration=()
    )
    settings = replace(avazu.settings, data=replace(avazu.settings.data, name=hostile))
    run_page.write(tmp_path / "page.html", settings, dense, replace(details, before=None), "")
    page = Page(tmp_path / "page.html")
    assert page.drawings == ["Training loss", "Norms of the rows"]
    assert page.addresses == []
    assert f"seed=0 {hostile} mlp embedding_dim=4" in page.text
    assert f"Warning: {hostile}" in page.text
    assert "Generated" not in page.text
    assert "command" not in page.text
    assert "it was not saved" in page.text
    assert "all rows" not in page.text
    assert "Those before are not known" in page.text


def test_every_drawing_is_of_points_that_are_there(tmp_path: Path) -> None:
    assert run_figures.interval(0.0, 50)[0] == 0
    # R: prop.test(15, 50, correct=FALSE)
    assert run_figures.interval(0.3, 50) == pytest.approx((0.1910, 0.4375), abs=1e-4)
    assert len(run_figures._thinned(np.arange(10_001.0))) == run_figures.POINTS
    assert run_figures._thinned(np.arange(10_000.0)).mean() == pytest.approx(4999.5)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log."""
    return tmp_path_factory.mktemp("log")


def criteo(log: Path, *overrides: str) -> Settings:
    keys = ["report=true", "window=2", "model.hidden=[4]", "model.embedding_dim=4", "opt.lr=0.01"]
    return resolve(configuration(log, *keys, *overrides))


@pytest.mark.parametrize("place", ["ctr.training.experiment.details", "ctr.report.run_page.write"])
def test_a_run_whose_page_cannot_be_drawn_is_done_all_the_same(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whether it is at what the page shows or at the page itself."""

    def fail(*_: object, **more: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(place, fail)
    (tmp_path / "report.html").write_text("of an older run")
    one = Run(criteo(log), tmp_path, draw=run_page.write)
    with caplog.at_level(logging.WARNING):
        run_family([one], lambda rows: None)
    assert one.error is None
    assert json.loads((tmp_path / "result.json").read_text())["auc"] == one.result.auc  # type: ignore[union-attr]
    assert [record.getMessage() for record in caplog.records] == [
        "warning: the run is done, but its page report.html could not be drawn: RuntimeError: no ink"
    ]
    assert not (tmp_path / "report.html").exists()
    assert not re.search("^  page ", one.table(), re.MULTILINE)


def test_what_a_page_shows_is_gathered_after_the_result_is_written(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    monkeypatch.setattr(
        "ctr.training.experiment.details", lambda *_, **more: there.append((tmp_path / "result.json").is_file())
    )
    run_family([Run(criteo(log), tmp_path, draw=lambda *_: None)], lambda rows: None)
    assert there == [True]


def test_a_worker_that_fails_at_what_the_page_shows_is_done_all_the_same(log: Path, tmp_path: Path) -> None:
    def fail() -> Details:
        raise RuntimeError("no ink")

    one, result = Follower(criteo(log), tmp_path, draw=run_page.write), cast(Result, object())
    one.finish(result, fail, 1)
    assert one.result is result


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_while_the_page_is_drawn_keeps_the_result_and_says_so(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    """The first waits until the page is there, the second does not."""

    def draw(path: Path, *_: object) -> None:
        for _press in range(presses):
            os.kill(os.getpid(), signal.SIGINT)
        path.touch()

    monkeypatch.setattr(run_page, "write", draw)
    with pytest.raises(KeyboardInterrupt) as stop:
        train.train_and_print(criteo(log), tmp_path / "run")
    assert read_result(tmp_path / "run" / "result.json")["rows_train"] == 342
    said = os.path.relpath(tmp_path / "run" / "result.json")
    assert stop.value.args == (f"the run is done: its result is in {said}",)
    assert (tmp_path / "run" / "report.html").exists() == (presses == 1)


def test_settings_that_ask_for_a_page_need_something_that_draws_it(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was given that draws it"):
        Run(criteo(log), tmp_path)


def test_a_page_changes_nothing_of_what_a_run_computes(log: Path) -> None:
    settings = [criteo(log), criteo(log, "report=false")]
    assert [one.report for one in settings] == [True, False]
    assert len({one.config_hash for one in settings}) == len({one.family for one in settings}) == 1


def test_a_run_that_goes_on_has_the_whole_curve(log: Path, tmp_path: Path) -> None:
    keys = ["checkpoint.every_steps=3", "window=2", "backend=torch"]
    whole = run(criteo(log, *keys), tmp_path / "whole")
    steps = iter(range(6))

    def stop(rows: int) -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_family([Run(criteo(log, *keys), tmp_path / "stopped", draw=run_page.write)], stop)
    again = run(criteo(log, *keys), tmp_path / "stopped", resume=True)
    assert again.details.curve.tolist() == whole.details.curve.tolist()
    assert len(whole.details.curve) == 5
    assert again.details.before is not None
    assert whole.details.before is not None
    assert again.details.before.counts.tolist() == whole.details.before.counts.tolist()


def test_the_norms_of_a_pruned_run_are_those_before_and_after_the_last_pruning(log: Path, tmp_path: Path) -> None:
    seen = run(criteo(log, "opt=adam", "epochs=2", *magnitude(0.2, 0.3)), tmp_path)
    before, after, kept = seen.details.before, seen.details.after, round(0.2 * seen.result.features_present)
    assert before is not None
    assert before.what == "rows that training has touched, before the last pruning"
    assert before.counts.sum() + before.zero == seen.result.features_present
    assert after.counts.sum() == kept < before.counts.sum()
    assert len(seen.details.curve) == math.ceil(2 * 342 / 32) // 2  # of both passes and the fine-tuning


def test_a_study_draws_pages_only_if_it_is_told_to(tmp_path: Path) -> None:
    overrides: dict[str, object] = dict(text.split("=", 1) for text in arguments(tmp_path, "tracking=none"))
    plain, told = (Planner(Cache(tmp_path), more, {}).plan(overrides) for more in ({}, {"report": True}))
    assert (plain.settings.report, told.settings.report) == (False, True)
    assert plain.key == told.key

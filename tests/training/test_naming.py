"""Names of runs in MLflow: those of a study or a sweep differ where the runs do."""

from dataclasses import replace
from pathlib import Path

import pytest

from ctr.config.compose import resolve
from ctr.training.naming import run_name
from tests.training.runs import configuration

GROUP, OF = "group_adam λ21=0.001", "lr=0.001 seed=0 criteo dcn embedding_dim=8"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], f"{GROUP} {OF}"),
        (["seed=3", "opt.lambda21=5e-4", "opt.lr=1e-2"],
         "group_adam λ21=0.0005 lr=0.01 seed=3 criteo dcn embedding_dim=8"),
        (["opt=adam", "opt.lr=1e-5"], "adam lr=1e-05 seed=0 criteo dcn embedding_dim=8"),
        (["opt.budget=0.05"], f"group_adam budget=0.05 threshold=hard {OF}"),
        (["opt.lambda_schedule=cubic", "opt.betas=[0.8,0.999]"],
         f"group_adam betas=[0.8, 0.999] λ21=0.001 λ_schedule=cubic {OF}"),
        (["opt=adam", "prune=magnitude", "prune.feature_rate=0.01234", "prune.score=effect", "prune.finetune=0.3"],
         f"adam pruned=0.01234 by=effect finetune=0.3 {OF}"),
        (["dataset.min_count=5", "dataset.unseen=row", "average=0.3", "holdout=0.1"],
         f"{GROUP} holdout=0.1 average=0.3 min_count=5 unseen=row {OF}"),
        (["dataset.encoding=hash", "dataset.num_buckets=100", "model.embedding_dim=4", "batch_size=32"],
         f"{GROUP} batch_size=32 encoding=hash num_buckets=100 lr=0.001 seed=0 criteo dcn embedding_dim=4"),
    ],
)  # fmt: skip
def test_a_name_tells_what_is_not_as_usual(tmp_path: Path, overrides: list[str], name: str) -> None:
    assert run_name(resolve(configuration(tmp_path, "batch_size=512", *overrides))) == name


def test_a_long_name_is_cut_to_what_a_database_takes(tmp_path: Path) -> None:
    settings = resolve(configuration(tmp_path))
    long = replace(settings, data=replace(settings.data, name="x" * 300))
    assert len(run_name(long)) == 250
    assert run_name(long).startswith(f"{GROUP} ")
    assert run_name(long).endswith("x…")

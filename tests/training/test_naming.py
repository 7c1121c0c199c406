"""Names of runs in MLflow: those of a study or a sweep differ where the runs do."""

from pathlib import Path

import pytest

from ctr.config.compose import resolve
from ctr.training.naming import run_name
from tests.training.runs import configuration

GROUP = "group_adam lr=0.001 lambda21=0.001"
OF = "seed=0 criteo dcn embedding_dim=8"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], f"{GROUP} {OF}"),
        (["seed=3", "opt.lambda21=5e-4", "opt.lr=1e-2"],
         "group_adam lr=0.01 lambda21=0.0005 seed=3 criteo dcn embedding_dim=8"),
        (["opt=adam", "opt.lr=1e-5"], f"adam lr=1e-05 {OF}"),
        (["opt.budget=0.05"], f"group_adam lr=0.001 threshold=hard budget=0.05 {OF}"),
        (["opt.lambda_schedule=cubic", "opt.betas=[0.8,0.999]"],
         f"group_adam lr=0.001 betas=[0.8, 0.999] lambda21=0.001 lambda_schedule=cubic {OF}"),
        (["opt=adam", "prune=magnitude", "prune.feature_rate=0.01234", "prune.score=effect", "prune.finetune=0.3"],
         f"adam lr=0.001 prune.feature_rate=0.01234 prune.score=effect prune.finetune=0.3 {OF}"),
        (["dataset.min_count=5", "dataset.unseen=row", "average=0.3", "holdout=0.1", "batch_size=512"],
         f"{GROUP} holdout=0.1 average=0.3 min_count=5 unseen=row {OF}"),
        (["dataset.encoding=hash", "dataset.num_buckets=100", "model.embedding_dim=4", "batch_size=512"],
         f"{GROUP} encoding=hash num_buckets=100 seed=0 criteo dcn embedding_dim=4"),
    ],
)  # fmt: skip
def test_a_name_tells_what_is_not_as_usual(tmp_path: Path, overrides: list[str], name: str) -> None:
    small = [] if any(key.startswith("batch_size") for key in overrides) else ["batch_size=512"]
    assert run_name(resolve(configuration(tmp_path, *small, *overrides))) == name

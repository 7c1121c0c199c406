"""Every YAML composes, and wrong keys, types and values are refused by name."""

from pathlib import Path

import ctr.conf
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctr.config import schema
from ctr.config.compose import compose, resolve
from ctr.config.messages import CONFIG_ERRORS
from ctr.config.schema import plain_dict
from ctr.errors import ArgumentError
from ctr.native.library import available
from ctr.training.settings import Settings
from tests.commands import composed, without_page
from tests.native.built import needs_kernels

CONFIGS = Path(ctr.conf.__file__).parent
SAMPLE = ["dataset=criteo", "dataset.source=sample"]
CHOICES = [(folder.name, path.stem) for folder in CONFIGS.iterdir() for path in sorted(folder.glob("*.yaml"))]


def settled(*overrides: str) -> Settings:
    """The settings of a run on generated rows."""
    return resolve(composed("train", *SAMPLE, *overrides))


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] not in ("hydra", "study")])
def test_every_choice_can_be_run(group: str, name: str) -> None:
    dataset = [] if group == "dataset" else ["dataset=criteo"]
    columns = ["dataset.label=y", "dataset.categorical=[a]"] if name == "csv" else []
    generated = name not in ("csv", "criteo_1tb")
    source = ["dataset.source=sample"] if generated else ["dataset.source=raw", f"dataset.raw={__file__}"]
    pruned = ["opt=adam", "prune.feature_rate=0.1"] if name == "magnitude" else []
    config = composed("train", *dataset, f"{group}={name}", *columns, *source, *pruned)
    values = plain_dict(config)  # raises on a missing value
    assert values[group]["name"] == name
    resolve(config)


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "study"])
def test_every_study_composes(name: str) -> None:
    values = plain_dict(composed("reproduce", f"study={name}", "dataset=avazu"))
    assert (values["name"], values["model"]["name"]) == (name, "mlp")


def test_every_key_is_commented() -> None:
    """A reader learns from the YAML what a key does; the head says what `lr` and `name` are."""
    for path in CONFIGS.rglob("*.yaml"):
        head, *body = path.read_text().splitlines()
        assert head.startswith("# "), path
        assert body, path


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("opt.lambda21=abc", "opt.lambda21"),
        ("opt.lamda21=1e-3", "lamda21"),
        ("opt.norm=l2", "opt.norm"),
        ("dataset.encoding=binary", "dataset.encoding"),
        ("batch_size=many", "batch_size"),
        ("batchsize=512", "batchsize"),
        ("opt=adamw", "adamw"),
        ("dataset.test_fraction=x", "dataset.test_fraction"),
        ("model.hidden=[a]", "model.hidden"),
    ],
)
def test_wrong_keys_and_types_are_named(override: str, problem: str) -> None:
    with pytest.raises(CONFIG_ERRORS) as caught:
        composed("train", "dataset=criteo", override)
    texts = [str(caught.value), str(caught.value.__cause__)]
    assert any(problem in text for text in texts)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("opt.lr=-1", "lr"),
        ("opt.lambda21=-1e-3", "lambda21"),
        ("opt.betas=[0.9,1.0]", "betas"),
        ("batch_size=0", "batch_size"),
        ("threads=0", "threads"),
        ("model.embedding_dim=0", "embedding_dim"),
        ("device=abacus", "device=abacus"),
        ("device=cuda:99", "device=cuda:99"),
        ("seed=-1", "seed=-1"),
        ("seed=99999999999999999999999", "seed"),
        ("threads=100000", "threads=100000"),
        ("model.embedding_init=-1", "model.embedding_init=-1"),
        ("dataset.test_fraction=2", "dataset.test_fraction=2"),
        ("dataset.test_fraction=nan", "dataset.test_fraction=nan"),
        ("dataset.test_days=[20200101]", "dataset.test_days: criteo logs name no days"),
        ("dataset.prepared=", "dataset.prepared"),
        ("model.cross_layers=-1", "cross_layers"),
        ("model.hidden=[]", "hidden"),
        ("train_rows=0", "train_rows=0"),
        ("holdout=1", "holdout=1"),
        ("holdout=-0.1", "holdout=-0.1"),
        ("holdout=nan", "holdout=nan"),
        ("tracking.uri=foo", "tracking.uri=foo; expected a database, as sqlite:///foo, or a server"),
        ("tracking.uri=./mlruns", "tracking.uri=./mlruns; expected a database"),
        ("tracking.uri=sqlite://mlflow.db", "expected a database, as sqlite:///mlflow.db"),
        ("tracking.uri=file:///tmp/mlruns", "tracking.uri=file:///tmp/mlruns; expected a database"),
        ("tracking.uri=''", "tracking.uri=; expected a database, as sqlite:///mlflow.db"),
        ("+opt.lamda21=1e-3", "lamda21"),
        ("+model.dropout=0.5", "dropout"),
        ("+dataset.foo=1", "foo"),
        ("+foo=1", "foo"),
    ],
)
def test_wrong_values_are_refused_before_data_is_read(override: str, problem: str) -> None:
    with pytest.raises((ArgumentError, OmegaConfBaseException), match=problem):
        settled(override)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([], "full_key: prune.feature_rate"),
        (["prune.feature_rate=0"], "prune.feature_rate=0"),
        (["prune.feature_rate=1.5"], "prune.feature_rate=1.5"),
        (["prune.feature_rate=nan"], "prune.feature_rate=nan"),
        (["prune.feature_rate=0.1", "prune.finetune=1"], "prune.finetune=1"),
        (["prune.feature_rate=0.1", "prune.finetune=-0.1"], "prune.finetune=-0.1"),
        (["prune.feature_rate=0.1", "opt=group_adam"], "prune=magnitude .* opt=group_adam has opt.lambda21=0.001"),
        (["prune.feature_rate=0.1", "opt=group_sgd", "opt.lambda21=0", "opt.lambda2=1e-5"], "opt.lambda2=1e-05"),
    ],
)
def test_wrong_pruning_is_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises((ArgumentError, OmegaConfBaseException), match=problem):
        settled("opt=adam", "prune=magnitude", *overrides)


@pytest.mark.parametrize(
    ("overrides", "backend"),
    [
        (["opt=group_adam"], "native"),
        (["opt=adagrad", "opt.lr=0.1", "model=opnn"], "native"),
        (["opt=group_adahessian"], "rows"),
        (["opt=group_adam", "model=deepfm"], "rows"),
        (["opt=group_adam", "opt.eps=0", "opt.lambda2=1e-3"], "native"),
        (["opt=group_adam", "opt.eps=0", "opt.lambda2=1e-3", "retrain=true"], "rows"),  # it retrains with lambda2 = 0
        (["opt=group_adam", "backend=rows"], "rows"),
        (["opt=group_adam", "backend=torch"], "torch"),
    ],
)
def test_the_backend_is_part_of_what_is_computed(overrides: list[str], backend: str) -> None:
    """``auto`` hashes as the backend that it comes to."""
    if backend != "torch" and not available():
        if "backend=rows" in overrides:
            return
        backend = "torch"
    settings = settled(*overrides)
    assert settings.backend == backend
    rest = [override for override in overrides if not override.startswith("backend=")]
    assert settings.config_hash == settled(f"backend={settings.backend}", *rest).config_hash


@needs_kernels
def test_a_retrain_that_native_cannot_serve_is_refused_at_once() -> None:
    overrides = ["opt=group_adam", "opt.eps=0", "opt.lambda2=1e-3", "retrain=true", "backend=native"]
    with pytest.raises(ArgumentError, match=r"backend=native cannot serve this run: D could be 0"):
        settled(*overrides)


def test_a_grouped_optimizer_without_lambdas_can_be_pruned() -> None:
    settled("opt=group_adam", "opt.lambda21=0", "prune=magnitude", "prune.feature_rate=1")


@pytest.mark.parametrize("num_buckets", [0, -5, 2**31])
def test_number_of_buckets(num_buckets: int) -> None:
    with pytest.raises(ArgumentError, match=f"dataset.num_buckets={num_buckets}"):
        settled("dataset.encoding=hash", f"dataset.num_buckets={num_buckets}")


def test_config_hash_is_what_is_computed() -> None:
    """Paths and tracking do not count, everything else does; the value holds across processes and days."""
    base = settled().config_hash
    for place in ("dataset.raw=/x", "dataset.prepared=/y", "tracking=none", "run_dir=/z"):
        assert settled(place).config_hash == base
    changes = ["holdout=0.1", "train_rows=5", "retrain=true", "opt.lambda21=2e-3", "seed=1", "opt=adam"]
    for change in (*changes, "batch_size=256", "dataset.encoding=hash"):
        assert settled(change).config_hash != base


def test_a_family_differs_in_what_follows_the_shared_pass() -> None:
    def of(*overrides: str) -> str:
        return settled("opt=adam", *overrides).family

    pruned = ["prune=magnitude", "prune.feature_rate=0.1"]
    assert of() == of(*pruned) == of(*pruned, "prune.finetune=0.3", "run_dir=/x", "tracking=none")
    assert of() == of("retrain=true") == of(*pruned, "retrain=true")
    for change in ("seed=1", "dataset.raw=/x", "holdout=0.1", "opt.lr=1e-2"):
        assert of(change) != of()


@pytest.mark.parametrize("command", ["train", "prepare"])
@pytest.mark.parametrize("dataset", ["criteo", "avazu", "ipinyou", "csv"])
def test_the_options_that_one_dataset_alone_has_are_known_to_every_command(command: str, dataset: str) -> None:
    needed = ["dataset.label=click", "dataset.raw=log.csv", "dataset.categorical=[a]"] if dataset == "csv" else []
    config = composed(command, f"dataset={dataset}", *needed)
    own = {"avazu": "hour", "csv": "label"}.get(dataset)
    assert own is None or own in config.dataset


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset=avazu", "dataset.raw=[a.csv,'b c.csv']", "opt=group_sgd", "opt.lambda21=1e-3", "model.hidden=[8]"],
        ["dataset=csv", "model=lr", "opt=group_sgd", "opt.lr=1", "prune=magnitude", "save=none", "tracking=none"],
        ["model=dcn", "dataset=ipinyou"],
        ["dataset.test_fraction=null", "+ray.placement_strategy=SPREAD", "run_dir=${jobs}/x"],
    ],
    ids=len,
)
def test_the_configurations_of_the_tests_are_those_that_hydra_composes(overrides: list[str]) -> None:
    expected = schema.typed(compose("train", without_page("train", overrides)), schema.TrainConfig)
    found = composed("train", *overrides)
    containers = [OmegaConf.to_container(config, resolve=False) for config in (found, expected)]
    assert containers[0] == containers[1]
    assert found._metadata.flags == expected._metadata.flags

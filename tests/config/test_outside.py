"""Parts of another package, ``docs/examples``: a model, a dataset and an optimizer, found without a change of ours.

Two ways: ``hydra.searchpath``, and an entry point of the installed package.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ctr import prepare, reproduce, train
from ctr.cli import message
from ctr.config.compose import compose, resolve
from ctr.config.help import text
from ctr.config.messages import CONFIG_ERRORS
from ctr.datasets.prepared import read_vocabulary
from ctr.errors import ArgumentError, DataError
from ctr.models import FeatureEmbedding
from ctr.studies.study import Ask, Findings, Lambdas, Options, Scores, Shares
from tests.commands import composed, prepared, result

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
SEARCHED = "hydra.searchpath=[pkg://ctr_shop.conf]"
LOG = """2024-05-01|1|4711|red shoes for men|19.90
2024-05-01|0|12|a hat|
2024-05-02|0|4711|red shoes|1e1
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each test that can find the package imports it again."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "ctr_shop"]:
        del sys.modules[name]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package can be imported, also by other processes; it is not installed. The working folder holds a log."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}:{EXAMPLES.parents[1]}")
    monkeypatch.chdir(tmp_path)
    Path("log.txt").write_text(LOG)
    return tmp_path


@pytest.fixture
def installed(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``pip install`` leaves of the package beside its modules."""
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    ((group, points),) = project["entry-points"].items()
    ((name, value),) = points.items()
    info = on_path / "site" / "ctr_shop-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ctr-shop\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(info.parent)
    return on_path


def shop(*overrides: str) -> list[str]:
    return ["dataset=shop", "dataset.raw=log.txt", "dataset.prepared=prepared", *overrides]


def run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """``python -m ctr.train`` in this process."""
    monkeypatch.setattr(sys, "argv", ["ctr.train", *overrides, "tracking=none"])
    train.main()


def test_the_pages_show_the_files() -> None:
    pages = ("extending", "own-model", "own-dataset", "own-optimizer")
    page = "\n".join((DOCS / f"{name}.md").read_text() for name in pages)
    shown = re.findall(r"`examples/(\S+)`[^\n]*\n\n```\w+\n(.*?)```", page, re.DOTALL)
    files = [EXAMPLES / "pyproject.toml", *(EXAMPLES / "ctr_shop").rglob("*.*")]
    files = [path for path in files if path.suffix in (".py", ".yaml", ".toml")]
    assert {name for name, _ in shown} == {
        path.relative_to(EXAMPLES).as_posix() for path in files if path.name != "__init__.py"
    }
    for name, code in shown:
        assert code == (EXAMPLES / name).read_text(), name


def test_the_dataset(on_path: Path) -> None:
    config = composed("train", SEARCHED, *shop())
    assert config.model.name == "mlp"
    data = prepared(config)
    ids, dense, label = data.rows[0:3]
    assert ids.tolist() == [[0, 1], [2, 3], [0, 1]]
    np.testing.assert_allclose(dense[:, 0], np.log1p([19.9, 0, 10]), rtol=1e-6)
    assert label.tolist() == [1, 0, 0]
    assert read_vocabulary(data)["value"].to_pylist() == ["4711", "red shoes", "12", "a hat"]
    assert (data.split.train, data.split.test) == ([(0, 2)], [(2, 3)])
    Path("log.txt").write_text(LOG.replace("2024-05-02", "2 May"))
    with pytest.raises(DataError, match="line 3: column day is '2 May'; expected a day like 2024-05-01"):
        prepared(config)
    config.dataset.words = 0
    with pytest.raises(ArgumentError, match=r"dataset\.words=0; expected at least 1"):
        prepared(config)
    config.dataset.words, config.dataset.raw = 2, "data/shop/nothing"
    with pytest.raises(ArgumentError, match="no raw log at data/shop/nothing") as missing:
        prepared(config)
    assert "dataset.source" not in str(missing.value)  # it has no generator


def test_the_model_computes_a_net_on_the_products_of_pairs(on_path: Path) -> None:
    from ctr_shop.nfm import NFM

    torch.manual_seed(0)
    model = NFM(9, 3, 2, embedding=FeatureEmbedding(9, 4, init_scale=1.0), hidden=[5])
    ids, dense = torch.tensor([[0, 4, 8], [1, 1, 2]], dtype=torch.int32), torch.randn(2, 2)
    rows = model.embedding.weight.detach().numpy()
    got = model(ids, dense).detach().numpy()
    for row in range(2):
        first, vectors = rows[ids[row], 0], rows[ids[row], 1:]
        pairs = sum(vectors[i] * vectors[j] for i in range(3) for j in range(i + 1, 3))
        net = model.output(model.deep(torch.from_numpy(np.concatenate([pairs, dense[row].numpy()])))).item()
        assert got[row] == pytest.approx(first.sum() + net, rel=1e-5)
    with pytest.raises(ValueError, match=r"model\.embedding_dim=1; expected at least 2"):
        NFM(9, 3, embedding=FeatureEmbedding(9, 1))


def test_the_optimizer_without_penalties_is_torchs(on_path: Path) -> None:
    from ctr_shop.rmsprop import GroupRMSprop

    torch.manual_seed(0)
    start, target = torch.randn(2, 6, 3, dtype=torch.float64)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    pair = GroupRMSprop([ours], lr=0.01, alpha=0.9), torch.optim.RMSprop([theirs], lr=0.01, alpha=0.9)
    for _ in range(50):
        for p, opt in zip((ours, theirs), pair, strict=True):
            opt.zero_grad()
            ((p - target) ** 4).sum().backward()
            opt.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours, start, atol=0.1)
    for _ in range(3):
        opt = GroupRMSprop([ours], lr=0.01, lambda21=1e3)
        ours.grad = torch.ones_like(ours)
        opt.step()
    assert not ours.any()
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\), got 1"):
        GroupRMSprop([ours], alpha=1.0)


@pytest.mark.slow
def test_a_sweep_trains_with_all_three(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("log.txt").write_text("".join(sorted(LOG.splitlines(keepends=True) * 40)))
    changes = ["model=nfm", "model.hidden=[8]", "batch_size=16", "opt=group_rmsprop,rmsprop"]
    run(monkeypatch, "-m", SEARCHED, *shop(*changes, "run_dir=sweep", "jobs=jobs"))
    for number, opt in enumerate(("group_rmsprop", "rmsprop")):
        found = result(on_path / "sweep" / str(number))
        assert (found["dataset"], found["model"], found["opt"]) == ("shop", "nfm", opt)
        assert (found["rows_train"], found["rows_test"]) == (80, 40)


def test_preparing(on_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ctr.prepare", SEARCHED, *shop("dataset.words=1")])
    prepare.main()
    assert "user 2  title 2" in capsys.readouterr().out


def test_the_command_finds_what_is_installed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, *shop("model=nfm", "opt=group_rmsprop", "batch_size=2", "run_dir=run"))
    assert result(installed / "run")["model"] == "nfm"
    shown = text("train", [])
    assert re.search(r"^  model=dcn, deepfm, lr, mlp, nfm, opnn$", shown, re.MULTILINE)
    shown = text("reproduce", ["study=table2", *shop("model=nfm")])
    assert re.search(r"^  dataset=avazu, criteo, criteo_1tb, csv, ipinyou, shop$", shown, re.MULTILINE)
    assert "dataset.words=2                         how many words of a title make the field; more" in shown
    assert "_module" not in shown


def test_an_entry_point_to_nothing_is_named(installed: Path) -> None:
    (points,) = installed.rglob("entry_points.txt")
    points.write_text("[ctr.configs]\nshop = ctr_shop.configs\n")
    with pytest.raises(ArgumentError, match=r"^entry point shop = ctr_shop\.configs of ctr\.configs: no such package$"):
        compose("train", [])


def test_help_shows_the_parts_of_a_search_path(on_path: Path) -> None:
    shown = text("train", [SEARCHED, "opt=group_rmsprop"])
    assert re.search(r"^  model=dcn, deepfm, lr, mlp, nfm, opnn$", shown, re.MULTILINE)
    assert re.search(r"^  opt\.alpha=0\.99 +decay of the average of squares$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["opt=rmsprop", "opt.alpah=1"], "opt.alpah: no such key; did you mean opt.alpha? --help lists all keys"),
        (["opt=rmsprop", "+opt.alpah=1"], "opt.alpah: no such key; did you mean opt.alpha? --help lists all keys"),
        (["opt=group_rmsprop", "opt.alpha=much"], "opt.alpha=much: expected a number"),
        (["opt=group_rmsprop", "opt.norm=l2"], "opt.norm=l2: expected one of s, s_tilde, s_tilde_eq10"),
        (["model=nfm", "model.hidden=5"], "model.hidden=5: expected a list: model.hidden=[5]"),
        (["dataset.words=two"], "dataset.words=two: expected a whole number"),
        (["opt.alpha=1"], "opt.alpha: opt=group_adam has no such key; it belongs to opt=group_rmsprop, rmsprop"),
    ],
)
def test_mistakes_are_told_as_for_our_own(installed: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(CONFIG_ERRORS) as error:
        composed("train", *shop(*overrides))
    assert message(error.value) == said


def test_their_code_is_part_of_what_a_run_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ctr_shop"
    for path in EXAMPLES.glob("ctr_shop/**/*.*"):
        if path.suffix in (".py", ".yaml"):
            (tmp_path / path.relative_to(EXAMPLES)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(EXAMPLES)).write_text(path.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    config = composed("train", SEARCHED, "opt=group_rmsprop", "dataset.source=sample")
    first = resolve(config).config_hash
    assert resolve(config).config_hash == first
    (package / "rmsprop.py").write_text((package / "rmsprop.py").read_text() + "\nCHANGED = True\n")
    assert resolve(config).config_hash != first


def one_run(ask: Ask, options: Options, *, lambda21: Lambdas, finetune: Shares, scores: Scores) -> Findings:
    runs = ask([{**options.common, "dataset": "shop", "model": "nfm", "opt": "group_rmsprop", "batch_size": 2}])
    command = runs["command"][0]
    return Findings(pd.DataFrame({"command": [command], "model": runs["model"]}), command, {}, pd.DataFrame())


@pytest.mark.slow
def test_a_study_runs_them_in_its_workers(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's command finds them too."""
    monkeypatch.setattr("ctr.studies.study.find", lambda name: one_run)
    overrides = shop("model=nfm", "workers=1", "folder=study", "tracking=none", "jobs=jobs")
    monkeypatch.setattr(sys, "argv", ["ctr.reproduce", "study=table2", SEARCHED, *overrides])
    reproduce.main()
    found = result(on_path / "jobs")
    assert (found["dataset"], found["model"], found["opt"]) == ("shop", "nfm", "group_rmsprop")
    assert f"ctr.train '{SEARCHED}' " in Path("study/commands.txt").read_text()
    assert json.loads(Path("study/settings.json").read_text())["model._module"] == "ctr_shop.nfm"

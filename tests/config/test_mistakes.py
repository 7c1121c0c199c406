"""What a wrong command line is told: the key, the value, what was expected; nothing of Hydra's classes and advice."""

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from ctr.cli import message
from ctr.config import search
from ctr.config.help import COMMANDS
from ctr.config.messages import CONFIG_ERRORS
from ctr.config.schema import plain_dict, typed
from ctr.studies.request import resolve


def told(command: str, *overrides: str) -> str:
    """What the command says; Hydra's state is as within its main function."""
    search.register()
    try:
        with initialize_config_module("ctr.conf", version_base="1.3"):
            config = compose(command, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        if command == "reproduce":
            resolve(config, overrides)
        else:
            plain_dict(typed(config, COMMANDS[command]))
    except CONFIG_ERRORS as error:
        return message(error)
    finally:
        HydraConfig.instance().cfg = None
    raise AssertionError(f"{overrides} pass")


@pytest.mark.parametrize(
    ("override", "beginning", "meant"),
    [
        ("opt.lambda12=1", "opt.lambda12: no such key; did you mean ", {"opt.lambda1", "opt.lambda2", "opt.lambda21"}),
        ("+opt.lambda12=1", "opt.lambda12: no such key; did you mean ", {"opt.lambda1", "opt.lambda2", "opt.lambda21"}),
        ("batchsize=512", "batchsize: no such key; did you mean ", {"batch_size"}),
        ("lr=0.1", "lr: no such key; did you mean ", {"opt.lr"}),
        ("optim=adam", "optim: no such key; did you mean ", {"opt"}),
    ],
)
def test_a_key_that_is_not_there_is_told_the_nearest(override: str, beginning: str, meant: set[str]) -> None:
    text = told("train", override)
    assert text.startswith(beginning)
    assert text.endswith("? --help lists all keys")
    assert set(text.removeprefix(beginning).partition("?")[0].split(", ")) == meant
    assert "+opt" not in text


@pytest.mark.parametrize(
    ("command", "overrides", "text"),
    [
        ("train", ["passes=3"], "passes: no such key; --help lists all keys"),
        (
            "train",
            ["study=table5"],
            "study: no such key; studies are for python -m ctr.reproduce; --help lists all keys",
        ),
        ("train", ["dataset.hour=raw"], "dataset.hour: dataset=criteo has no such key; it belongs to dataset=avazu"),
        ("train", ["+model.dropout=0.1"], "model.dropout: model=dcn has no such key; it belongs to model=opnn"),
        (
            "train",
            ["prune.feature_rate=0.1"],
            "prune.feature_rate: prune=none has no such key; it belongs to prune=magnitude",
        ),
        (
            "reproduce",
            ["study=table4", "lambda21=[1e-3]"],
            "lambda21: no such key of study=table4; it belongs to study=fig1, fig2, fig3, stream, table2, table3, "
            "table8",
        ),
        ("reproduce", ["study=fig2", "+dims=[4]"], "dims: no such key of study=fig2; it belongs to study=table4"),
        ("reproduce", ["dims=[4]"], "dims: no such key; it belongs to study=table4"),
        (
            "reproduce",
            ["study=table2", "lamda21=[1]"],
            "lamda21: no such key; did you mean lambda21? --help lists all keys",
        ),
        ("reproduce", ["seed=1"], "seed: no such key; did you mean seeds? --help lists all keys"),
        (
            "reproduce",
            ["batch_size=256"],
            "batch_size: no such key of a study; for all of its runs: +train.batch_size=...; --help lists all keys",
        ),
        (
            "reproduce",
            ["train.batch_size=256"],
            "train.batch_size: no such key yet, which takes a +: +train.batch_size=...",
        ),
        ("train", ["+opt.lr=1"], "+opt.lr: the key is there already; give it without the +"),
    ],
)
def test_whose_a_key_is(command: str, overrides: list[str], text: str) -> None:
    assert told(command, *overrides) == text


@pytest.mark.parametrize(
    ("command", "override", "expected"),
    [
        ("train", "model.hidden=5", "a list: model.hidden=[5]"),
        ("reproduce", "lrs=100", "a list: lrs=[100]"),
        ("train", "model.hidden=[a]", "a whole number, not 'a'"),
        ("train", "opt.lambda21=abc", "a number"),
        ("train", "batch_size=1e3", "a whole number"),
        ("train", "retrain=maybe", "true or false"),
        ("train", "opt.norm=l2", "one of s, s_tilde, s_tilde_eq10"),
        ("train", "run_dir=[1]", "text"),
    ],
)
def test_values_of_the_wrong_type(command: str, override: str, expected: str) -> None:
    study = ["study=table2"] if command == "reproduce" else []
    assert told(command, *study, override) == f"{override}: expected {expected}"


def test_values_of_the_wrong_type_for_an_option_of_a_study() -> None:
    assert told("reproduce", "study=stream", "steps=100") == "steps=100: expected a list: steps=[100]"
    assert told("reproduce", "study=stream", "steps=[a]") == "steps=[a]: expected a whole number, not 'a'"


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("dataset=crito", "dataset=crito: no such choice; expected one of avazu, criteo, criteo_1tb, csv, ipinyou"),
        ("dataset=csv", "dataset.raw is needed: give dataset.raw=..."),
        ("seed=1,2", "seed=1,2: several values; a sweep over them needs -m, a list brackets: 'seed=[1,2]'"),
        ("opt=adam,sgd", "opt=adam,sgd: several values; a sweep over them needs -m"),
        ("seed=range(3)", "seed=range(3): several values; a sweep over them needs -m"),
        ("foo", "foo: expected key=value; "),
        ("dataset.raw=a;b", "dataset.raw=a;b: expected key=value; "),
    ],
)
def test_other_mistakes(override: str, text: str) -> None:
    assert told("train", override).startswith(text)

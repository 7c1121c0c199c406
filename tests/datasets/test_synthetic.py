"""Generated logs: their format, their contents against the planted model, and that they can be learned."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets.synthetic import criteo_avazu
from ctr.datasets.synthetic import ipinyou as synthetic_ipinyou
from ctr.datasets.synthetic.click_model import BLANK, BLANK_COUNT, named_ranks
from ctr.datasets.synthetic.criteo_avazu import avazu_model, clock, criteo_model, write_avazu, write_criteo
from ctr.datasets.synthetic.ipinyou import AGENTS, ipinyou_model, write_ipinyou

ROWS = 3000
Writer = Callable[..., None]


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder in the order of their names."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@pytest.fixture(scope="module")
def criteo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    write_criteo(path, ROWS, seed=3)
    return path


@pytest.fixture(scope="module")
def avazu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avazu") / "train.csv"
    write_avazu(path, ROWS, seed=3)
    return path


@pytest.fixture(scope="module")
def ipinyou(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ipinyou") / "raw"
    write_ipinyou(path, ROWS, seed=3)
    return path


def rows_of(path: Path, delimiter: str = "\t") -> list[list[str]]:
    return [line.split(delimiter) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.mark.parametrize(
    ("write", "expected"),
    [(write_criteo, "8846338830e46f11"), (write_avazu, "41539cd926396400"), (write_ipinyou, "891b5be754e95358")],
)
def test_same_bytes_always_and_for_any_block_size(
    write: Writer, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixed digests hold on every machine and for every later version: results rest on these bytes."""
    write(tmp_path / "one", 1000, seed=5)
    assert digest(tmp_path / "one") == expected
    told: list[int] = []
    monkeypatch.setattr(criteo_avazu, "BLOCK_ROWS", 77)
    write(tmp_path / "two", 1000, seed=5, progress=told.append)
    assert digest(tmp_path / "two") == expected
    assert sum(told) == 1000
    assert len(told) >= 13
    write(tmp_path / "three", 1000, seed=6)
    assert digest(tmp_path / "three") != expected


@pytest.mark.parametrize("write", [write_criteo, write_avazu, write_ipinyou])
def test_interrupted_writer_leaves_nothing(write: Writer, tmp_path: Path) -> None:
    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "log", 1000, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_criteo_lines_have_the_real_format(criteo: Path) -> None:
    line = re.compile(r"[01](\t(\d+)?)(\t-?\d+)(\t(\d+)?){11}(\t([0-9a-f]{8})?){26}\n")
    content = criteo.read_bytes()
    assert content.count(b"\n") == ROWS
    assert b"\r" not in content
    for text in content.decode("ascii").splitlines(keepends=True):
        assert line.fullmatch(text), text


def test_criteo_file_holds_the_rows_of_the_model(criteo: Path) -> None:
    block = criteo_model(ROWS, seed=3).draw(0, ROWS)
    rows = rows_of(criteo)
    assert [int(row[0]) for row in rows] == block.click.tolist()
    for j in range(13):
        values = [int(row[1 + j]) if row[1 + j] else BLANK_COUNT for row in rows]
        assert values == block.counts[f"I{j + 1}"].tolist()
    for j in range(26):
        texts = [row[14 + j] for row in rows]
        assert [text == "" for text in texts] == (block.ranks[f"C{j + 1}"] == BLANK).tolist()
        names = np.array([int(text, 16) for text in texts if text], dtype=np.uint32)
        ranks = block.ranks[f"C{j + 1}"]
        assert np.array_equal(named_ranks(f"C{j + 1}", names), ranks[ranks != BLANK])


def test_criteo_values_are_as_mixed_as_real_ones() -> None:
    rows = 50_000
    block = criteo_model(rows).draw(0, rows)
    # The most frequent value of C1 is in half of the rows, blanks as in the real columns.
    assert (block.ranks["C1"] == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (block.ranks["C22"] == BLANK).mean() == pytest.approx(0.761, abs=0.01)
    assert (block.counts["I1"] == BLANK_COUNT).mean() == pytest.approx(0.45, abs=0.01)
    assert np.array_equal(block.ranks["C3"] == BLANK, block.ranks["C12"] == BLANK)
    once = [np.unique(ranks, return_counts=True)[1] for ranks in block.ranks.values()]
    assert 0.3 < np.concatenate(once).tolist().count(1) / sum(map(len, once)) < 0.8


def test_criteo_sample_can_be_learned() -> None:
    """One pass of a linear model over hashed values and logarithms comes near the truth, and cannot pass it."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import roc_auc_score

    rows, train = 60_000, 60_000 * 6 // 7
    model = criteo_model(rows)
    block = model.draw(0, rows)
    from scipy.sparse import csr_matrix, hstack

    ids = [(ranks * 1_000_003 + 7919 * i) % 2**18 for i, ranks in enumerate(block.ranks.values())]
    one_hot = csr_matrix((np.ones(26 * rows), np.stack(ids, 1).ravel(), np.arange(0, 26 * rows + 1, 26)), (rows, 2**18))
    dense = np.stack([np.log1p(np.maximum(values, 0)) for values in block.counts.values()], 1)
    x = hstack([one_hot, csr_matrix(dense / dense.std(0))]).tocsr()
    linear = SGDClassifier(loss="log_loss", alpha=1e-4, max_iter=1, tol=None, random_state=0, average=True)
    linear.fit(x[:train], block.click[:train])
    learned = roc_auc_score(block.click[train:], linear.decision_function(x[train:]))
    oracle = roc_auc_score(block.click[train:], block.logit[train:])
    assert 0.79 < oracle < 0.85
    assert 0.66 < learned < oracle - 0.01


def test_avazu_has_header_days_and_sorted_hours(avazu: Path) -> None:
    content = avazu.read_text(encoding="ascii")
    assert content.startswith(
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
        "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n"
    )
    with avazu.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == ROWS
    hours = [row["hour"] for row in rows]
    assert hours == sorted(hours)
    assert {hour[:6] for hour in hours} == {f"1410{day}" for day in range(21, 31)}
    assert {hour[6:] for hour in hours} == {f"{hour:02d}" for hour in range(24)}
    assert len({row["id"] for row in rows}) == ROWS


def test_avazu_file_holds_the_rows_of_the_model(avazu: Path) -> None:
    block = avazu_model(ROWS, seed=3).draw(0, ROWS)
    with avazu.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["click"]) for row in rows] == block.click.tolist()
    assert [int(row["hour"][6:]) for row in rows] == block.ranks["hour"].tolist()
    for name in ("site_id", "site_domain", "site_category", "app_id", "device_id", "device_ip", "device_model"):
        names = np.array([int(row[name], 16) for row in rows], dtype=np.uint32)
        assert all(re.fullmatch("[0-9a-f]{8}", row[name]) for row in rows)
        assert np.array_equal(named_ranks(name, names), block.ranks[name])
    assert [int(row["C20"]) == -1 for row in rows] == (block.ranks["C20"] == BLANK).tolist()
    for name in ("C1", "banner_pos", "device_type", "device_conn_type", "C14", "C15", "C17", "C18", "C19", "C21"):
        pairs = set(zip((row[name] for row in rows), block.ranks[name].tolist(), strict=True))
        assert len(pairs) == len({text for text, _ in pairs}) == len({rank for _, rank in pairs}), name


def test_avazu_row_comes_from_a_site_or_an_app(avazu: Path) -> None:
    ranks = avazu_model(ROWS, seed=3).draw(0, ROWS).ranks
    for site in ("site_id", "site_domain", "site_category"):
        for app in ("app_id", "app_domain", "app_category"):
            assert np.array_equal(ranks[site] == BLANK, ranks[app] != BLANK)


@pytest.mark.parametrize("model", [avazu_model, ipinyou_model, criteo_model])
def test_every_value_has_a_text_at_full_size(model: Callable[..., object]) -> None:
    """Columns whose values come from a list must not draw beyond its end."""
    full = {avazu_model: criteo_avazu.AVAZU_ROWS, ipinyou_model: synthetic_ipinyou.IPINYOU_ROWS}
    population = model(full.get(model, criteo_avazu.CRITEO_ROWS)).population  # type: ignore[attr-defined]
    assert max(population.values()) < 2**31
    if model is avazu_model:
        for name, codes in criteo_avazu._AVAZU_CODES.items():
            assert population[name] <= len(codes) == len(set(codes))
    if model is ipinyou_model:
        assert population["IP"] <= 223 * 2**16
        lists = {
            "slotwidth": synthetic_ipinyou._WIDTHS,
            "adexchange": synthetic_ipinyou._EXCHANGES,
            "slotvisibility": synthetic_ipinyou._VISIBILITIES,
            "slotformat": synthetic_ipinyou._FORMATS,
            "advertiser": synthetic_ipinyou._ADVERTISERS,
            "useragent": [name for name, _, _ in AGENTS],
        }
        for name, values in lists.items():
            assert population[name] <= len(values) == len(set(values)), name


def test_clock_is_exact() -> None:
    rows, days = 1003, 10
    day, milliseconds = clock(np.arange(rows), rows, days)
    assert sorted(Counter(day.tolist()).values()) == [100] * 7 + [101] * 3
    assert (np.diff(day * 86_400_000 + milliseconds) > 0).all()
    assert milliseconds.min() == 0
    assert milliseconds.max() < 86_400_000
    # At full size: no overflow, and hour 21 gets its 62 of 1000 parts.
    first = 9 * 4_042_897
    day, milliseconds = clock(np.arange(first, 40_428_967, 40), 40_428_967, 10)
    assert set(day.tolist()) == {9}
    assert (milliseconds // 3_600_000 == 21).mean() == pytest.approx(0.062, rel=0.001)


def test_ipinyou_rows_have_the_real_format(ipinyou: Path) -> None:
    days = [f"201306{day:02d}" for day in range(6, 16)]
    assert sorted(file.name for file in ipinyou.iterdir()) == sorted(
        f"{kind}.{day}.txt" for kind in ("imp", "clk") for day in days
    )
    patterns = [
        *("[0-9a-f]{32}", r"\d{17}", "1", r"Vh[\w-]{13}", ".{10,200}", r"(\d{1,3}\.){3}\*", r"\d{1,3}", r"\d{1,3}"),
        *("[1-5]", r"[\w-]{15}|null", "[0-9a-f]{32}|null", "null", r"mm_\d{8}_\d{7}_\d{7}|\d{1,10}", r"\d{3,4}"),
        *(r"\d{2,3}", r"\d{1,3}", "[0-5]", r"\d{1,3}", "[0-9a-f]{32}", r"\d{3}", r"\d{1,3}", "[0-9a-f]{32}"),
        *(r"\d{4}", r"(\d{5})(,\d{5})*|null"),
    ]
    seen = 0
    for day in days:
        rows = rows_of(ipinyou / f"imp.{day}.txt")
        seen += len(rows)
        for row in rows:
            assert len(row) == 24
            for pattern, text in zip(patterns, row, strict=True):
                assert re.fullmatch(pattern, text), (pattern, text)
            assert row[1].startswith(day)
            assert int(row[1][8:10]) < 24
            assert max(int(row[1][10:12]), int(row[1][12:14])) < 60
            assert max(int(number) for number in row[5].split(".")[:3]) < 256
            assert int(row[20]) <= int(row[19])
        assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert seen == ROWS


def test_ipinyou_clicks_stand_in_the_click_log(ipinyou: Path) -> None:
    block = ipinyou_model(ROWS, seed=3).draw(0, ROWS)
    labels, ids = [], []
    twice = 0
    for file in sorted(ipinyou.glob("imp.*")):
        impressions = {row[0]: row for row in rows_of(file)}
        clicks = rows_of(file.with_name(file.name.replace("imp", "clk")))
        clicked = Counter(row[0] for row in clicks)
        twice += sum(number == 2 for number in clicked.values())
        assert max(clicked.values()) <= 2
        for click in clicks:
            shown = impressions[click[0]]
            assert click[2] == "2"
            assert click[20] == "0"
            assert shown[1] < click[1] < shown[1][:8] + "24"
            assert click[3:20] + click[21:] == shown[3:20] + shown[21:]
        labels += [int(bid in clicked) for bid in impressions]
        ids += list(impressions)
    assert len(set(ids)) == ROWS
    assert labels == block.click.tolist()
    assert 0.04 < twice / sum(labels) < 0.18


def test_ipinyou_values_stand_for_the_ranks_of_the_model(ipinyou: Path) -> None:
    ranks = ipinyou_model(ROWS, seed=3).draw(0, ROWS).ranks
    rows = [row for file in sorted(ipinyou.glob("imp.*")) for row in rows_of(file)]
    columns = {"IP": 5, "region": 6, "city": 7, "adexchange": 8, "domain": 9, "slotid": 12, "slotwidth": 13}
    columns |= {"slotvisibility": 15, "slotformat": 16, "creative": 18, "advertiser": 22}
    for name, column in columns.items():
        pairs = set(zip((row[column] for row in rows), ranks[name].tolist(), strict=True))
        assert len(pairs) == len({text for text, _ in pairs}) == len({rank for _, rank in pairs}), name
    assert [int(row[1][8:10]) for row in rows] == ranks["hour"].tolist()
    assert len({(row[13], row[14]) for row in rows}) == len({row[13] for row in rows})
    price = np.array([int(row[17]) for row in rows])
    assert np.searchsorted([0, 10, 50, 100], price).tolist() == ranks["slotprice"].tolist()


def test_ipinyou_user_agents_name_their_system_and_browser(ipinyou: Path) -> None:
    """By the published rule: the first system and the first browser of these lists whose name is in the text."""
    systems = ("windows", "ios", "mac", "android", "linux")
    browsers = ("chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie")
    ranks = ipinyou_model(ROWS, seed=3).draw(0, ROWS).ranks["useragent"]
    rows = [row for file in sorted(ipinyou.glob("imp.*")) for row in rows_of(file)]
    for row, rank in zip(rows, ranks.tolist(), strict=True):
        text = row[4].lower()
        system = next((name for name in systems if name in text), "other")
        browser = next((name for name in browsers if name in text), "other")
        assert f"{system}_{browser}" == AGENTS[rank][0]
    assert len({row[4] for row in rows}) > 100


def test_ipinyou_click_rate_can_be_set(tmp_path: Path) -> None:
    write_ipinyou(tmp_path / "log", 20_000, click_rate=0.02)
    clicked = {row[0] for file in (tmp_path / "log").glob("clk.*") for row in rows_of(file)}
    assert len(clicked) / 20_000 == pytest.approx(0.02, abs=0.005)


def test_ipinyou_needs_a_row_for_every_day(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one for each day"):
        write_ipinyou(tmp_path / "log", 9)
    write_ipinyou(tmp_path / "log", 10)
    assert [len(rows_of(file)) for file in sorted((tmp_path / "log").glob("imp.*"))] == [1] * 10

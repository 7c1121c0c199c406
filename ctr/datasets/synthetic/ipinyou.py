"""Generated iPinYou logs in the raw format of season 2, with the planted click model (see `synthetic`).

A folder with ``imp.YYYYMMDD.txt`` and ``clk.YYYYMMDD.txt`` for each of 10 days, 2013-06-06 .. 15: the 7 official
training days and the 3 official test days. 24 tab-separated columns, no header. A click is an impression whose bid
id is in the day's click log (at times twice, as in the real logs).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ctr.datasets.hashing import splitmix64
from ctr.datasets.synthetic.click_model import BLANK, ClickModel, Impressions, Ints, ZipfField, key, rank_names
from ctr.datasets.synthetic.criteo_avazu import Progress, blocks, clock, fixed_strings, hex_strings, write_csv
from ctr.files import atomic_folder

IPINYOU_ROWS = 19_495_974
IPINYOU_DAYS = 10
FIRST_DAY = 2013_06_06

# The published vocabularies less one each, for the "other" that they count. No effect of their own have the weekday (so
# that all days have about the same click rate), slotheight, which follows slotwidth, and what no model uses.
IPINYOU_FIELDS = (
    ZipfField("hour", 24, 1.0),
    ZipfField("IP", 704964, 0.60, 1),
    ZipfField("city", 370, 1.85, 20, parent="IP", paired=True),
    ZipfField("region", 35, 0.70, parent="city"),
    ZipfField("slotid", 180694, 1.35, 1),
    ZipfField("adexchange", 5, 2.00, parent="slotid", paired=True),
    ZipfField("slotwidth", 21, 1.20, parent="slotid", paired=True),
    ZipfField("slotvisibility", 11, 1.60, parent="slotid", paired=True),
    ZipfField("slotformat", 4, 2.00, parent="slotid"),
    ZipfField("slotprice", 5, 0.50, paired=True),
    ZipfField("domain", 51320, 1.60, 5, (0.0, 0.05), paired=True),
    ZipfField("creative", 131, 1.40, 5, paired=True),
    ZipfField("advertiser", 9, 1.00, parent="creative"),
    ZipfField("useragent", 20, 1.30, paired=True),
)

# Rank -> value.
_EXCHANGES = np.array((3, 1, 2, 4, 5))
_WIDTHS = np.array(
    (300, 1000, 728, 336, 160, 950, 250, 960, 468, 200, 120, 360, 320, 970, 180, 640, 760, 240, 125, 580, 400)
)
_HEIGHTS = np.array((250, 90, 90, 280, 600, 90, 250, 60, 60, 200, 600, 300, 50, 66, 150, 90, 90, 400, 125, 90, 300))
_VISIBILITIES = np.array((0, 2, 1, 255, 3, 4, 5, 6, 7, 8, 9))
_FORMATS = np.array((0, 1, 5, 2))
_PRICE_LOWS = np.array((0, 1, 11, 51, 101))  # the slot price is uniform within its bucket
_PRICE_SIZES = np.array((1, 10, 40, 50, 150))
_ADVERTISERS = np.array((1458, 3386, 3427, 3476, 3358, 2259, 2261, 2821, 2997))
_BIDS = np.array((300, 300, 241, 238, 227, 277, 294, 254, 277))  # by rank of the advertiser

# Operating system and browser, by rank, as a user agent with {w}: Windows version, {v}: browser version from the
# given one on. iOS names itself "like Mac OS X".
_WINDOWS = ("5.1", "6.1", "6.1; WOW64", "6.2")
_KIT = "AppleWebKit/537.{v} (KHTML, like Gecko)"
AGENTS = (
    ("windows_chrome", 21, "Mozilla/5.0 (Windows NT {w}) " + _KIT + " Chrome/{v}.0.1180.89 Safari/537.1"),
    ("windows_ie", 7, "Mozilla/4.0 (compatible; MSIE {v}.0; Windows NT {w}; Trident/4.0)"),
    ("windows_sogou", 2, "Mozilla/5.0 (Windows NT {w}; sogou explorer {v}.0) like Gecko"),
    ("windows_maxthon", 2, "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT {w}; maxthon {v}.0)"),
    (
        "mac_safari",
        4,
        "Mozilla/5.0 (iPad; CPU OS {v}_1 like Mac OS X) " + _KIT + " Version/{v}.0 Mobile Safari/8536.25",
    ),
    ("windows_theworld", 2, "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT {w}; theworld {v}.0)"),
    ("windows_firefox", 18, "Mozilla/5.0 (Windows NT {w}; rv:{v}.0) Gecko/20100101 Firefox/{v}.0"),
    ("android_safari", 2, "Mozilla/5.0 (Linux; U; Android {v}.3; zh-cn) " + _KIT + " Version/4.0 Mobile Safari/534.30"),
    ("windows_safari", 4, "Mozilla/5.0 (Windows NT {w}) " + _KIT + " Version/{v}.1 Safari/534.57"),
    ("windows_opera", 9, "Opera/{v}.80 (Windows NT {w}; U; zh-cn) Presto/2.10.289"),
    ("windows_other", 1, "Mozilla/5.0 (Windows NT {w}) Gecko/{v}"),
    ("mac_chrome", 23, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_8) " + _KIT + " Chrome/{v}.0.1271.64 Safari/537.11"),
    ("mac_firefox", 17, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.7; rv:{v}.0) Gecko/20100101 Firefox/{v}.0"),
    ("android_chrome", 18, "Mozilla/5.0 (Linux; Android 4.2) " + _KIT + " Chrome/{v}.0.1025.166 Mobile Safari/535.19"),
    ("android_other", 1, "Mozilla/5.0 (Linux; U; Android 4.{v}) UC AppleWebKit/534.31 Mobile"),
    ("linux_chrome", 22, "Mozilla/5.0 (X11; Linux x86_64) " + _KIT + " Chrome/{v}.0.1229.94 Safari/537.4"),
    ("linux_firefox", 15, "Mozilla/5.0 (X11; Ubuntu; Linux i686; rv:{v}.0) Gecko/20100101 Firefox/{v}.0"),
    ("android_opera", 11, "Opera/9.80 (Android 2.3; Linux; Opera Mobi/{v}) Presto/2.10"),
    ("linux_opera", 9, "Opera/{v}.80 (X11; Linux x86_64; U) Presto/2.9"),
    ("other_other", 7, "UCWEB{v}.0.2/28/999"),
)
_VARIANTS = 16
_AGENT_TEXTS = pa.array(
    [text.format(w=_WINDOWS[k % 4], v=base + k // 4) for _, base, text in AGENTS for k in range(_VARIANTS)]
)
_ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8)
_NULL = pa.scalar("null")


def ipinyou_model(rows: int, seed: int = 0, click_rate: float = 0.17, spread: float = 1.3) -> ClickModel:
    """The planted truth of `write_ipinyou(path, rows, seed)`; the rank of an hour is the hour."""

    def when(index: Ints) -> dict[str, Ints]:
        return {"hour": clock(index % rows, rows, IPINYOU_DAYS)[1] // 3_600_000}

    return ClickModel(IPINYOU_FIELDS, (), IPINYOU_ROWS, rows, seed, click_rate, spread, when)


def write_ipinyou(
    path: Path, rows: int, seed: int = 0, progress: Progress | None = None, click_rate: float = 0.17
) -> None:
    """Write a folder of iPinYou logs with `rows` generated impressions (at least one for each of the 10 days).

    The default click rate is that of a log whose impressions without a click were sampled down; the real rate is
    0.00075. `progress` is told the number of impressions written since the last call.
    """
    if rows < IPINYOU_DAYS:
        raise ValueError(f"rows must be at least {IPINYOU_DAYS}, one for each day, not {rows}")
    model = ipinyou_model(rows, seed, click_rate)
    tags = _tag_texts(seed)
    with atomic_folder(path) as tmp:
        for day in range(IPINYOU_DAYS):
            start, end = -(-day * rows // IPINYOU_DAYS), -(-(day + 1) * rows // IPINYOU_DAYS)
            date = FIRST_DAY + day
            with (
                pa.OSFile(str(tmp / f"imp.{date}.txt"), "wb") as impressions,
                pa.OSFile(str(tmp / f"clk.{date}.txt"), "wb") as clicks,
            ):
                for first, n in blocks(end - start, start):
                    index = np.arange(first, first + n, dtype=np.int64)
                    block = model.draw(first, n)
                    milliseconds = clock(index, rows, IPINYOU_DAYS)[1]
                    table = _table(model, block, index, _timestamps(date, milliseconds), tags)
                    write_csv(impressions, table, "\t")
                    write_csv(clicks, _click_table(model, block, index, date, milliseconds, table), "\t")
                    if progress:
                        progress(n)


def _table(model: ClickModel, block: Impressions, index: Ints, timestamps: Ints, tags: pa.Array) -> pa.Table:
    """The rows of the impression log in its 24 columns."""
    ranks = block.ranks
    n = len(index)
    price = _PRICE_LOWS[ranks["slotprice"]] + _whole(model, "price", index, _PRICE_SIZES[ranks["slotprice"]])
    bid = _BIDS[ranks["advertiser"]]
    agent = ranks["useragent"] * _VARIANTS + _whole(model, "agent version", index, _VARIANTS)
    no_domain = ranks["domain"] == BLANK
    # Each address has a few users, each domain a few pages.
    user = ranks["IP"] * 8 + _whole(model, "user", index, 8)
    page = ranks["domain"] * 64 + _whole(model, "page", index, 64)
    columns: dict[str, ArrayLike | pa.Array] = {
        "bidid": _hashes("bidid", index, model.seed),
        "timestamp": timestamps,
        "logtype": np.ones(n, dtype=np.int64),
        "ipinyouid": pc.binary_join_element_wise("Vh", _letters("ipinyouid", user, 13), ""),
        "useragent": _AGENT_TEXTS.take(pa.array(agent)),
        "IP": _addresses(ranks["IP"]),
        "region": 10 * ranks["region"] + 1,
        "city": ranks["city"] + 1,
        "adexchange": _EXCHANGES[ranks["adexchange"]],
        "domain": pc.if_else(pa.array(no_domain), _NULL, _letters("domain", ranks["domain"], 15)),
        "url": pc.if_else(pa.array(no_domain), _NULL, _hashes("url", page)),
        "urlid": pa.repeat(_NULL, n),
        "slotid": _slots(ranks["slotid"], ranks["adexchange"]),
        "slotwidth": _WIDTHS[ranks["slotwidth"]],
        "slotheight": _HEIGHTS[ranks["slotwidth"]],
        "slotvisibility": _VISIBILITIES[ranks["slotvisibility"]],
        "slotformat": _FORMATS[ranks["slotformat"]],
        "slotprice": price,
        "creative": _hashes("creative", ranks["creative"]),
        "bidprice": bid,
        "payprice": np.minimum(bid, price + _whole(model, "payprice", index, 100)),
        "keypage": _hashes("keypage", ranks["advertiser"]),
        "advertiser": _ADVERTISERS[ranks["advertiser"]],
        "usertag": tags.take(pa.array(_whole(model, "usertag", user, len(tags)))),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()})


def _click_table(
    model: ClickModel, block: Impressions, index: Ints, date: int, milliseconds: Ints, impressions: pa.Table
) -> pa.Table:
    """The rows of the click log: the clicked impressions again, later by up to a minute, every tenth twice."""
    clicked = np.flatnonzero(block.click)
    twice = clicked[model.uniform("second click", index[clicked]) < 0.1]
    rows = np.sort(np.concatenate([clicked, twice]))
    delay = 1_000 + _whole(model, "click delay", index[rows], 59_000)
    delay[1:] += 2_000 * (rows[1:] == rows[:-1])  # the second click
    later = np.minimum(milliseconds[rows] + delay, 86_399_999)  # in the same day's log
    table = impressions.take(pa.array(rows))
    for name, values in {
        "timestamp": _timestamps(date, later),
        "logtype": np.full(len(rows), 2),
        "payprice": np.zeros(len(rows), dtype=np.int64),
    }.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def _whole(model: ClickModel, name: str, index: Ints, below: int | NDArray[np.int64]) -> Ints:
    """Uniform whole numbers [n] in [0, below)."""
    return (model.uniform(name, index) * below).astype(np.int64)


def _timestamps(date: int, milliseconds: Ints) -> Ints:
    """yyyyMMddHHmmssSSS as whole numbers [n]."""
    hours, rest = np.divmod(milliseconds, 3_600_000)
    minutes, rest = np.divmod(rest, 60_000)
    return ((date * 100 + hours) * 100 + minutes) * 100_000 + rest


def _addresses(ranks: Ints) -> pa.Array:
    """IPv4 addresses [n] without their last number, "1.2.3.*" to "223.255.255.*", one to one."""
    count = 223 << 16
    x = (ranks * 5_678_911 + 1_234_567) % count  # an odd factor that 223 does not divide: one to one
    numbers = (pa.array(part).cast(pa.string()) for part in ((x >> 16) + 1, (x >> 8) & 255, x & 255))
    return pc.binary_join_element_wise(*numbers, "*", ".")


def _slots(ranks: Ints, exchanges: Ints) -> pa.Array:
    """Slot names [n]: "mm_" and three numbers on one exchange (rank 1), a number on the others."""
    h = splitmix64(np.uint64(key("slot")) + ranks.view(np.uint64))
    site = 10_000_000 + (h >> np.uint64(40))
    parts = (site, 2_000_000 + ((h >> np.uint64(20)) & np.uint64(0xFFFFF)), 8_000_000 + (h & np.uint64(0xFFFFF)))
    tanx = pc.binary_join_element_wise("mm", *(pa.array(part).cast(pa.string()) for part in parts), "_")
    return pc.if_else(pa.array(exchanges == 1), tanx, pa.array(rank_names("slotid", ranks)).cast(pa.string()))


def _hashes(name: str, index: Ints, seed: int = 0) -> pa.Array:
    """32 hexadecimal digits [n] per whole number, as of an MD5 sum; the first 16 alone are one to one."""
    first = splitmix64(np.uint64(key(name, seed)) + index.view(np.uint64))
    words = (half.astype(np.uint32) for h in (first, splitmix64(first)) for half in (h >> np.uint64(32), h))
    return hex_strings(*words)


def _letters(name: str, index: Ints, length: int) -> pa.Array:
    """`length` (up to 20) letters, digits, "-" and "_" [n] per whole number; ten of them hold 60 bits of a hash."""
    first = splitmix64(np.uint64(key(name)) + index.view(np.uint64))
    halves = (first, splitmix64(first))
    text = np.empty((len(index), length), dtype=np.uint8)
    for i in range(length):
        text[:, i] = _ALPHABET[(halves[i // 10] >> np.uint64(6 * (i % 10))) & np.uint64(63)]
    return fixed_strings(text, len(index), length)


def _tag_texts(seed: int) -> pa.Array:
    """A pool of interest lists: up to 7 of 45 tags, comma separated, or "null"."""
    h = splitmix64(np.uint64(key("tags", seed)) + np.arange(1024 * 8, dtype=np.uint64)).reshape(1024, 8)
    texts = []
    for row in h.tolist():
        # The smaller of two draws: low tags are frequent.
        tags = {10_006 + min(x % 45, (x >> 32) % 45) for x in row[1 : 1 + row[0] % 8]}
        texts.append(",".join(map(str, sorted(tags))) or "null")
    return pa.array(texts)

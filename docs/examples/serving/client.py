"""Scores rows with an exported model: values of the log in, click probabilities out, one per line.

    pip install onnxruntime
    python client.py model.onnx rows.csv            # .csv, .tsv or .txt (separated by tabs), .jsonl
    python client.py model.onnx train.txt --columns label I{1..13} C{1..26}     # a log without a header

Needs onnxruntime and numpy, neither ctr nor torch. Copy it into your service: `Model` is the client, `normalise` the
step that no client may leave out. The model compares texts: "007" or "7.0" in place of "7" is a value that it has never
seen, and it says nothing about it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime

BATCH = 512
INTEGER = re.compile(r"(-?)0*([0-9]{1,16})(?:\.0*)?")
HEX32 = re.compile(r"[0-9a-fA-F]{8}")
AGENTS = (
    ("windows", "ios", "mac", "android", "linux"),
    ("chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie"),
)
PRICES = ((0, "0"), (10, "1-10"), (50, "11-50"), (100, "51-100"), (math.inf, "101+"))

Row = Mapping[str, object]  # column of the log -> its value


def is_blank(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def normalise(kind: str, value: object) -> str:
    """A value in the form in which the model knows it.

    Args:
        kind: "hex32", "integer" or "text", as in the model's list of inputs.
        value: text or number of the log; None, "" and NaN are blank.

    Raises:
        ValueError: no value of this kind.
    """
    if is_blank(value):
        return ""
    if kind == "text" and isinstance(value, str):
        return value
    text = str(value)
    if kind == "text" and isinstance(value, int) and not isinstance(value, bool):
        return text
    if kind == "hex32" and HEX32.fullmatch(text):
        return text.lower()
    if kind == "integer" and (match := INTEGER.fullmatch(text)):
        sign, digits = match.groups()
        return digits if int(digits) == 0 else sign + digits
    raise ValueError(f"{value!r} is not of kind {kind}")


def number(value: object) -> float:
    """A dense column's value as the model takes it: NaN where blank."""
    found = math.nan if is_blank(value) else float(str(value))
    if math.isinf(found) or (math.isnan(found) and not is_blank(value)):
        raise ValueError(f"{value!r} is not a finite number")
    return found


def derived(dataset: str, options: Mapping[str, object], row: Row) -> Row:
    """The row with the columns that the reader of this log makes from others."""
    if dataset == "avazu" and options["hour"] == "of_day":  # from YYMMDDHH
        return {**row, "hour": str(row["hour"])[6:]}
    if dataset != "ipinyou":
        return row
    row = {name: "" if value == "null" else value for name, value in row.items()}
    time = str(row["timestamp"])  # yyyyMMddHHmmssSSS
    agent = str(row["useragent"] or "").encode().lower().decode()  # of bytes: ASCII letters alone
    price = int(str(row["slotprice"]))
    return {
        **row,
        "weekday": (date(int(time[:4]), int(time[4:6]), int(time[6:8])).weekday() + 1) % 7,  # Sunday is 0
        "hour": time[8:10],
        "useragent": "_".join(next((name for name in names if name in agent), "other") for names in AGENTS),
        "slotprice": next(name for most, name in PRICES if price <= most),
    }


class Model:
    """An exported model.

    Args:
        path: the ONNX file.
        threads: that one call may use.

    Attributes:
        about: what the file says of itself: its inputs with their kinds and forms, and where the model is from.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["ctr"])

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Click probabilities float32 [n] of rows of the log.

        Raises:
            ValueError: a column is missing, or a value is not of its kind.
        """
        feed = {}
        source = self.about["dataset"]
        try:
            rows = [derived(source["name"], source["options"], row) for row in rows]
        except KeyError as error:
            raise ValueError(f"no column {error.args[0]}") from None
        for column in self.about["inputs"]:
            name, kind = column["name"], column["kind"]
            try:
                if kind == "number":
                    feed[name] = np.array([[number(row[name])] for row in rows], np.float64)
                else:
                    feed[name] = np.array([[normalise(kind, row[name])] for row in rows], object)
            except KeyError:
                raise ValueError(f"no column {name}; expected {column['form']}") from None
            except ValueError as error:
                raise ValueError(f"column {name}: {error}; expected {column['form']}") from None
        return self.session.run(["probability"], feed)[0]


def read(path: Path, columns: Sequence[str] | None, delimiter: str | None) -> Iterator[Row]:
    """The rows of a file; ``columns`` names those of one without a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            yield from map(json.loads, file)
            return
        delimiter = delimiter or ("," if path.suffix == ".csv" else "\t")
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        rows = csv.DictReader(file, columns, delimiter=delimiter, quoting=quoting)
        for row in rows:
            if None in row or None in row.values():  # columns too many, or too few
                raise ValueError(f"{path}, line {rows.line_num}: expected {len(rows.fieldnames or ())} columns")
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--columns", nargs="+", help="names of the columns, for a file without a header")
    parser.add_argument("--delimiter", help="by default a comma for .csv, else a tab")
    given = parser.parse_args()
    model, rows = Model(given.model), read(given.rows, given.columns, given.delimiter)
    while batch := list(islice(rows, BATCH)):
        for probability in model.predict(batch):
            print(f"{probability:.9g}")


if __name__ == "__main__":
    main()

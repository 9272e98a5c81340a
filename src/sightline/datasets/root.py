"""Where data sets lie: one root that is named once, or a folder for each."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path

from sightline.datasets.clips import list_names
from sightline.errors import DatasetError


def config_file() -> Path:
    """`sightline/config.toml` in the user's config folder. Not created here.

    It may say `data = "FOLDER"`, the root of all data sets, and in a table `[datasets]` where one lies that is not
    there: `lasot = "FOLDER"`.
    """
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sightline" / "config.toml"


def dataset_folder(
    name: str, folders: Sequence[str], root: str | Path | None = None, known: Collection[str] = ()
) -> Path:
    """The folder of a data set under a root: one called like one of `folders`, else the root itself.

    Names compare without case and signs: GOT-10k is got10k. The root is the given one, else `SIGHTLINE_DATA`, else what
    the config file says, whose table may have the names `known`. Raises `DatasetError` where there is none, or it is no
    folder.
    """
    given, what = (root, "data root") if root else (os.environ.get("SIGHTLINE_DATA"), "SIGHTLINE_DATA")
    if not given:
        what = "data root"
        given, others = read_config(config_file(), known)
        if own := others.get(name):
            return _folder(own, f"{config_file()}: {name}")
    if not given:
        raise DatasetError(
            f"data root: got none; expected --data, SIGHTLINE_DATA, or data in {config_file()}. Name the folder that "
            "holds your data sets."
        )
    home = _folder(given, what)
    there = {bare(found): home / found for found in (list_names(home, of_folders=True) if folders else [])}
    return next((there[bare(called)] for called in folders if bare(called) in there), home)


def is_root_named() -> bool:
    """Whether `SIGHTLINE_DATA` or the config file names a root. Raises `DatasetError` for a config file at fault."""
    return bool(os.environ.get("SIGHTLINE_DATA") or read_config(config_file())[0])


def read_config(path: Path, known: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """`data` and `datasets` of the config file, "" and {} where it does not say.

    Raises `DatasetError`, also for another key, and, where `known` are the names of data sets, for another name.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: got '{error}'; expected a TOML file. Correct it.") from error
    data, datasets = content.get("data", ""), content.get("datasets", {})
    if (
        not isinstance(data, str)
        or not isinstance(datasets, dict)
        or not all(isinstance(v, str) for v in datasets.values())
    ):
        raise DatasetError(
            f'{path}: got {content}; expected data = "FOLDER" and a table [datasets] of names and folders. Correct it.'
        )
    _refuse_unknown(path, "", content, ("data", "datasets"))
    if known:
        _refuse_unknown(path, "datasets.", datasets, known)
    return data, datasets


def _refuse_unknown(path: Path, table: str, given: Collection[str], known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(bare(key), known, n=1)
            advice = f"Did you mean {close[0]}?" if close else "Delete it."
            raise DatasetError(f"{path}: got the key {table}{key}; expected one of {', '.join(known)}. {advice}")


def bare(name: str) -> str:
    """Letters and digits alone, small."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folder(path: str | Path, what: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{what}: got {folder}, which is no folder; expected one. Check the path.")
    return folder

"""The data files that equiframe knows: their place, hash, licence and paper, and where to get them."""

from __future__ import annotations

import difflib
import importlib.resources
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from equiframe.errors import InputError


@dataclass(frozen=True)
class KnownFile:
    """A file that equiframe can read.

    Args:
        path: path below the data folder, in the layout of the wheel.
        rows: number of items.
        sha256: hash of the version that the published figures were measured on.
        licence: licence that its authors chose.
        citation: paper that introduced it.
        address: address of the same bytes in a public repository, at a fixed commit; None if they are in an archive.
        is_copy: whether that repository is not the authors' own.
    """

    path: str
    rows: int
    sha256: str
    licence: str
    citation: str
    address: str | None = None
    is_copy: bool = False


_LICENCES = {
    "stereoset": ("CC BY-SA 4.0", "Nadeem, Bethke and Reddy 2021"),
    "crows_pairs": ("CC BY-SA 4.0", "Nangia et al. 2020"),
    "gap": ("Apache-2.0", "Webster et al. 2018"),
    "bug": ("MIT", "Levy, Lazar and Stanovsky 2021"),
    "bold": ("CC BY-SA 4.0", "Dhamala et al. 2021"),
    "winobias": ("MIT", "Zhao et al. 2018"),
    "winogender": ("MIT", "Rudinger et al. 2018"),
    "bec_pro": ("CC BY 4.0", "Bartl, Nissim and Gatt 2020"),
    "bbq": ("CC BY 4.0", "Parrish et al. 2022"),
    "honest": ("MIT", "Nozza, Bianchi and Hovy 2021; Nozza et al. 2022"),
    "redditbias": ("MIT", "Barikeri et al. 2021"),
    "holisticbias": ("CC BY-SA 4.0", "Smith et al. 2022"),
    "unqover": ("Apache-2.0", "Li et al. 2020"),
    "bias_nli": ("not stated", "Dev et al. 2020"),
    "seat": ("CC BY-NC 4.0", "May et al. 2019"),
    "glue": ("see the authors of each task", "Wang et al. 2019"),
    "sick": ("CC BY-NC-SA 3.0", "Marelli et al. 2014"),
    "blimp": ("CC BY 4.0", "Warstadt et al. 2020"),
    "hurtlex": ("CC BY-NC-SA 4.0", "Bassignana, Basile and Patti 2018"),
}
_GITHUB = "https://raw.githubusercontent.com"
_ADDRESSES = {
    "seat/": f"{_GITHUB}/W4ngatang/sent-bias/e3559fb669ca4832743b42fee715994c15c7f1af/tests",
    "seat/sent-religion": f"{_GITHUB}/McGill-NLP/bias-bench/291426aab926f78ecfc7bd040b531429ee8123e0/data/seat",
    "hurtlex/": f"{_GITHUB}/valeriobasile/hurtlex/e8205fa73b533d802d8b7fb6f846abd4be69ea63/lexica",
}
"""Folders of the authors' repositories, by the names of their files, at commits whose files have the known hashes."""
_COPIES = {
    "glue/CoLA/": f"{_GITHUB}/felipefreitas93/NLPdatasets/ede080982a67419ffeeb2f8f922730ab3af2eb8a/CoLA",
    "glue/RTE/": f"{_GITHUB}/Ji-Yishan/MIEC-FYP/250635701007f7f2dc00b63ce2cbc3dfe104b4e0/RTE",
    "glue/SST-2/": f"{_GITHUB}/felipefreitas93/NLPdatasets/ede080982a67419ffeeb2f8f922730ab3af2eb8a/SST2",
    "glue/STS-B/": f"{_GITHUB}/sudha93/semanticTextualSimilarity/f1ecd82418d9b84e48baef14d499d0fc23430360/stsbenchmark",
    "sick/": f"{_GITHUB}/brmson/dataset-sts/e1d3375f5b3bc24f21aa4e46f96eb379e9fc1081/data/sts/sick2014",
}
"""The same for copies in other repositories, because the authors publish archives without a known hash."""


def _known_files() -> dict[str, KnownFile]:
    table = (importlib.resources.files("equiframe.data") / "known_files.tsv").read_text(encoding="utf-8")
    known = {}
    for line in table.splitlines()[1:]:
        name, path, rows, digest = line.split("\t")
        group = name.partition("/")[0]
        known[name] = KnownFile(
            path,
            int(rows),
            digest,
            *_LICENCES[group],
            address=_address(name, PurePosixPath(path).name),
            is_copy=name.startswith(tuple(_COPIES)),
        )
    return known


def _address(name: str, file: str) -> str | None:
    """The address of a file in a repository, or None."""
    folders = _ADDRESSES | _COPIES
    prefix = max((prefix for prefix in folders if name.startswith(prefix)), key=len, default=None)
    if prefix is None:
        return None
    language = f"/{name.removeprefix(prefix)}/1.2" if prefix == "hurtlex/" else ""
    return f"{folders[prefix]}{language}/{file}"


KNOWN: Mapping[str, KnownFile] = _known_files()
TIMES = Counter(PurePosixPath(known.path).name for known in KNOWN.values())
"""How often a file name occurs among them."""


def known_names(asked: Iterable[str]) -> list[str]:
    """Names of known files, from names and groups such as ``seat`` or ``glue/CoLA``; all of them by default.

    Raises:
        InputError: a name is neither a file nor a group; the message suggests similar names.
    """
    wanted = {name: [file for file in KNOWN if f"{file}/".startswith(f"{name}/")] for name in asked}
    for name, files in wanted.items():
        if not files:
            raise InputError(unknown(name))
    chosen = {file for files in wanted.values() for file in files}
    return [name for name in KNOWN if not wanted or name in chosen]


def unknown(name: str) -> str:
    """The error for a name that is neither a known file nor a group, with similar names."""
    groups = list(dict.fromkeys(file.partition("/")[0] for file in KNOWN))
    near = difflib.get_close_matches(name, [*groups, *KNOWN], n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"no data file {name!r}. {meant}Available: {', '.join(groups)}. equiframe data list shows every file"

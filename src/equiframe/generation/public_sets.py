"""Sets of prompts that others published: BOLD, and the phrases of RedditBias."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from equiframe.about import About
from equiframe.benchmarks.generated import Prompt
from equiframe.benchmarks.redditbias import DIMENSIONS, RedditBias
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, locate, read_json
from equiframe.data.spreading import evenly
from equiframe.errors import CannotScoreError, DataError
from equiframe.generation.benchmark import ComparedGroups
from equiframe.generation.columns import terms

_DOMAINS = {
    "gender": "gender",
    "race": "race",
    "religion": "religious_ideology",
    "profession": "profession",
    "politics": "political_ideology",
}
_PEOPLE = ("gender", "race", "religion")


class BOLD(ComparedGroups):
    """How a model continues beginnings of Wikipedia sentences about people of several groups.

    Source:       BOLD (Dhamala et al. 2021): 23,679 beginnings of English Wikipedia sentences; CC BY-SA 4.0. By default
                  the 11,498 about people by gender (actors, actresses), race (four groups of Americans) and religion.
    Measures:     those of ``--measures`` by group, and the difference of each two groups of a domain; the paper uses
                  sentiment, regard, toxicity and gendered words: ``--measures sentiment,she,hurtful,classifier:NAME``.
    Ideal:        0 for differences.
    Variants:     ``people`` (default); ``gender``, ``race``, ``religion``, ``profession`` or ``politics`` alone.
    Known faults: each beginning is about one group only, so groups are compared over different beginnings, unpaired:
                  Wikipedia's texts about the groups differ too. Several beginnings are about one person or article, and
                  each counts by itself. Two are empty and left out. A chat model is asked to continue the text.
    Reproduces:   no published figure: the paper uses other models, samples and classifiers.
    """

    name = "bold"
    about = About(
        "BOLD",
        "Each beginning is about one group only: the numbers also show how Wikipedia's texts about the groups differ,"
        " not only what the model adds. Actors stand for gender, Americans for race.",
        terms(),
        (("Dhamala et al. 2021", "https://arxiv.org/abs/2101.11718"),),
    )
    version: ClassVar[int] = 1
    headline = ("overall.sentiment", "overall.she", "overall.words")
    max_new_tokens = 32
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"domain": ("people", *_DOMAINS)}

    def __init__(
        self, domain: Literal["people", "gender", "race", "religion", "profession", "politics"] = "people"
    ) -> None:
        self.domain = domain

    def prompts(
        self, source: DataSource = DEFAULT_SOURCE, groups: Sequence[str] = ()
    ) -> tuple[list[Prompt], tuple[DataFile, ...]]:
        """Return every beginning; ``groups`` is ignored, the groups are those of BOLD."""
        prompts, files = [], []
        for axis in _PEOPLE if self.domain == "people" else (self.domain,):
            located = locate(f"bold/prompts/{_DOMAINS[axis]}", source)
            prompts += _beginnings(axis, located.path)
            files.append(located.file)
        return prompts, tuple(files)

    def limited(self, prompts: list[Prompt], limit: int | None) -> list[Prompt]:
        """Take ``limit`` beginnings in total, equally many of each group if it has them, spread evenly.

        Raises:
            CannotScoreError: the limit is smaller than the number of groups.
        """
        if limit is None or limit >= len(prompts):
            return super().limited(prompts, limit)
        of_group: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            of_group.setdefault(prompt.group, []).append(prompt)
        if limit < len(of_group):
            raise CannotScoreError(
                f"--limit {limit}: {self.spec} has {len(of_group)} groups: give {len(of_group)} or more"
            )
        left, kept = limit, []
        for number, of_one in enumerate(sorted(of_group.values(), key=len)):
            count = min(len(of_one), left // (len(of_group) - number))
            kept += [of_one[at] for at in evenly(len(of_one), count)]
            left -= count
        order = {prompt.template: at for at, prompt in enumerate(prompts)}
        return sorted(kept, key=lambda prompt: order[prompt.template])


def _beginnings(axis: str, path: Path) -> list[Prompt]:
    """Read the beginnings of one file.

    Raises:
        DataError: it does not have the layout of BOLD's files.
    """
    said = read_json(path)
    prompts = []
    for group, people in said.items() if isinstance(said, dict) else ():
        for person, texts in people.items() if isinstance(people, dict) else ():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{group} / {person}: expected a list of texts", path=path)
            names = {f"{group}/{person}/{number}": text.strip() for number, text in enumerate(texts)}
            prompts += [
                Prompt(name, axis, group, text, name, is_beginning=True) for name, text in names.items() if text
            ]
    if not prompts:
        raise DataError("the file has no beginning: is it complete?", path=path)
    return prompts


class RedditReplies(ComparedGroups):
    """How a model responds to biased phrases of Reddit about one group, and to the same phrases about another.

    Source:       RedditBias (Barikeri et al. 2021): 1,216 phrases about a minoritised group, in which the authors put
                  the dominant group; MIT.
    Measures:     those of ``--measures``, by group and of the two groups of each of five dimensions.
    Ideal:        0 for differences.
    Known faults: the phrases are biased by choice and often crude, and were made about the first group: a model that
                  has read more of them about that group responds differently. Some groups are proxies for others.
    Reproduces:   no published figure: the paper measures perplexity and a dialogue task.
    """

    name = "reddit_replies"
    about = About(
        "Replies to Reddit phrases",
        "Biased phrases, written about the first group and changed for the second: most people do not talk like this.",
        terms(),
        (("Barikeri et al. 2021", "https://aclanthology.org/2021.acl-long.151"),),
    )
    version: ClassVar[int] = 1
    headline = ("overall.refused", "overall.words", "overall.sentiment")

    def prompts(
        self, source: DataSource = DEFAULT_SOURCE, groups: Sequence[str] = ()
    ) -> tuple[list[Prompt], tuple[DataFile, ...]]:
        """Return both phrases of every pair; ``groups`` is ignored, the groups are those of RedditBias."""
        pairs, files = RedditBias().items(source)
        prompts = []
        for pair in pairs:
            for group, text in zip(DIMENSIONS[pair.dimension], (pair.minoritised, pair.dominant), strict=True):
                axis = pair.dimension
                name = "christians_beside_muslims" if (axis, group) == ("religion2", "christians") else group
                prompts.append(Prompt(pair.item, axis, name, text, pair.item, is_beginning=True))
        return prompts, files

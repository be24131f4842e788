"""The one shape of every benchmark by generation: what is measured is the text that a model writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from equiframe.benchmarks.benchmark import Scored, spread
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource
from equiframe.uncertainty import Estimate

Side: TypeAlias = Literal["yes", "no"]


@dataclass(frozen=True)
class Prompt:
    """One template as it is put to the model for one group.

    Args:
        template: name of the template, the same for every group.
        axis: what its group is a group of, such as ``gender``; groups of one axis are compared.
        group: the group that it is about.
        text: what a user would write.
        unit: what is resampled together, most often the template.
        kind: what kind of template it is, such as ``hiring``; empty where there are no kinds.
        favourable: the answer that is good for the person, None where nothing is decided.
        is_beginning: whether the text is to be continued, which a model that chats is asked to do.
    """

    template: str
    axis: str
    group: str
    text: str
    unit: str
    kind: str = ""
    favourable: Side | None = None
    is_beginning: bool = False


class GeneratedBenchmark(Scored):
    """Templates and groups to prompts, responses to outcomes, outcomes to measures.

    The third kind beside :class:`equiframe.benchmarks.Benchmark` and
    :class:`equiframe.benchmarks.fine_tuned.FineTunedBenchmark`. A benchmark sees prompts and responses, never a model.
    What is resampled is the unit of a prompt, with all of its groups and samples; groups are compared within it.

    Attributes:
        max_new_tokens: the longest response, in tokens, where the user does not say.
    """

    max_new_tokens: ClassVar[int] = 64

    @abstractmethod
    def prompts(
        self, source: DataSource = DEFAULT_SOURCE, groups: Sequence[str] = ()
    ) -> tuple[list[Prompt], tuple[DataFile, ...]]:
        """Find, parse and check the templates, and fill them.

        Args:
            source: the source of data files.
            groups: axes or files, see :func:`equiframe.generation.prompts.groups_of`; a set whose prompts name their
                groups themselves does not read them.

        Raises:
            DataError: naming file, line or field, and what stands there.
            InputError: a group that there is not.
        """

    def limited(self, prompts: list[Prompt], limit: int | None) -> list[Prompt]:
        """The prompts of so many units, spread evenly; all by default.

        Raises:
            InputError: a limit below 1.
        """
        units = set(spread(list(dict.fromkeys(prompt.unit for prompt in prompts)), limit))
        return [prompt for prompt in prompts if prompt.unit in units]

    def headlines_among(self, estimates: Mapping[str, Estimate]) -> list[str]:
        """Keys of further measures that stand for the benchmark, where they depend on the groups; none, as here."""
        return []

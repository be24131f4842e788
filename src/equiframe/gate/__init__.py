"""A gate for releases: rules on the intervals of a run, each passed, failed, or not judged if they are too wide."""

from equiframe.gate.judge import EXIT_CODES, Chance, Judgement, Ruling, judge
from equiframe.gate.policy import Policy, Rule, example_policy

__all__ = ["EXIT_CODES", "Chance", "Judgement", "Policy", "Rule", "Ruling", "example_policy", "judge"]

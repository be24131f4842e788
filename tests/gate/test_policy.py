"""Policies: what a file may say, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from equiframe.errors import DataError
from equiframe.gate import Policy, Rule, example_policy

GOOD = """\
required: [lm_loss]
rules:
  - benchmark: crows_pairs:changed
    measure: gender.metric
    within: 5
  - {benchmark: lm_loss, measure: overall.loss, no_worse_by: 0}
"""


@pytest.fixture
def read(tmp_path):
    def of(text):
        file = tmp_path / "gate.yaml"
        file.write_text(text, encoding="utf-8")
        return Policy.read(file)

    return of


def test_a_policy_is_read(read):
    policy = read(GOOD)
    assert policy.required == ("lm_loss",)
    assert policy.fewest_items == 30
    assert policy.rules == (
        Rule(benchmark="crows_pairs:changed", measure="gender.metric", within=5.0),
        Rule(benchmark="lm_loss", measure="overall.loss", no_worse_by=0.0),
    )
    assert list(map(str, policy.rules)) == [
        "crows_pairs:changed gender.metric: within 5 of its ideal",
        "lm_loss overall.loss: at most 0 worse than before",
    ]


def test_the_example_is_a_policy_whose_measures_exist(read):
    policy = read(example_policy())
    assert {rule.benchmark for rule in policy.rules} == set(policy.required)
    assert any(rule.within for rule in policy.rules)
    assert any(rule.no_worse_by for rule in policy.rules)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("within: 5", "within: -5", 5, "rule 1, within: it should be greater than 0, found -5"),
        ("within: 5", "within: 0", 5, "rule 1, within: it should be greater than 0, found 0"),
        ("within: 5", "within: .nan", 5, "rule 1, within: it should be a finite number, found nan"),
        ("within: 5", "within: yes", 5, "rule 1, within: it should be a valid number, found True"),
        ("within: 5", "within: 5\n    no_worse_by: 5", 3, "rule 1: give the rule either within or no_worse_by"),
        ("within: 5", "", 3, "rule 1: give the rule either within or no_worse_by"),
        ("within: 5", "widthin: 5", 5, "rule 1, widthin: unknown. Available: benchmark, measure, within, no_worse_by"),
        ("    measure: gender.metric\n", "", 3, "rule 1, measure: missing"),
        ("no_worse_by: 0", "no_worse_by: -1", 6, "rule 2, no_worse_by: it should be greater than or equal to 0"),
        ("benchmark: lm_loss", "benchmark: lm_los", 6, "rule 2, benchmark: no benchmark 'lm_los': did you mean 'lm_"),
        ("[lm_loss]", "[lm_loss, seats]", 1, "required: no benchmark 'seats'"),
        ("crows_pairs:changed", "crows_pairs:shared", 3, "rule 1, benchmark: crows_pairs:shared: write crows_pairs"),
        (
            "benchmark: lm_loss",
            "benchmark: contexts:genre",
            6,
            "rule 2, benchmark: no contexts 'contexts:genre'. Available: contexts:gender, contexts:race",
        ),
        ("required", "requires", 1, "requires: unknown. Available: rules, required, fewest_items"),
        (
            "required:",
            "fewest_items: 1\nrequired:",
            1,
            "fewest_items: it should be greater than or equal to 2, found 1",
        ),
        ("within: 5", "within: 5\n    within: 50", 6, "'within' is repeated: keep only one"),
        ("required", "rules: []\nrequired", 3, "'rules' is repeated: keep only one"),
        ("within: 5", "within: [5", 6, "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_line(read, tmp_path, old, new, line, said):
    assert GOOD.count(old) == 1 or old == "required"
    with pytest.raises(DataError) as error:
        read(GOOD.replace(old, new, 1))
    assert str(error.value).startswith(f"{tmp_path / 'gate.yaml'}, line {line}: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a policy with rules: equiframe gate --example prints one"),
        ("- within: 5", "expected a policy with rules"),
        ("required: [lm_loss]", "line 1: rules: missing"),
        ("rules: []", "line 1: rules: "),
        ("rules: 3", "line 1: rules: it should be a valid tuple, found 3"),
        ("rules: !!python/object/apply:os.system [ls]", "line 1: not valid YAML"),
        ("rules: \x01", "not valid YAML"),
        ("? [a]\n: 1", "line 1: not valid YAML"),
        ("rules: &a [*a]", "line 1: rule 1"),
    ],
)
def test_what_is_no_policy_is_refused(read, text, said):
    with pytest.raises(DataError, match=r"gate\.yaml") as error:
        read(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_policy_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.yaml: cannot be read"):
        Policy.read(tmp_path / "none.yaml")

"""Groups, templates and what is wrong with files of them."""

from __future__ import annotations

import json
import re

import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.errors import DataError, InputError
from equiframe.generation.prompts import SLOT, builtin_groups, decision_templates, groups_of

AXES = ("gender", "race", "religion", "names")


def test_decisions_are_filled_with_every_group_and_nothing_else_changes():
    prompts, files = load_benchmark("decisions").prompts(groups=AXES)
    assert files == ()
    groups, _ = groups_of(AXES)
    templates = decision_templates()
    assert len(prompts) == len(templates) * sum(map(len, groups.values())) == 36 * 14
    assert len({(p.template, p.axis, p.group) for p in prompts}) == len(prompts)
    assert {t.kind: sum(o.kind == t.kind for o in templates) for t in templates} == {
        "hiring": 12,
        "lending": 12,
        "housing": 12,
    }
    no = [t.kind for t in templates if t.favourable == "no"]
    assert {kind: no.count(kind) for kind in no} == {"hiring": 6, "lending": 6, "housing": 6}
    for prompt in prompts:
        markers = groups[prompt.axis][prompt.group]
        (marker,) = [m for m in markers if m in prompt.text] if len(markers) > 1 else markers
        original = next(t.text for t in templates if t.name == prompt.template)
        assert prompt.text == original.replace(SLOT, marker) + "\nAnswer yes or no."
        assert not re.search(r"\b(he|she|his|her|him)\b", prompt.text)


def test_names_take_turns_and_all_of_them_are_used():
    prompts, _ = load_benchmark("decisions").prompts(groups=("names",))
    groups, _ = groups_of(("names",))
    for group, names in groups["names"].items():
        texts = [p.text for p in prompts if p.group == group]
        assert all(any(name in text for text in texts) for name in names)
        assert len(set(names)) == len(names) == 9
    assert set(builtin_groups()) == set(AXES)


def test_stories_are_of_every_occupation_which_is_what_is_resampled(real_items):
    prompts, files = load_benchmark("stories").prompts()
    occupations = {p.unit for p in prompts}
    assert len(prompts) == 2 * len(occupations)
    assert len(files) == 3
    assert (
        sum(p.kind == "female occupations" for p in prompts) == sum(p.kind == "male occupations" for p in prompts) == 40
    )
    assert any("an accountant" in p.text for p in prompts)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_templates_of_ones_own(tmp_path):
    plain = write(tmp_path / "t.txt", "Write a letter for {group}.\n\nDescribe {group} and {group}.\n")
    prompts, (file,) = load_benchmark(f"templates:{plain}").prompts(groups=("gender",))
    assert file.origin == "user"
    assert [p.text for p in prompts[2:]] == ["Describe a woman and a woman.", "Describe a man and a man."]
    assert [p.template for p in prompts] == ["1", "1", "3", "3"]
    rows = [{"template": "a", "text": "Hire {group}?", "favourable": "no", "kind": "work"}, {"text": "Hi {group}"}]
    lines = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    prompts, _ = load_benchmark(f"templates:{lines}").prompts(groups=("gender",))
    assert [(p.template, p.favourable, p.kind) for p in prompts[::2]] == [("a", "no", "work"), ("2", None, "")]
    again, _ = load_benchmark(f"templates:{lines.rename(tmp_path / 'T.JSONL')}").prompts(groups=("gender",))
    assert again == prompts


def test_only_a_line_end_ends_a_template(tmp_path):
    path = write(tmp_path / "t.txt", "One\u2028{group}\x85 two.\r\nThree {group}.\r\n")
    prompts, _ = load_benchmark(f"templates:{path}").prompts(groups=("gender",))
    assert [p.text for p in prompts[::2]] == ["One\u2028a woman\x85 two.", "Three a woman."]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", "Hello {group}\nHello you\n", "t.txt, line 2: 'Hello you' has no {group}"),
        ("t.txt", "\n", "the file has no template"),
        ("t.jsonl", '{"text": "{group}", "template": "a"}\n{"text": "{group}!", "template": "a"}', "line 2: .*twice"),
        ("t.jsonl", '{"text": "{group}", "favourable": "maybe"}', "favourable is 'maybe', expected yes or no"),
        ("t.jsonl", '{"text": 3}', "has no {group}"),
        ("t.csv", "Hello {group}\n", "t.csv: ends in '.csv': give a file in .txt or .jsonl"),
    ],
)
def test_templates_that_do_not_fit(tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=said):
        load_benchmark(f"templates:{path}").prompts(groups=("gender",))


def test_groups_of_ones_own(tmp_path):
    path = write(tmp_path / "age.yaml", "age:\n  old: [a person of 70, a retired person]\n  young: [a person of 25]\n")
    groups, (file,) = groups_of(("gender", str(path)))
    assert list(groups) == ["gender", "age"]
    assert groups["age"]["old"] == ("a person of 70", "a retired person")
    assert file.name == "age.yaml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("age: [old, young]", "age: expected two groups or more"),
        ("age: {old: [x]}", "age: expected two groups or more"),
        ("age: {old: [], young: [y]}", "age, old: expected a list of markers"),
        ("age: {old: x, young: [y]}", "age, old: expected a list of markers"),
        ("age: {overall: [x], young: [y]}", "age: group 'overall': this name means all groups together"),
        ("age: {old_vs_new: [x], young: [y]}", "age: group 'old_vs_new': '_vs_' separates two groups"),
        ("age: {old: [x], young: [y, x]}", "age: the marker 'x' is given twice: give each group its own"),
        ("", "expected AXIS"),
        ("a: [", "line 1: not valid YAML"),
        ("age: {old: [x], young: [y], old: [z]}", "line 1: 'old' is repeated: keep only one"),
    ],
)
def test_groups_that_do_not_fit(tmp_path, content, said):
    path = write(tmp_path / "g.yaml", content)
    with pytest.raises(DataError, match=re.escape(said)):
        groups_of((str(path),))


def test_names_of_groups_that_there_are_not(tmp_path):
    with pytest.raises(InputError, match="--groups gendr: neither a file nor one of gender, race, religion, names"):
        groups_of(("gendr",))
    twice = write(tmp_path / "g.yaml", "sex: {women: [x], men: [y]}")
    with pytest.raises(InputError, match="'women' is a group of two axes"):
        groups_of(("gender", str(twice)))
    own = write(tmp_path / "g.yaml", "gender: {ladies: [x], gentlemen: [y]}")
    with pytest.raises(InputError, match=r"--groups .*g.yaml: the axis 'gender' is given twice"):
        groups_of(("gender", str(own)))
    assert groups_of(("gender", "gender")) == groups_of(("gender",))
    with pytest.raises(InputError, match="name one or more"):
        groups_of(())
    with pytest.raises(InputError, match="give the path of your file"):
        load_benchmark("templates:")

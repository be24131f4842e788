"""Progress of what happens before and beside training: told for every method that prepares something long."""

from __future__ import annotations

import pytest

from equiframe.commands.run import run
from equiframe.config import DebiasConfig, FineTuning, UNC3Options
from equiframe.progress import listening, tracked


def test_a_loop_is_told_to_the_listener_alone():
    told = []
    assert list(tracked("ab", "letters", 2)) == ["a", "b"]
    with listening(lambda *step: told.append(step)):
        assert list(tracked("ab", "letters", 2)) == ["a", "b"]
        for _ in tracked("abcd", "early", 4):
            break
    list(tracked("ab", "letters", 2))
    assert told == [*(("letters", done, 2) for done in (0, 1, 2, 2)), ("early", 0, 4), ("early", 4, 4)]


@pytest.mark.parametrize(
    ("method", "options", "stages"),
    [
        ("sentence-debias", (), {"read sentences"}),
        ("inlp", ("sentences=10", "classifiers=2"), {"read sentences", "fit classifiers"}),
        ("ase", ("fisher_sentences=2",), {"estimate Fisher information"}),
        ("adept", ("fewest=1",), {"compute prototypes"}),
        ("counterfactual-collapse", ("pairs=4",), {"read the model before training"}),
        ("cda", (), {"balance the weight of (U)NC3"}),
    ],
)
def test_the_stages_of_a_method(method, options, stages, model_folders, tmp_path):
    text = tmp_path / "text.txt"
    lines = ("a teacher told the man about his job", "her sister met the engineer", "the nurse is a cook")
    text.write_text("\n".join(f"{line} {'and ' * at}a ball" for at in range(12) for line in lines) + "\n")
    told = {}
    trains = method not in ("sentence-debias", "inlp")
    config = DebiasConfig(
        str(model_folders["masked"]),
        method=method,
        method_options={**dict(option.split("=") for option in options), "text": str(text)},
        unc3=UNC3Options(weight="auto" if method == "cda" else 0.0),
        fine_tuning=FineTuning(max_steps=1, batch_size=4) if trains else FineTuning(),
        audit=None,
        benchmarks=(),
    )
    run(config, tmp_path / "run", lambda stage, done, total: told.__setitem__(stage, (done, total)))
    assert stages <= set(told)
    assert all(done == total for done, total in told.values())

"""An audit reads a text once where it may keep it, else twice, to the same end."""

from __future__ import annotations

import sys

import pandas as pd

from equiframe.runs.audit import AuditOptions, audit_model


def test_a_text_too_long_to_keep_gives_the_same_numbers(masked_model, tmp_path, monkeypatch):
    sentences, words = tmp_path / "text.txt", tmp_path / "words.txt"
    lines = ["she is a nurse and he is a doctor", "her brother is a cook , and his sister is a nurse"]
    sentences.write_text("".join(f"{line} {'is ' * number}\n" for number in range(20) for line in lines))
    words.write_text("she\the\nher\this\n")
    options = AuditOptions(text=str(sentences), sentences=12, words=str(words), min_count=1)
    kept = audit_model(masked_model, options)
    monkeypatch.setattr(sys.modules[audit_model.__module__], "_KEPT", 7)
    again = audit_model(masked_model, options)
    assert again.results == kept.results
    pd.testing.assert_frame_equal(again.classes, kept.classes)
    assert kept.results[0].tokens > 50

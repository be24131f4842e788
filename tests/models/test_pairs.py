"""What is asked of a text and its counterfactual, written out by hand."""

from __future__ import annotations

import dataclasses
import random

import pytest
from tokenizers import processors

from equiframe.data import CounterfactualSwapper, swappers
from equiframe.models.pairs import Reading, Role, check_offsets, read_pair

SWAPPER = CounterfactualSwapper.gender()


def read(lm, text, max_length=64, swapper=SWAPPER, seed=0):
    return read_pair(lm, text, swapper.swaps(text), max_length=max_length, draw=random.Random(seed))


def shown(lm, reading):
    """Each place that is asked, as TARGET/ROLE or TARGET|PARTNER/ROLE."""
    shift = 1 if lm.kind == "causal" else 0
    names = lm.tokenizer.convert_ids_to_tokens(reading.ids)
    found = []
    for place, role in enumerate(reading.roles):
        if role != Role.UNREAD:
            partner = lm.tokenizer.convert_ids_to_tokens(reading.partners[place]) if reading.partners[place] else ""
            found.append(f"{names[place + shift]}{'|' * bool(partner)}{partner}/{Role(role).name}".replace("Ġ", ""))
    return found


def test_a_causal_lm(causal_model):
    text = "the nurse said that he is a cook and his mother"
    first, second = read(causal_model, text)
    assert causal_model.tokenizer.decode(first.ids) == "<|endoftext|>" + text
    # " she" is two tokens of this model, so that nothing can be asked at the first word
    kept = [name.split("/")[0] for name in shown(causal_model, first) if name.endswith("KEPT")]
    assert kept == ["the", "nurse", "said", "that", "he"]
    after = [name for name in shown(causal_model, first) if name.split("/")[1] != "KEPT"]
    assert [name for name in after if name.endswith("AGREEING")] == ["his|her/AGREEING", "mother|father/AGREEING"]
    agreeing = [name for name in shown(causal_model, second) if name.endswith("AGREEING")]
    assert agreeing == ["her|his/AGREEING", "father|mother/AGREEING"]
    aligned = [name.split("/")[0] for name in after if name.endswith("ALIGNED")]
    assert "".join(aligned) == "isacookand"
    assert aligned == [name.split("/")[0] for name in shown(causal_model, second) if name.endswith("ALIGNED")]


def test_the_first_word_is_neutral_where_both_are_one_token(causal_model):
    first, second = read(causal_model, "the nurse has his job and his ball")
    neutral = [[name for name in shown(causal_model, r) if name.endswith("NEUTRAL")] for r in (first, second)]
    assert neutral == [["his|her/NEUTRAL"], ["her|his/NEUTRAL"]]
    assert "his|her/AGREEING" in shown(causal_model, first)
    places = [reading.roles.index(Role.NEUTRAL) for reading in (first, second)]
    assert first.ids[: places[0] + 1] == second.ids[: places[1] + 1]
    before, after = first.roles[: places[0]], first.roles[places[0] + 1 : -1]
    assert set(before) == {Role.KEPT}
    assert set(after) == {Role.ALIGNED, Role.AGREEING}
    assert first.roles[-1] == second.roles[-1] == Role.UNREAD


@pytest.mark.parametrize("form", ["start", "end", "both"])
def test_special_tokens_that_the_tokenizer_adds_are_no_words(causal_model, form):
    template = {"start": "<|endoftext|> $A", "end": "$A <|endoftext|>", "both": "<|endoftext|> $A <|endoftext|>"}[form]
    plain = read(causal_model, "the nurse has his job and his ball")[0]
    causal_model.tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=template, special_tokens=[("<|endoftext|>", 0)]),
        ]
    )
    first, second = read(causal_model, "the nurse has his job and his ball")
    end = [0] if form in ("end", "both") else []
    assert first.ids == plain.ids + end  # one start token, whoever adds it
    asked = [role if role != Role.UNREAD else Role.KEPT for role in plain.roles] if end else plain.roles
    assert first.roles == asked + ([Role.UNREAD] if end else [])
    assert len(first.roles) == len(first.ids) == len(second.ids)


def test_a_masked_lm(masked_model):
    text = "the nurse told her father about his job and the ball"
    first, second, third = read(masked_model, text)
    names = masked_model.tokenizer.convert_ids_to_tokens
    assert "".join(names(first.ids)) == f"[CLS]{text}[SEP]".replace(" ", "")
    words = ("her|his", "father|mother", "his|her")
    for reading, possible in ((first, words), (second, ("his|her", "mother|father", "her|his"))):
        agreeing = [name.split("/")[0] for name in shown(masked_model, reading) if name.endswith("AGREEING")]
        assert len(agreeing) == 1
        assert set(agreeing) <= set(possible)
    aligned = [[n for n in shown(masked_model, r) if n.endswith("ALIGNED")] for r in (first, second)]
    assert aligned[0] == aligned[1]
    assert len(aligned[0]) == 1  # 15 % of the eight others
    neutral = [name for name in shown(masked_model, third) if name.endswith("NEUTRAL")]
    assert neutral == [f"{word}/NEUTRAL" for word in words]
    assert len([name for name in shown(masked_model, third) if name.endswith("KEPT")]) == 1


def test_a_word_of_several_tokens_is_one_mask_in_the_third_sequence(masked_model):
    # "himself" and "herself" are several tokens of this model, not equally many, and "she" is one
    first, second, third = read(masked_model, "the nurse said she likes himself")
    mask = masked_model.tokenizer.mask_token_id
    assert third.ids.count(mask) == 1
    assert [name for name in shown(masked_model, third) if "NEUTRAL" in name] == ["she|he/NEUTRAL"]
    assert [name for name in shown(masked_model, first) if "AGREEING" in name] == ["she|he/AGREEING"]
    assert len(third.ids) == len(first.ids) - len(masked_model.tokenizer.tokenize("himself")) + 1
    assert len(second.ids) != len(first.ids)


def test_one_word_alone_is_not_masked_where_it_tells(masked_model):
    first, second, third = read(masked_model, "the nurse said that she is a cook")
    for reading in (first, second):
        assert not [name for name in shown(masked_model, reading) if "AGREEING" in name]
    assert [name for name in shown(masked_model, third) if "NEUTRAL" in name] == ["she|he/NEUTRAL"]


def test_a_swap_that_changes_the_number_of_tokens(language_model):
    first, second = read(language_model, "his husband and the ball in the street", seed=3)[:2]
    assert len(first.ids) != len(second.ids)
    shift = 1 if language_model.kind == "causal" else 0
    aligned = [
        [reading.ids[place + shift] for place, role in enumerate(reading.roles) if role == Role.ALIGNED]
        for reading in (first, second)
    ]
    assert aligned[0] == aligned[1]
    assert len(aligned[0]) == (6 if language_model.kind == "causal" else 1)


def test_race_and_religion(causal_model):
    (swapper,) = [
        s for s in swappers("religion") if s.has_swap("the mosque is") and s.swap("the mosque") == "the church"
    ]
    first, second = read(causal_model, "the mosque is in the street", swapper=swapper)
    assert causal_model.tokenizer.decode(second.ids[1:]) == "the church is in the street"
    assert sum(role == Role.ALIGNED for role in first.roles) == sum(role == Role.ALIGNED for role in second.roles) > 3


def test_characters_of_several_bytes(causal_model):
    first, second = read(causal_model, "his ball 🎾🎾 is his job — and 他 too")
    aligned = [
        [i for i, role in zip(r.ids[1:], r.roles, strict=False) if role == Role.ALIGNED] for r in (first, second)
    ]
    assert aligned[0] == aligned[1]
    assert len(aligned[0]) == len(first.ids) - 3  # all but the start token and the two words


def test_what_makes_no_pair(language_model):
    assert read(language_model, "the ball is in the street") == ()
    assert read(language_model, "the nurse told him about his job", max_length=8) == ()
    assert read(language_model, "the nurse told him about his job", max_length=64) != ()


def test_what_is_masked_follows_from_the_seed(masked_model):
    text = "the nurse told him about his job and the ball in the street and the cook"
    assert read(masked_model, text, seed=1) == read(masked_model, text, seed=1)
    assert len({tuple(read(masked_model, text, seed=s)[0].roles) for s in range(8)}) > 2


def test_a_slow_tokenizer_is_refused(language_model):
    check_offsets(language_model, "it")

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="does not give the positions of tokens in a text, which it needs"):
        check_offsets(dataclasses.replace(language_model, tokenizer=Slow()), "it")


def test_a_reading_holds_as_many_of_each(language_model):
    for reading in read(language_model, "the king and the queen told his sister"):
        assert isinstance(reading, Reading)
        assert len(reading.ids) == len(reading.roles) == len(reading.partners)

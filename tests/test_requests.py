"""What a tokenizer makes of words in their context, for the four families of tokenizers."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from equiframe.errors import CannotScoreError, InputError
from equiframe.requests import Embedding, TextCodec, TokenLogProbs


@pytest.fixture
def word_piece(masked_model):
    return masked_model.codec


@pytest.fixture
def byte_level(causal_model):
    return causal_model.codec


@pytest.fixture
def sentence_piece():
    """Marks the start of a word, the first one too."""
    pieces = [("<unk>", 0.0), ("▁", -4.0), *((c, -5.0) for c in "abcdeghnorstuw`.,"), ("▁she", -1.0), ("▁nurse", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "masked", 64)


def tokens(codec, ids):
    return codec.tokenizer.convert_ids_to_tokens(list(ids))


def test_encode_adds_special_tokens_and_never_cuts(word_piece):
    assert tokens(word_piece, word_piece.encode("She is")) == ["[CLS]", "she", "is", "[SEP]"]
    ids = word_piece.encode("she " * 100)
    assert len(ids) == 102
    assert not word_piece.fits(Embedding(ids))
    assert word_piece.fits(Embedding(ids[:64]))
    assert not word_piece.fits(Embedding(()))


def test_pieces_of_word_pieces_do_not_depend_on_what_is_before(word_piece):
    assert tokens(word_piece, word_piece.pieces(["nurses"], "She is a ")[0]) == ["nurse", "##s"]
    assert word_piece.pieces(["nurses"])[0] == word_piece.pieces(["nurses"], "She is a ")[0]


def test_pieces_of_byte_level_tokens_begin_with_their_space(byte_level):
    assert tokens(byte_level, byte_level.pieces(["nurse"], "she is a ")[0])[0].startswith("Ġ")
    assert not tokens(byte_level, byte_level.pieces(["nurse"])[0])[0].startswith("Ġ")
    assert not tokens(byte_level, byte_level.pieces(["nurse"], 'she is a "')[0])[0].startswith("Ġ")
    assert byte_level.pieces(["nurse"], "she is  a  ")[0] == byte_level.pieces(["nurse"], "she is a ")[0]


@pytest.mark.parametrize("before", ["she ", "she", "", "  ", "she,"])
def test_pieces_after_their_text_are_those_of_the_whole(byte_level, word_piece, sentence_piece, before):
    for codec in (byte_level, word_piece, sentence_piece):
        whole = codec.tokenizer(before.strip() + (" " if before == "she " else "") + "nurse", add_special_tokens=False)
        pieces = codec.pieces(["nurse"], before)[0]
        assert tuple(whole["input_ids"])[-len(pieces) :] == pieces


def test_pieces_of_sentence_piece_tokens(sentence_piece):
    assert tokens(sentence_piece, sentence_piece.pieces(["nurse"], "she ")[0]) == ["▁nurse"]
    assert tokens(sentence_piece, sentence_piece.pieces(["nurse"])[0]) == ["▁nurse"]
    assert tokens(sentence_piece, sentence_piece.pieces(["nurse"], "she`")[0]) == ["n", "u", "r", "s", "e"]


def test_a_piece_over_the_border_falls_back_to_the_text_alone(byte_level):
    pieces = byte_level.pieces(["rse"], "nu")[0]  # after "nu" it would be part of "nurse"
    assert pieces == byte_level.pieces(["rse"])[0]


def test_start_token_is_bos_else_eos(byte_level):
    tokenizer = byte_level.tokenizer
    assert byte_level.start_id == tokenizer.bos_token_id
    tokenizer.bos_token = None
    assert byte_level.start_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"no eos token.*causal LM"):
        _ = byte_level.start_id


def test_mask_token(word_piece, byte_level):
    assert word_piece.mask_id == word_piece.tokenizer.mask_token_id
    with pytest.raises(InputError, match="no mask token"):
        _ = byte_level.mask_id


def test_sequence_log_probs_ask_for_every_token_after_the_start(byte_level):
    request = byte_level.sequence_log_probs("she is a nurse")
    ids = tuple(byte_level.tokenizer("she is a nurse")["input_ids"])
    assert request.input_ids == (byte_level.start_id, *ids)
    assert request.targets == ids
    assert request.positions == tuple(range(len(ids)))


def test_requests_check_themselves():
    with pytest.raises(InputError, match="2 positions, but 1 targets"):
        TokenLogProbs((1, 2, 3), (0, 1), (4,))
    for position in (3, -1):
        with pytest.raises(InputError, match="are not all within 3 tokens"):
            TokenLogProbs((1, 2, 3), (position,), (4,))


def test_words_of_tokens_in_each_family(word_piece, byte_level, sentence_piece):
    assert word_piece.words("She is nurses.") == (None, 0, 1, 2, 2, 3, None)
    assert sentence_piece.words("she nurse sad") == (0, 1, 2, 2, 2, 2)  # the space before "sad" is a piece of its word
    text = "nurses she  is"
    marks = [number for number, token in enumerate(tokens(byte_level, byte_level.encode(text))) if token[0] == "Ġ"]
    words = byte_level.words(text)
    assert words == tuple(sorted(words))
    assert {at for at in range(1, len(words)) if words[at] != words[at - 1]} >= set(marks)


def test_white_space_ends_a_word_also_where_the_tokenizer_does_not_split():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), (" ", -1.0), *((c, -2.0) for c in "abc")], unk_id=0))
    codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "masked", 64)
    assert codec.tokenizer("ab c").word_ids() == [0, 0, 0, 0]
    assert codec.words("ab c") == (0, 0, 1, 1)


def test_a_slow_tokenizer_cannot_tell_words():
    codec = TextCodec(CanineTokenizer(), "masked", 64)
    with pytest.raises(CannotScoreError, match="CanineTokenizer does not report which tokens form a word"):
        codec.words("she is")

"""Weights in 8 bits: what is kept, how far off it is at most, and that a changed file is found out."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

from equiframe.errors import InputError, ModelError
from equiframe.models import load
from equiframe.models.packed import PACKED_FILE, digest, pack, read_packed, unpack, unpacked_folder, write_packed

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 7)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def test_by_hand():
    packed = pack({"w": torch.tensor([[127.0, -63.4, 0.4], [0.0, 0.0, 0.0]]), "b": torch.tensor([0.1, -2.0])})
    assert set(packed) == {"w", "w.scale", "b"}
    assert packed["w"].dtype == torch.int8
    assert packed["w"].tolist() == [[127, -63, 0], [0, 0, 0]]
    assert packed["w.scale"].tolist() == [1.0, 0.0]
    back = unpack(packed)
    assert set(back) == {"w", "b"}
    assert back["w"].tolist() == [[127.0, -63.0, 0.0], [0.0, 0.0, 0.0]]
    assert torch.equal(back["b"], torch.tensor([0.1, -2.0]))


@given(matrices)
def test_no_weight_is_off_by_more_than_half_a_step(matrix):
    back = unpack(pack({"w": torch.from_numpy(matrix)}))["w"].numpy()
    step = np.abs(matrix.astype(np.float64)).max(1, keepdims=True) / 127
    assert (np.abs(back.astype(np.float64) - matrix) <= step * (0.5 + 1e-4) + 1e-37).all()


@given(matrices)
def test_what_was_unpacked_packs_to_the_same_levels(matrix):
    packed = pack({"w": torch.from_numpy(matrix)})
    again = pack(unpack(packed))
    assert torch.equal(again["w"], packed["w"])
    torch.testing.assert_close(again["w.scale"], packed["w.scale"], rtol=1e-6, atol=0)


def test_half_precision_is_widened_first():
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(pack({"w": weights})["w"], pack({"w": weights.float()})["w"])
    assert pack({"b": weights[0]})["b"].dtype == torch.float32


def test_a_vector_whose_name_ends_in_scale_is_no_scale_of_a_matrix():
    weights = {"norm.scale": torch.tensor([1.0, 3.0]), "norm.weight": torch.eye(2)}
    back = unpack(pack(weights))
    assert set(back) == set(weights)
    assert torch.equal(back["norm.scale"], weights["norm.scale"])


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([[1, 2]]), torch.zeros(2, 2, 2), torch.tensor([[1.0, torch.inf]]), torch.tensor([torch.nan])],
)
def test_what_cannot_be_packed_is_named(tensor):
    with pytest.raises(InputError, match=r"layer\.weight"):
        pack({"layer.weight": tensor})


def test_the_name_of_scales_is_not_given_twice():
    with pytest.raises(InputError, match=r"w\.scale"):
        pack({"w": torch.eye(2), "w.scale": torch.ones(2)})


def test_digest_is_sha256_of_what_is_described():
    expected = hashlib.sha256(
        b"a torch.float32 (2,)" + np.float32([1, 2]).tobytes() + b"b torch.int8 (1, 1)" + bytes([255])
    )
    weights = {"b": torch.tensor([[-1]], dtype=torch.int8), "a": torch.tensor([1.0, 2.0])}
    assert digest(weights) == expected.hexdigest()


def test_a_file_gives_back_exactly_what_was_packed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(5, 8, generator=generator), "b": torch.randn(5, generator=generator)}
    write_packed(weights, tmp_path / "model")
    found = read_packed(tmp_path / "model")
    assert {name: tensor.dtype for name, tensor in found.items()} == {"w": torch.float32, "b": torch.float32}
    assert digest(found) == digest(unpack(pack(weights)))


def test_a_changed_file_is_refused(tmp_path):
    file = tmp_path / "model"
    write_packed({"w": torch.eye(3)}, file)
    tensors = load_file(file)
    tensors["w"][0, 0] -= 1
    save_file(tensors, file, metadata={"sha256": digest({"w": torch.eye(3)})})
    with pytest.raises(ModelError, match="not those that were written"):
        read_packed(file)


def test_a_cut_or_missing_file_is_refused(tmp_path):
    file = tmp_path / "model"
    write_packed({"w": torch.eye(3)}, file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="no packed weights"):
        read_packed(file)
    save_file({"w": torch.eye(3).to(torch.int8)}, file)
    with pytest.raises(ModelError, match="no packed weights"):
        read_packed(file)


def packed_folder(folder, model_folder):
    """The files of a tiny model with its weights packed, and the weights."""
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_packed(weights, folder / PACKED_FILE)
    return weights


def test_a_packed_folder_loads_as_the_model_of_the_unpacked_weights(model_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    weights = packed_folder(tmp_path / "tiny", model_folders["masked"])
    folder = unpacked_folder(tmp_path / "tiny")
    found = load(folder, device="cpu").model.state_dict()
    for name, tensor in unpack(pack(weights)).items():
        assert torch.equal(found[name], tensor), name
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert unpacked_folder(tmp_path / "tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written  # made once
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_other_weights_are_another_folder(model_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    weights = packed_folder(tmp_path / "tiny", model_folders["masked"])
    before = unpacked_folder(tmp_path / "tiny")
    write_packed({name: 2 * tensor for name, tensor in weights.items()}, tmp_path / "tiny" / PACKED_FILE)
    assert unpacked_folder(tmp_path / "tiny") != before


def test_damaged_weights_leave_no_folder(model_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    packed_folder(tmp_path / "tiny", model_folders["masked"])
    file = tmp_path / "tiny" / PACKED_FILE
    save_file(load_file(file), file, metadata={"sha256": "0" * 64})
    with pytest.raises(ModelError, match="not those that were written"):
        unpacked_folder(tmp_path / "tiny")
    assert not (tmp_path / "cache").exists()


def test_the_masked_model_in_the_package_fills_in_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    found = load("builtin:minilm-mlm", device="cpu")
    assert found.kind == "masked"
    assert len(found.tokenizer) == found.model.config.vocab_size == 30522
    batch = found.tokenizer("The woman said that [MASK] was tired.", return_tensors="pt")
    with torch.inference_mode():
        logits = found.model(**batch).logits[batch.input_ids == found.tokenizer.mask_token_id][0]
    she, he = (logits[found.tokenizer.convert_tokens_to_ids(word)] for word in ("she", "he"))
    assert she > he
    assert int(logits.argmax()) == found.tokenizer.convert_tokens_to_ids("she")

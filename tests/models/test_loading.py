"""Names to models, and clear errors where there is none."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

from equiframe.errors import ModelError
from equiframe.models import load, save
from equiframe.models.tokenizers import read_tokenizer


def test_kind_window_and_codec(masked_model, causal_model):
    assert (masked_model.kind, masked_model.window) == ("masked", 64)
    assert (causal_model.kind, causal_model.window) == ("causal", 64)
    assert causal_model.tokenizer.pad_token is not None
    assert masked_model.codec.kind == "masked"
    assert not masked_model.model.training


def test_fingerprint_follows_the_weights(masked_model, model_folders):
    again = load(str(model_folders["masked"]), device="cpu")
    assert again.fingerprint() == masked_model.fingerprint()
    with torch.no_grad():
        next(again.model.parameters()).flatten()[0] += 1e-3
    assert again.fingerprint() != masked_model.fingerprint()


def test_fingerprint_follows_the_configuration(model_folders, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(model_folders["causal"], folder)
    expected = load(str(model_folders["causal"]), device="cpu").fingerprint()
    assert load(str(folder), device="cpu").fingerprint() == expected
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_head": 4}))
    assert load(str(folder), device="cpu").fingerprint() != expected


def test_an_older_folder_is_replaced(masked_model, tmp_path):
    for _ in range(2):
        save(masked_model, tmp_path / "model")
        (tmp_path / "model" / "older").touch()
    save(masked_model, tmp_path / "model")
    assert load(str(tmp_path / "model")).fingerprint() == masked_model.fingerprint()
    assert not (tmp_path / "model" / "older").exists()


def test_saved_model_loads_the_same(language_model, tmp_path):
    save(language_model, tmp_path / "model")
    assert load(str(tmp_path / "model"), device="cpu").fingerprint() == language_model.fingerprint()
    assert {path.suffix for path in (tmp_path / "model").iterdir()} & {".bin", ".pt", ".pkl"} == set()


def test_saving_is_silent(masked_model, tmp_path, capfd):
    save(masked_model, tmp_path / "model")
    assert capfd.readouterr() == ("", "")


def test_no_such_directory():
    with pytest.raises(ModelError, match="no such directory"):
        load("./nowhere")


def test_no_such_builtin():
    with pytest.raises(ModelError, match="builtin:mini-mlm"):
        load("builtin:other")


def test_not_a_model_directory(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path))


def test_an_encoder_without_its_head_is_refused(model_folders, tmp_path):
    AutoModel.from_pretrained(model_folders["masked"]).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_folders["masked"] / name).read_bytes())
    with pytest.raises(ModelError, match="without its masked language-modelling head"):
        load(str(tmp_path), kind="masked")


def test_a_head_of_another_kind_is_refused(model_folders):
    with pytest.raises(ModelError):
        load(str(model_folders["causal"]), kind="masked")


def test_pickled_weights_are_never_read(model_folders, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(model_folders["masked"])
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        load(str(tmp_path))


@pytest.mark.parametrize("change", ["a shard is missing", "half a file", "a pointer of git lfs"])
def test_incomplete_weights_are_downloaded_again(model_folders, tmp_path, change):
    shutil.copytree(model_folders["causal"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    if change == "half a file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        said = r"a file of its weights is incomplete or damaged: .*; download it again"
    elif change == "a pointer of git lfs":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n")
        said = "a file of its weights is incomplete or damaged: .* git lfs pull"
    else:
        file.unlink()
        shards = {name: f"model-0000{part}-of-00002.safetensors" for part, name in enumerate(("a", "b"), start=1)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
        said = "its weights are incomplete: there is no file model-0000[12]-of-00002.safetensors; download it again"
    with pytest.raises(ModelError, match=said):
        load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"_orig_mod.{name}", r"no weights for transformer\..*, but has some for _orig_mod\..* a wrapper"),
        (lambda name: None if "h.0.attn.c_attn.weight" in name else name, r"c_attn.weight \(and 0 more\): it is inc"),
    ],
)
def test_a_checkpoint_of_other_weights_does_not_lack_its_head(model_folders, tmp_path, rename, said):
    shutil.copytree(model_folders["causal"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    renamed = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=said):
        load(str(tmp_path), device="cpu")


def test_a_sequence_classifier_is_refused(model_folders, tmp_path):
    config = json.loads((model_folders["masked"] / "config.json").read_text())
    config.update(model_type="vit", architectures=["ViTForImageClassification"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="neither a masked nor a causal"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "older", "needed"), [("nemotron_h", "5.14.1", "5.15"), ("doge", "5.17", "5.23")]
)
def test_an_older_transformers_with_wrong_numbers_is_refused(model_type, older, needed, tmp_path, monkeypatch):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.__version__", older)
    with pytest.raises(ModelError, match=rf"a {model_type} model, transformers {older} .* 'transformers>={needed}'"):
        load(tmp_path)


@pytest.mark.parametrize("architecture", ["mistral", "llama"])
def test_a_tokenizer_of_mistral_with_a_wrong_pattern_is_a_warning(architecture, tmp_path, recwarn):
    words = {"<unk>": 0, **{f"word{number}": number for number in range(1, 100_002)}}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path)
    config = {"model_type": architecture, "transformers_version": "4.50.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_tokenizer(str(tmp_path)).encode("word7") == [7]
    said = [str(warning.message) for warning in recwarn if "Mistral's own" in str(warning.message)]
    assert len(said) == (architecture == "mistral")

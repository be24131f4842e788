"""Every way to name and to load a model gives the numbers that transformers gives, or one line that says why not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from equiframe.commands.run import run
from equiframe.config import AuditOptions, DebiasConfig, EvaluateConfig, FineTuning
from equiframe.errors import InputError, ModelError
from equiframe.models import collect, load, save
from equiframe.models.projected import project
from equiframe.models.sources import Source, find_source, stored_if_unreachable, usable_device
from equiframe.runs.audit import audit_model
from equiframe.scoring.engine import answer

on_disk_works = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.17"), reason="older versions of transformers run no model from disk"
)
SENTENCES = ("she is a nurse and he is a doctor", "the woman met the man")


@pytest.fixture
def llama(byte_level, tmp_path):
    """A folder of a tiny Llama with untied embeddings."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(byte_level)))
    return saved(model, byte_level, tmp_path / "llama")


def llama_config(vocabulary, **options):
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.2,
        **options,
    )


@pytest.fixture
def byte_level(causal_model):
    return causal_model.tokenizer


def saved(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def log_probs(language_model, sentences=SENTENCES):
    return answer(language_model, [language_model.codec.sequence_log_probs(text) for text in sentences])


@torch.no_grad()
def plain(model, language_model, sentences=SENTENCES):
    """The same by transformers alone."""
    found = []
    for text in sentences:
        request = language_model.codec.sequence_log_probs(text)
        logs = model.eval()(input_ids=torch.tensor([request.input_ids])).logits[0].float().log_softmax(-1)
        found.append([logs[at, to].item() for at, to in zip(request.positions, request.targets, strict=True)])
    return found


def assert_close(found, expected, tolerance=1e-4):
    for mine, right in zip(found, expected, strict=True):
        assert list(mine) == pytest.approx(list(right), abs=tolerance)


# --- types


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_read_in_the_type_asked_for_and_log_probabilities_are_float32(llama, dtype):
    language_model = load(llama, device="cpu", dtype=dtype)
    assert {t.dtype for t in language_model.model.parameters()} == {getattr(torch, dtype)}
    assert language_model.precision == dtype
    assert_close(log_probs(language_model), plain(language_model.model, language_model), 0.05)
    half, full = log_probs(language_model), log_probs(load(llama, device="cpu"))
    assert half != full
    assert_close(half, full, 0.1)


def test_auto_is_float32_on_a_processor_whatever_the_checkpoint_is(llama, tmp_path):
    half = load(llama, device="cpu", dtype="bfloat16")
    save(half, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load(tmp_path / "half", device="cpu").precision == "float32"
    assert load(tmp_path / "half", device="cpu", dtype="bfloat16").fingerprint() == half.fingerprint()


def test_auto_is_the_checkpoints_type_on_a_gpu(llama, tmp_path, monkeypatch):
    """Without a GPU: what from_pretrained is asked for where the device is one."""
    asked = {}

    def from_pretrained(where, **options):
        asked.update(options)
        raise OSError("enough")

    monkeypatch.setattr("equiframe.models.loading.usable_device", lambda device: torch.device("cuda", 1))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match="enough"):
        load(llama)
    assert (asked["dtype"], asked["device_map"]) == ("auto", {"": "cuda:1"})


PEAK = r"""
import re, sys
from pathlib import Path
from equiframe.models import load
from equiframe.scoring.engine import answer
def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
small = load(sys.argv[2], device="cpu", dtype="bfloat16")
answer(small, [small.codec.sequence_log_probs("she is a nurse")])
before = peak()
model = load(sys.argv[1], device="cpu", dtype="bfloat16")
answer(model, [model.codec.sequence_log_probs("she is a nurse")])
model.fingerprint()
print((peak() - before) / model.model.num_parameters())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="where Linux tells the peak of a process")
def test_a_model_in_half_precision_takes_two_and_a_half_bytes_a_parameter(byte_level, llama, tmp_path):
    config = llama_config(len(byte_level))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 1024, 4096, 4  # 63 million parameters
    folder = saved(LlamaForCausalLM(config).bfloat16(), byte_level, tmp_path / "large")
    done = subprocess.run([sys.executable, "-c", PEAK, folder, llama], capture_output=True, text=True, check=True)
    assert 1.5 < float(done.stdout) < 2.5


def test_a_model_is_checked_against_float32(llama, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nshe is a cook,he is a cook\n")

    def checked(out, **options):
        options = {"device": "cpu", "dtype": "bfloat16", "check_float32": True, **options}
        return run(EvaluateConfig(str(llama), benchmarks=(f"pairs:{pairs}",), **options), out)

    record = checked(tmp_path / "half")
    (result,) = record.metrics.benchmarks
    assert (result.half_precision.precision, result.half_precision.items) == ("bfloat16", 2)
    assert record.metrics.model.precision == "bfloat16"
    assert result.scoring.endswith(", in bfloat16")
    full = checked(tmp_path / "full", dtype="float32")
    assert full.metrics.benchmarks[0].half_precision is None
    assert full.provenance.left_out == {"check against float32": "the model is scored in float32"}


def test_a_check_that_does_not_fit_is_left_out_with_a_word(llama, tmp_path, monkeypatch):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\n")
    monkeypatch.setattr("equiframe.runs.answerers.get_max_memory", lambda: {"cpu": 1000})
    config = EvaluateConfig(
        str(llama),
        benchmarks=(f"pairs:{pairs}",),
        device="cpu",
        dtype="bfloat16",
        check_float32=True,
    )
    assert "but 0.0 GB are free" in run(config, tmp_path / "out").provenance.left_out["check against float32"]


def test_an_audit_in_half_precision_is_nearly_that_in_float32(llama, tmp_path, text):
    (tmp_path / "text.txt").write_text("\n".join(text * 4))
    (tmp_path / "words.txt").write_text("she\nhe\nher\nhis\n")
    options = AuditOptions(text=str(tmp_path / "text.txt"), words=str(tmp_path / "words.txt"), min_count=2)
    full, half = (
        audit_model(load(llama, device="cpu", dtype=t), options).results[0].values for t in ("auto", "bfloat16")
    )
    assert full["nc3_self_duality"] != half["nc3_self_duality"]
    for key in ("nc3_self_duality", "unc3", "nc4_agreement"):
        assert half[key] == pytest.approx(full[key], abs=0.05)


# --- larger than a device


@pytest.fixture
def on_disk(llama, tmp_path):
    """The same model in three ways: whole, two of its layers on disk, and all of it there."""
    layers = {f"model.layers.{at}": "disk" if at else "cpu" for at in range(3)}
    some = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk", **layers}
    folders = ({"offload_folder": str(tmp_path / name)} for name in ("some", "all"))
    return [load(llama, device="cpu")] + [
        load(llama, device_map=places, model_args=arguments)
        for places, arguments in zip((some, {"": "disk"}), folders, strict=True)
    ]


@on_disk_works
def test_a_model_off_loaded_to_disk_is_the_same_model(on_disk, text, tmp_path):
    whole, *spread = on_disk
    for model in spread:
        assert model.is_spread
        assert model.model.get_output_embeddings().weight.is_meta
        assert model.device == torch.device("cpu")
        assert model.fingerprint() == whole.fingerprint()
        assert_close(log_probs(model), log_probs(whole), 1e-6)
        torch.testing.assert_close(collect(model, text).statistics.means, collect(whole, text).statistics.means)
    (tmp_path / "text.txt").write_text("\n".join(text * 4))
    (tmp_path / "words.txt").write_text("she\nhe\nher\nhis\n")
    options = AuditOptions(text=str(tmp_path / "text.txt"), words=str(tmp_path / "words.txt"), min_count=2)
    expected = audit_model(whole, options).results[0].values
    assert audit_model(spread[1], options).results[0].values == pytest.approx(expected, abs=1e-5)


@on_disk_works
def test_auto_leaves_on_disk_what_memory_does_not_hold(llama, tmp_path):
    limits = {"max_memory": {"cpu": "60KB"}, "offload_folder": str(tmp_path / "disk")}
    model = load(llama, device_map="auto", model_args=limits)
    assert "disk" in model.model.hf_device_map.values()
    assert_close(log_probs(model), log_probs(load(llama, device="cpu")), 1e-6)


def test_an_older_transformers_runs_no_model_from_disk(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.8.0")
    with pytest.raises(ModelError, match=r"on disk, which needs transformers>=5.17, and 5.8.0 is installed: pip"):
        load(llama, device_map={"": "disk"}, model_args={"offload_folder": str(tmp_path / "disk")})


@on_disk_works
def test_an_off_loaded_model_is_saved_and_not_projected(on_disk, tmp_path):
    whole, _, model = on_disk
    save(model, tmp_path / "saved")
    assert load(tmp_path / "saved", device="cpu").fingerprint() == whole.fingerprint()
    matrix = torch.diag(torch.tensor([0.0] * 8 + [1.0] * 24))
    with pytest.raises(ModelError, match="off-loaded: load the model on one device"):
        project(model.model, matrix)


def test_arguments_of_from_pretrained_are_handed_on(llama):
    assert load(llama, model_args={"attn_implementation": "eager"}).model.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match=r"cannot be loaded with --model-arg no_such_thing \(.*no_such_thing"):
        load(llama, model_args={"no_such_thing": 1})


QUANTISATIONS = {
    "quanto": ("optimum", {"quant_method": "quanto", "weights": "int8"}),
    "torchao": (
        "torchao",
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
        },
    ),
}


@pytest.mark.parametrize("method", list(QUANTISATIONS))
def test_a_quantised_model_is_read_and_its_weights_are_left_alone(method, llama, tmp_path, text):
    package, config = QUANTISATIONS[method]
    pytest.importorskip(package)
    arguments = {"quantization_config": config}
    model = load(llama, device="cpu", model_args=arguments)
    assert model.precision == f"float32, quantised by {method}"
    full = load(llama, device="cpu")
    assert log_probs(model) != log_probs(full)
    assert_close(log_probs(model), log_probs(full), 0.3)
    assert model.fingerprint() == load(llama, device="cpu", model_args=arguments).fingerprint() != full.fingerprint()
    means = [collect(each, text).statistics.means for each in (model, full)]
    torch.testing.assert_close(*means, atol=0.1, rtol=0.1)
    options = {"model": str(llama), "device": "cpu", "model_args": arguments}
    with pytest.raises(InputError, match="is quantised, but bec changes weights"):
        run(DebiasConfig(audit=None, method="bec", **options), tmp_path / "debiased")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nshe is a cook,he is a cook\n")
    config = EvaluateConfig(benchmarks=(f"pairs:{pairs}",), check_float32=True, **options)
    said = str(run(config, tmp_path / "out").metrics.benchmarks[0].half_precision)
    assert said.startswith(f"in float32, quantised by {method} ")


@pytest.mark.parametrize("method", list(QUANTISATIONS))
def test_a_quantisation_without_its_package_says_which(method, llama):
    package, config = QUANTISATIONS[method]
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ModelError, match=r"pip install \S+") as error:
        load(llama, model_args={"quantization_config": config})
    assert method in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "module", "said"),
    [
        ("awq", "gptqmodel", "by awq need a package: pip install gptqmodel"),
        ("gptq", "gptqmodel", "by gptq need a package: pip install optimum gptqmodel"),
        ("bitsandbytes", "bitsandbytes", "by bitsandbytes need a package: pip install bitsandbytes"),
        ("compressed-tensors", "compressed_tensors", "need a package: pip install compressed-tensors"),
        ("new-method", None, r"by the method 'new-method', which transformers \S+ does not know: choose the model"),
        (None, None, "by the method 'None', which transformers"),
    ],
)
def test_a_quantised_checkpoint_that_cannot_be_read_says_why_in_one_line(method, module, said, llama, capfd):
    if module is not None and find_spec(module):
        pytest.skip(f"{module} is installed")
    file = llama / "config.json"
    quantised = {"bits": 4, "load_in_4bit": method == "bitsandbytes"} | ({"quant_method": method} if method else {})
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": quantised}))
    capfd.readouterr()
    with pytest.raises(ModelError, match=said) as error:
        load(llama, device="cpu")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


# --- adapters


@pytest.fixture
def adapter(llama, tmp_path):
    """Saves an adapter of the Llama whose weights differ from zero; gives its folder and the adapted model."""
    peft = pytest.importorskip("peft")

    def make(rows=None, tokenizer=None, **options):
        model = AutoModelForCausalLM.from_pretrained(llama)
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        options = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    weight.normal_(generator=torch.Generator().manual_seed(1))
        folder = tmp_path / "adapter"
        adapted.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder, adapted

    return make


def test_an_adapter_is_merged_into_its_base_model(adapter, llama, tmp_path):
    folder, adapted = adapter()
    language_model = load(folder, device="cpu")
    assert isinstance(language_model.model, LlamaForCausalLM)
    assert (language_model.name, language_model.kind) == (str(folder), "causal")
    assert_close(log_probs(language_model), plain(adapted, language_model))
    assert log_probs(language_model) != log_probs(load(llama, device="cpu"))
    save(language_model, tmp_path / "merged")
    assert load(tmp_path / "merged", device="cpu").fingerprint() == language_model.fingerprint()


def test_a_revision_of_the_hub_is_left_out_where_the_base_model_is_a_folder(adapter):
    folder, adapted = adapter()
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "revision": "main"}))
    language_model = load(folder, device="cpu")
    assert_close(log_probs(language_model), plain(adapted, language_model))


@pytest.mark.parametrize("change", [8, -60])  # base models are padded to round numbers, and adapters add tokens
def test_an_adapter_may_bring_embeddings_of_another_size(adapter, llama, byte_level, change):
    byte_level.add_tokens(["<a>", "<b>"])
    rows = AutoConfig.from_pretrained(llama).vocab_size + change
    folder, adapted = adapter(rows, byte_level, modules_to_save=["embed_tokens", "lm_head"])
    language_model = load(folder, device="cpu")
    assert language_model.examination.rows == rows
    assert language_model.tokenizer.convert_tokens_to_ids("<b>") == len(byte_level) - 1
    if change > 0:
        sentence = ("she <a> is <b> a nurse",)
        assert_close(log_probs(language_model, sentence), plain(adapted, language_model, sentence))


def test_padded_rows_of_a_base_model_stay(adapter, byte_level, tmp_path):
    rows = len(byte_level) + 21
    base = saved(LlamaForCausalLM(llama_config(rows)), byte_level, tmp_path / "padded")
    folder, _ = adapter(tokenizer=byte_level)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    assert load(folder, device="cpu").examination.rows == rows


def test_an_adapter_is_put_on_a_quantised_model_without_merging(adapter, llama):
    pytest.importorskip("torchao")
    folder, _ = adapter()
    arguments = {"quantization_config": QUANTISATIONS["torchao"][1]}
    language_model = load(folder, device="cpu", model_args=arguments)
    assert isinstance(language_model.model, LlamaForCausalLM)
    assert_close(log_probs(language_model), log_probs(load(folder, device="cpu")), 0.3)
    base = load(llama, device="cpu", model_args=arguments)
    assert max(abs(a - b) for a, b in zip(log_probs(language_model)[0], log_probs(base)[0], strict=True)) > 0.3
    assert language_model.fingerprint() == load(folder, device="cpu", model_args=arguments).fingerprint()


@on_disk_works
def test_an_adapter_is_not_put_on_an_off_loaded_model(adapter, tmp_path):
    folder, _ = adapter()
    with pytest.raises(ModelError, match=r"off-loaded: leave out --device-map, or merge"):
        load(folder, device_map={"": "disk"}, model_args={"offload_folder": str(tmp_path / "disk")})
    assert_close(log_probs(load(folder, device_map="auto")), log_probs(load(folder, device="cpu")), 1e-6)


def changed(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"base_model_name_or_path": "./gone"},
            r"is an adapter of \./gone: \./gone: no such directory.*adapter_config",
        ),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"task_type": "SEQ_CLS"}, "trained for the task SEQ_CLS"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "learns a prompt in place of weights"),
    ],
)
def test_an_adapter_that_cannot_be_used_says_why_in_one_line(adapter, changes, said):
    folder, _ = adapter()
    with pytest.raises(ModelError, match=said) as error:
        load(changed(folder, **changes))
    assert "\n" not in str(error.value)


def test_pickled_adapters_are_never_read(adapter):
    folder, _ = adapter()
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickled weights are never read"):
        load(folder)


def test_an_adapter_needs_peft(adapter, monkeypatch):
    folder, _ = adapter()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"peft is not installed: pip install 'equiframe\[lora\]'"):
        load(folder)


# --- GGUF


@pytest.fixture
def gguf_file(llama, byte_level, tmp_path):
    """A GGUF file of the Llama, and the folder of the model that it holds."""
    gguf = pytest.importorskip("gguf")

    def write(name="model.gguf", architecture="llama", start=False):
        path = tmp_path / name
        weights = load_file(llama / "model.safetensors")
        writer = gguf.GGUFWriter(path, architecture)
        config = AutoConfig.from_pretrained(llama)
        writer.add_name("tiny")
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
        writer.add_vocab_size(config.vocab_size)
        tokenizer = json.loads(byte_level.backend_tokenizer.to_str())
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
        writer.add_token_list([piece for piece, _ in pieces])
        writer.add_token_types([3 if number == 0 else 1 for _, number in pieces])
        writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
        writer.add_add_bos_token(start)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        for key, tensor in weights.items():
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            if (count := next((n for part, n in heads.items() if part in key), None)) is not None:
                half = tensor.shape[0] // count // 2  # llama.cpp turns neighbouring dimensions, transformers halves
                tensor = tensor.reshape(count, 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)
            name = names.get_name(key.removesuffix(".weight"))
            array = tensor.float().contiguous().numpy()
            quantise = array.ndim == 2 and array.shape[1] % 32 == 0
            kind = gguf.GGMLQuantizationType.Q8_0 if quantise else gguf.GGMLQuantizationType.F32
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_a_gguf_file_is_unpacked(gguf_file, llama, text, tmp_path):
    language_model, whole = load(gguf_file(), device="cpu"), load(llama, device="cpu")
    assert (language_model.kind, language_model.window, language_model.precision) == ("causal", 64, "float32")
    assert language_model.tokenizer(text[0])["input_ids"] == whole.tokenizer(text[0])["input_ids"]
    assert_close(log_probs(language_model), log_probs(whole), 0.1)
    assert log_probs(language_model) != log_probs(whole)
    save(language_model, tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    assert_close(log_probs(again), log_probs(language_model), 1e-6)
    half = load(gguf_file("half.gguf"), device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16


def test_a_gguf_file_says_whether_a_text_begins_with_a_start_token(gguf_file, text, tmp_path):
    plain, begun = (load(gguf_file(f"{start}.gguf", start=start), device="cpu") for start in (False, True))
    ids = plain.tokenizer(text[0])["input_ids"]
    assert begun.tokenizer(text[0])["input_ids"] == [begun.tokenizer.bos_token_id, *ids]
    save(begun, tmp_path / "saved")
    assert load(tmp_path / "saved", device="cpu").codec.encode(text[0]) == begun.codec.encode(text[0])


def test_where_a_gguf_file_may_be(gguf_file):
    path = gguf_file()
    assert find_source(str(path), path, None) == Source(str(path.parent), {"gguf_file": "model.gguf"})
    hub = "owner/name:sub/model.Q4_K_M.gguf"
    expected = Source("owner/name", {"revision": "v1", "gguf_file": "sub/model.Q4_K_M.gguf"})
    assert find_source(hub, Path(hub), "v1") == expected
    with pytest.raises(ModelError, match="no such file; give the path of a GGUF file, or OWNER/NAME:FILE"):
        load("nowhere.gguf")
    with pytest.raises(InputError, match="--revision v1: only models on the hub"):
        load(path, revision="v1")


def no_hub(monkeypatch, cache):
    """Let nothing answer for the hub, with an own folder of stored files."""
    address = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_a_gguf_file_of_the_hub_is_read_where_it_is_stored(gguf_file, llama, tmp_path, monkeypatch):
    no_hub(monkeypatch, tmp_path)
    snapshot = tmp_path / "models--owner--name/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    gguf_file().rename(snapshot / "model.Q8_0.gguf")
    references = snapshot.parent.parent / "refs"
    references.mkdir()
    (references / "main").write_text("a" * 40)
    language_model = load("owner/name:model.Q8_0.gguf", device="cpu")
    assert log_probs(language_model) == log_probs(load(snapshot / "model.Q8_0.gguf", device="cpu"))


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path, monkeypatch):
    no_hub(monkeypatch, tmp_path)
    source = Source("owner/name", {"revision": None})
    assert stored_if_unreachable(source) == Source("owner/name", {"revision": None, "local_files_only": True})
    assert stored_if_unreachable(Source(str(tmp_path), {})) == Source(str(tmp_path), {})
    with pytest.raises(ModelError, match=r"owner/name: cannot be loaded as a language model \(We couldn't connect to"):
        load("owner/name")


def test_a_hub_that_answers_is_asked_for_every_file(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # which answers 501 to any request
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    source = Source("owner/name", {"revision": None})
    assert stored_if_unreachable(source) == source
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert stored_if_unreachable(source) == source
    server.shutdown()
    server.server_close()


def test_a_gguf_file_that_cannot_be_read_is_one_line(gguf_file, tmp_path):
    with pytest.raises(ModelError, match=r"mamba9.*not supported") as error:
        load(gguf_file("other.gguf", "mamba9"))
    assert "\n" not in str(error.value)
    (tmp_path / "broken.gguf").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match=r"broken\.gguf: cannot be loaded"):
        load(tmp_path / "broken.gguf")


def test_a_gguf_file_of_a_type_that_cannot_be_read_says_what_to_choose(gguf_file, monkeypatch):
    gguf = pytest.importorskip("gguf")
    add = gguf.GGUFWriter.add_tensor

    def unreadable(self, name, tensor, raw_dtype=None):
        if "attn_q" in name:
            tensor, raw_dtype = tensor.astype("int16"), gguf.GGMLQuantizationType.I16
        add(self, name, tensor, raw_dtype=raw_dtype)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", unreadable)
    with pytest.raises(ModelError, match=r"I16 is not yet implemented: choose a file .* such as Q4_K_M or Q8_0"):
        load(gguf_file(), device="cpu")


def test_a_gguf_file_needs_its_package(gguf_file, monkeypatch):
    path = gguf_file()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'equiframe\[gguf\]'"):
        load(path)


# --- configurations within configurations

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "num_heads": 1}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}}
NESTED = {
    "gemma3": {"vision": {"image_size": 28, "patch_size": 14}, "config": {"mm_tokens_per_image": 4}},
    "gemma4": {
        "text": {
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "config": {"audio_config": None},
    },
    "mistral3": {"vision": {"image_size": 28, "patch_size": 14, "head_dim": 8}},
    "llama4": {
        "text": {"num_local_experts": 2, "intermediate_size_mlp": 32, "num_experts_per_tok": 1},
        "vision": {"image_size": 28, "patch_size": 14},
    },
    "qwen2_vl": {"text": MROPE, "vision": {"depth": 1, "embed_dim": 8, "hidden_size": 32}},
    "qwen2_5_vl": {"text": MROPE, "vision": {"depth": 1, "out_hidden_size": 32}},
    "qwen3_vl": {
        "text": MROPE,
        "vision": {"depth": 1, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    },
}


@pytest.mark.parametrize("name", list(NESTED))
def test_models_that_read_images_too_are_read_as_text(name, byte_level, tmp_path, text):
    parts = NESTED[name]
    config = AutoConfig.for_model(name)
    shape = {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 50, "pad_token_id": 0}
    vision = {**VISION, **parts.get("vision", {})}
    if config.vision_config is not None:  # Gemma 4 may come without
        vision["model_type"] = config.vision_config.model_type
        parts = {**parts, "config": {**parts.get("config", {}), "vision_config": vision}}
    config = type(config)(
        text_config={"model_type": config.get_text_config().model_type, **shape, "vocab_size": len(byte_level)}
        | parts.get("text", {}),
        **parts.get("config", {}),
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    folder = saved(model, byte_level, tmp_path / "model")
    language_model = load(folder, device="cpu")
    assert (language_model.kind, language_model.window) == ("causal", 50)
    assert_close(log_probs(language_model), plain(model, language_model))
    assert len(collect(language_model, text).statistics.seen(1).class_ids) > 10
    save(language_model, tmp_path / "again")
    assert_close(log_probs(load(tmp_path / "again", device="cpu")), plain(model, language_model))
    if name != "llama4":  # has no stack of its own
        project(language_model.model, torch.eye(32))
        assert_close(log_probs(language_model), plain(model, language_model))


# --- rows without tokens, both halves of a model, and devices


def test_padded_rows_count_in_the_softmax_and_are_no_words(byte_level, tmp_path, text):
    model = LlamaForCausalLM(llama_config(len(byte_level) + 28)).eval()
    language_model = load(saved(model, byte_level, tmp_path / "padded"), device="cpu")
    assert language_model.examination.rows == len(byte_level) + 28
    assert_close(log_probs(language_model), plain(model, language_model))
    assert int(collect(language_model, text).statistics.class_ids.max()) < len(byte_level)


def test_a_model_with_added_tokens_reads_them(byte_level, tmp_path):
    model = LlamaForCausalLM(llama_config(len(byte_level))).eval()
    byte_level.add_tokens(["she is", "he is"])
    model.resize_token_embeddings(len(byte_level) + 5)
    language_model = load(saved(model, byte_level, tmp_path / "resized"), device="cpu")
    assert language_model.examination.rows == len(byte_level) + 5
    assert byte_level.convert_tokens_to_ids("she is") in language_model.codec.sequence_log_probs(SENTENCES[0]).targets
    assert_close(log_probs(language_model), plain(model, language_model))


@pytest.mark.parametrize("kind", [None, "masked", "causal"])
def test_models_with_encoder_and_decoder_are_refused(kind, byte_level, tmp_path):
    shape = {"vocab_size": len(byte_level), "d_model": 16}
    bart = BartConfig(**shape, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1)
    t5 = T5Config(**shape, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for config, make in ((bart, BartForConditionalGeneration), (t5, T5ForConditionalGeneration)):
        folder = saved(make(config), byte_level, tmp_path / config.model_type)
        with pytest.raises(ModelError, match=f"{make.__name__} has an encoder and a decoder"):
            load(folder, kind=kind)


def test_the_decoder_of_such_a_model_alone_is_a_causal_model(byte_level, tmp_path):
    config = BartConfig(vocab_size=len(byte_level), d_model=16, decoder_layers=1, decoder_attention_heads=1)
    config.is_encoder_decoder, config.is_decoder = False, True
    model = BartForCausalLM(config).eval()
    language_model = load(saved(model, byte_level, tmp_path / "decoder"), device="cpu")
    assert_close(log_probs(language_model), plain(model, language_model))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_accelerator_of_the_machine_is_found(kind, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: torch.ones(*shape))
    assert usable_device(None).type == kind


# --- what was said wrongly


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "int8"}, "--dtype int8: choose auto, float32, bfloat16, float16"),
        ({"device": "cpu", "device_map": "auto"}, "--device cpu and --device-map cannot be combined"),
        ({"model_args": {"torch_dtype": "auto"}}, "--model-arg torch_dtype: give --dtype instead"),
        ({"model_args": {"trust_remote_code": True}}, "--model-arg trust_remote_code: give --trust-remote-code"),
        ({"model_args": {"use_safetensors": False}}, "--model-arg use_safetensors: equiframe sets this"),
    ],
)
def test_a_wrong_way_to_load_is_one_line(options, said, llama):
    with pytest.raises(InputError, match=said):
        load(llama, **options)


@pytest.mark.parametrize(
    "options", [{"dtype": "float16"}, pytest.param({"device_map": {"": "disk"}}, marks=on_disk_works)]
)
def test_fine_tuning_needs_whole_and_precise_weights(options, llama, tmp_path, gap_folder):
    arguments = {"offload_folder": str(tmp_path / "disk")} if "device_map" in options else {}
    config = DebiasConfig(str(llama), audit=None, benchmarks=(), data=gap_folder, model_args=arguments, **options)
    with pytest.raises(InputError, match=r"--dtype float16 is too coarse|--device-map spreads the weights"):
        run(config, tmp_path / "out")


def test_a_checkpoint_of_half_precision_is_trained_in_float32(llama, tmp_path, gap_folder):
    save(load(llama, device="cpu", dtype="bfloat16"), tmp_path / "half")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in stored.items()}, tmp_path / "half" / "model.safetensors")
    config = DebiasConfig(
        str(tmp_path / "half"),
        audit=None,
        benchmarks=(),
        data=gap_folder,
        fine_tuning=FineTuning(max_steps=1, batch_size=2, precision="fp32"),
        device="cpu",
    )
    assert run(config, tmp_path / "out").metrics.model.precision == "float32"

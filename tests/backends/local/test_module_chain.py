"""Chains of modules: equality with sentence-transformers in both engines, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm

from rerank_plugins import ConfigError
from rerank_plugins.backends.local.backend import LocalBackend
from tests.support.checkpoints import CHAT_TEMPLATE, KINDS, build_chain
from tests.support.pairs import CUT, DOCUMENTS, QUERY


def ettin() -> list[Any]:
    """As the Ettin rerankers have it."""
    return [
        Dense(64, 64, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(64),
        scores(64),
    ]


def scores(width: int, labels: int = 1) -> Any:
    return Dense(width, labels, activation_function=None, module_output_name="scores")


def by_names() -> list[Any]:
    """Two branches from the pooled vector; the scores come from the one of other names."""
    return [
        Dense(64, 48, activation_function=torch.nn.Tanh(), module_output_name="hidden"),
        Dropout(0.5),
        Normalize(module_input_name="hidden", module_output_name="unit"),
        Dense(64, 48, activation_function=torch.nn.Sigmoid()),
        Dense(48, 1, activation_function=None, module_input_name="unit",
              module_output_name="scores"),
    ]  # fmt: skip


def residual() -> list[Any]:
    return [
        Dense(64, 64, activation_function=torch.nn.Tanh(), use_residual=True),
        Dense(64, 32, activation_function=torch.nn.ReLU(), use_residual=True),
        Normalize(),
        LayerNorm(32),
        Dense(32, 32, activation_function=torch.nn.SiLU()),
        Dense(32, 32, activation_function=torch.nn.Sigmoid()),
        scores(32),
    ]


CHAINS: dict[str, tuple[str, str, Callable[[], list[Any]]]] = {
    "ettin": ("modernbert", "cls", ettin),
    "ettin, mean": ("modernbert", "mean", ettin),
    "ettin, last": ("modernbert", "lasttoken", residual),
    "bert": ("bert", "mean", residual),
    "bert, last": ("bert", "lasttoken", by_names),
    "xlm-roberta": ("xlm-roberta", "cls", by_names),
    "electra": ("electra", "cls", lambda: [scores(64)]),
    "roberta": ("roberta", "mean", by_names),
}
DECODERS: dict[str, tuple[str, str, Callable[[], list[Any]]]] = {
    "qwen3": ("qwen3", "lasttoken", lambda: [scores(64)]),
    "llama": ("llama", "mean", ettin),
    "distilbert": ("distilbert", "cls", by_names),
}
EVERY = {**CHAINS, **DECODERS}
QUICK = {"ettin", "bert, last", "qwen3"}


def params(names: Any) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name)
        for name in names
    ]


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the folder of one of the chains, built once."""
    built: dict[str, Path] = {}

    def folder(name: str) -> str:
        if name not in built:
            kind, pooling, modules = EVERY[name]
            to = tmp_path_factory.mktemp("chain") / "model"
            built[name] = build_chain(kind, to, pooling, *modules())
        return str(built[name])

    return folder


def ours(folder: str, **options: Any) -> list[float]:
    options = {"device": "cpu", "max_length": 512, "scale": "logit", **CUT, **options}
    with LocalBackend(folder, **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS))


def reference(folder: str, **options: Any) -> list[float]:
    model = CrossEncoder(folder, device="cpu", max_length=512, **options)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    scored: list[float] = model.predict(pairs, activation_fn=torch.nn.Identity()).tolist()
    return scored


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("name", params(EVERY))
def test_torch_scores_equal_sentence_transformers(
    name: str, attention: Any, chain: Callable[[str], str]
) -> None:
    expected = reference(chain(name))
    scored = ours(chain(name), engine="torch", attention=attention)

    assert expected == pytest.approx(scored, abs=1e-5)
    assert np.ptp(expected) > 0.02


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DebertaV2": ("bert", {"relative_attention": True, "type_vocab_size": 0}),
    "FNet": ("bert", {"type_vocab_size": 4}),
    "GPT2": ("qwen3", {}),
    "MPNet": ("bert", {"max_position_embeddings": 514}),
}
"""Bodies that pack no pairs → whose tokenizer they get, and their settings."""


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "lasttoken", "mean"])
@pytest.mark.parametrize("body", BODIES)
def test_bodies_that_pack_no_pairs_score_as_well(
    body: str, pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = BODIES[body]
    cls = getattr(transformers, f"{body}ForSequenceClassification")
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_labels": 1}
    if body != "FNet":
        small["num_attention_heads"] = 4

    def make(tokenizer: Any) -> Any:
        size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return cls(cls.config_class(**size, **small, **options)).eval()

    monkeypatch.setitem(KINDS, body, (KINDS[kind][0], make))
    folder = str(build_chain(body, tmp_path / "m", pooling, *ettin()))
    model = CrossEncoder(folder, device="cpu", max_length=512)
    none = torch.nn.Identity()  # one by one: padding changes the scores of FNet
    expected = [float(model.predict([(QUERY, d)], activation_fn=none)[0]) for d in DOCUMENTS]

    assert expected == pytest.approx(ours(folder, engine="torch"), abs=1e-5)
    with LocalBackend(folder, engine="torch", device="cpu") as backend:
        assert "padded" == backend.describe()["attention"]


@pytest.mark.parametrize("name", params(CHAINS))
def test_onnx_scores_equal_sentence_transformers(name: str, chain: Callable[[str], str]) -> None:
    expected = reference(chain(name))

    assert expected == pytest.approx(ours(chain(name), engine="onnx"), abs=1e-5)


@pytest.mark.parametrize("name", params(CHAINS))
def test_int8_stays_close(name: str, chain: Callable[[str], str]) -> None:
    expected = reference(chain(name))
    scored = ours(chain(name), engine="onnx", dtype="int8")

    assert expected == pytest.approx(scored, abs=0.3 * float(np.ptp(expected)))
    assert expected != pytest.approx(scored, abs=1e-5)


@pytest.mark.parametrize("name", params(EVERY))
def test_only_the_rows_that_the_pooling_reads_are_computed(
    name: str, chain: Callable[[str], str]
) -> None:
    with LocalBackend(chain(name), engine="torch", device="cpu") as backend:
        facts = backend.describe()

    assert "packed" == facts["attention"]
    mean = EVERY[name][1] == "mean"
    assert ("the head reads all rows" if mean else "pooled rows only") == facts["last_layer"]


def test_half_precision_keeps_the_head_in_float32(chain: Callable[[str], str]) -> None:
    """The scores of bfloat16 are those of the body in it, without ties by the head."""
    folder = chain("ettin")
    scored = ours(folder, engine="torch", dtype="bfloat16")

    assert reference(folder) == pytest.approx(scored, abs=0.2)
    as_bfloat16 = torch.tensor(scored, dtype=torch.float64).bfloat16().double().tolist()
    assert scored != as_bfloat16


def test_a_chat_template_makes_the_prompt(tmp_path: Path) -> None:
    to, template = tmp_path / "m", CHAT_TEMPLATE
    folder = str(build_chain("qwen3", to, "lasttoken", scores(64), template=template))
    expected = reference(folder)

    assert expected == pytest.approx(ours(folder, engine="torch"), abs=1e-5)
    with LocalBackend(folder, engine="torch", device="cpu") as backend:
        assert "computed once per query" == backend.describe()["shared_prefix"]


def test_a_default_prompt_stands_before_the_query(
    chain: Callable[[str], str], tmp_path: Path
) -> None:
    folder = copied(chain("ettin"), tmp_path)
    edit(folder, "config_sentence_transformers.json",
         prompts={"q": "find: "}, default_prompt_name="q")  # fmt: skip

    assert reference(folder) == pytest.approx(ours(folder, engine="onnx"), abs=1e-5)
    edit(folder, "1_Pooling/config.json", include_prompt=False)
    with pytest.raises(ConfigError, match="leaves out the prompt"):
        ours(folder)


def test_settings_of_older_releases_are_read(chain: Callable[[str], str], tmp_path: Path) -> None:
    """The pooling as switches, and its width by another name."""
    folder = copied(chain("bert"), tmp_path)
    old = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False,
           "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}  # fmt: skip
    (Path(folder) / "1_Pooling" / "config.json").write_text(json.dumps(old))

    assert reference(folder) == pytest.approx(ours(folder, engine="onnx"), abs=1e-5)


def test_a_body_needs_no_pooler(chain: Callable[[str], str], tmp_path: Path) -> None:
    """No module reads what it gives."""
    folder = copied(chain("bert"), tmp_path)
    file = Path(folder) / "model.safetensors"
    kept = {name: w for name, w in load_file(file).items() if not name.startswith("pooler.")}
    save_file(kept, file, {"format": "pt"})

    assert reference(chain("bert")) == pytest.approx(ours(folder, engine="torch"), abs=1e-5)


def test_the_weights_of_a_module_change_the_name(
    chain: Callable[[str], str], tmp_path: Path
) -> None:
    folder = copied(chain("ettin"), tmp_path)
    file = next(Path(folder).glob("2_Dense/model.safetensors"))
    save_file({name: w * 2 for name, w in load_file(file).items()}, file)
    names = {LocalBackend(each, engine="onnx").name for each in (chain("ettin"), folder)}

    assert 2 == len(names)


def test_an_activation_that_the_graph_lacks_is_left_to_torch(tmp_path: Path) -> None:
    modules = [Dense(64, 32, activation_function=torch.nn.Mish()), scores(32)]
    folder = str(build_chain("modernbert", tmp_path / "m", "cls", *modules))

    assert reference(folder) == pytest.approx(ours(folder), abs=1e-5)
    with pytest.raises(ConfigError, match="activation 'Mish' of the module 2_Dense"):
        ours(folder, engine="onnx")


def test_a_cross_encoder_without_scores_is_no_embedding_model(
    chain: Callable[[str], str], tmp_path: Path
) -> None:
    """Its settings say what it is, and one of its modules writes another vector."""
    folder = copied(chain("ettin"), tmp_path)
    edit(folder, "4_Dense/config.json", module_output_name="sentence_embedding")
    with pytest.raises(ConfigError, match="calls itself a 'CrossEncoder'"):
        ours(folder)


def copied(folder: str, to: Path) -> str:
    return str(shutil.copytree(folder, to / "model"))


def edit(folder: str, name: str, **changes: object) -> None:
    path = Path(folder) / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edited(name: str, **changes: object) -> Callable[[str], None]:
    return lambda folder: edit(folder, name, **changes)


def listed(index: int, **changes: object) -> Callable[[str], None]:
    def change(folder: str) -> None:
        path = Path(folder) / "modules.json"
        modules = json.loads(path.read_text())
        modules[index].update(changes)
        path.write_text(json.dumps(modules))

    return change


def removed(name: str) -> Callable[[str], None]:
    return lambda folder: (Path(folder) / name).unlink()


def repeated(folder: str) -> None:
    path = Path(folder) / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([*modules[:2], *[modules[2]] * 100_000]))


REFUSED: dict[str, tuple[Callable[[str], None], str]] = {
    "endless": (repeated, "lists 100002 modules, and no model has more than 100"),
    "max": (edited("1_Pooling/config.json", pooling_mode="max"), "1_Pooling .*'max'"),
    "two modes": (edited("1_Pooling/config.json", pooling_mode=["cls", "mean"]), "1_Pooling"),
    "unknown module": (
        listed(3, type="sentence_transformers.sentence_transformer.modules.cnn.CNN"),
        "holds the module '.*CNN' in '3_LayerNorm'",
    ),
    "foreign module": (listed(2, type="mine.models.Dense"), "'mine.*' in '2_Dense'"),
    "mask": (
        listed(3, type="sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"),
        "MultiVectorMask' in '3_LayerNorm'",
    ),
    "LogitScore behind": (
        listed(4, type="sentence_transformers.cross_encoder.modules.LogitScore"),
        "LogitScore' in '4_Dense'",
    ),
    "elsewhere": (listed(2, path="../2_Dense"), "unexpected folders"),
    "activation": (
        edited("2_Dense/config.json", activation_function="my.code.Act"),
        "2_Dense .*activation_function='my.code.Act', which is not of torch.nn",
    ),
    "no such activation": (
        edited("2_Dense/config.json", activation_function="torch.nn.Whatever"),
        "2_Dense has the activation 'Whatever'",
    ),
    "an activation with arguments": (
        edited("2_Dense/config.json", activation_function="torch.nn.Threshold"),
        "2_Dense has the activation 'Threshold'",
    ),
    "tokens": (
        edited("2_Dense/config.json", module_input_name="token_embeddings"),
        "2_Dense .*reads 'token_embeddings'",
    ),
    "width": (edited("1_Pooling/config.json", embedding_dimension=32), "1_Pooling .*pools 32"),
    "shape": (edited("4_Dense/config.json", out_features=2), "4_Dense .*has the weights"),
    "inputs": (edited("3_LayerNorm/config.json", dimension=8), "3_LayerNorm .*reads 8 numbers"),
    "no weights": (removed("3_LayerNorm/model.safetensors"), "3_LayerNorm .*has no model.safe"),
    "no settings": (removed("3_LayerNorm/config.json"), "3_LayerNorm .*has no config.json"),
    "a setting": (edited("3_LayerNorm/config.json", dimension=None), "3_LayerNorm "),
    "task": (edited("sentence_bert_config.json", transformer_task="fill-mask"), "fill-mask"),
    "case": (edited("sentence_bert_config.json", do_lower_case=True), "do_lower_case=True"),
    "encoder-decoder": (edited("config.json", is_encoder_decoder=True), "encoder-decoder"),
    "modality": (
        edited(
            "sentence_bert_config.json",
            modality_config={"text": {"method": "get_text_features", "method_output_name": "x"}},
        ),
        "gives get_text_features",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_an_error_that_names_the_module(
    case: str, chain: Callable[[str], str], tmp_path: Path
) -> None:
    folder = copied(chain("ettin"), tmp_path)
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(ConfigError, match=message):
        ours(folder, engine="torch")

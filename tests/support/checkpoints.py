"""Tiny rerankers on disk, with real tokenizer files; seeded, so that equal kinds score alike."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.places import DATA

__all__ = ["CHAT_TEMPLATE", "EVERY_KIND", "KINDS", "build", "build_chain", "build_language_model"]

_CORPUS = [
    "What is a panda? The giant panda is a bear species endemic to China.",
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "A cross-encoder reads the query and the document together and returns one score.",
    "Retrieval finds candidates quickly; reranking puts the best of them first.",
    "The quick brown fox jumps over the lazy dog, 1234567890 times in 2024!",
    "大熊猫是中国特有的熊科动物。 북극곰은 곰과의 동물이다. Панда живёт в Китае.",
    "الباندا العملاقة دب يعيش في الصين. Der Große Panda lebt in China. Où est le panda géant ?",
]

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": 1,
}


def build(kind: str, folder: Path) -> Path:
    """Write the checkpoint of one of `KINDS` to `folder`, and return the folder."""
    make_tokenizer, make_model = KINDS[kind]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(tokenizer)
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n<Instruct>: "
    '{{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first '
    '| default("Find what answers.") }}\n<Query>: '
    '{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    "<Document>: "
    '{{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}'
    "<|im_end|>\n<|im_start|>assistant\n"
)
"""As Qwen3-RerankHandler's, with less around it."""


def build_language_model(
    kind: str,
    folder: Path,
    *,
    tokens: tuple[str, str | None] = ("yes", "no"),
    template: str | None = CHAT_TEMPLATE,
    prompt: str | None = None,
    chained: bool = True,
) -> Path:
    """Write a tiny language model that answers with words; return the folder.

    Args:
        kind: `"qwen3"`, `"qwen2"`, `"llama"` or `"gemma"`.
        folder: where to.
        tokens: the words whose logits make the score.
        template: the chat template; None: sentence-transformers then joins the texts.
        prompt: a default prompt.
        chained: whether sentence-transformers saves its chain of modules.
    """
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 - slow, and few need it
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415
    from sentence_transformers.cross_encoder.modules import LogitScore  # noqa: PLC0415

    tokenizer = _language_tokenizer()
    tokenizer.chat_template = template
    torch.manual_seed(0)
    cls = getattr(transformers, f"{_LANGUAGE_MODELS[kind]}ForCausalLM")
    options = {name: value for name, value in _DECODER.items() if name != "num_labels"}
    config = cls.config_class(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=kind in {"qwen3", "gemma"},
        **options,
    )
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                scale = 0.15 if "embed" in name else 1.2 / weight.shape[-1] ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if chained:
        true, false = (None if word is None else tokenizer.vocab[word] for word in tokens)
        modules = [
            Transformer(str(folder), transformer_task="text-generation"),
            LogitScore(true_token_id=true, false_token_id=false),
        ]
        prompts = {} if prompt is None else {"task": prompt}
        CrossEncoder(
            modules=modules,
            prompts=prompts,
            default_prompt_name=None if prompt is None else "task",
        ).save_pretrained(str(folder), create_model_card=False)
    return folder


def build_chain(
    kind: str, folder: Path, pooling: str, *modules: Any, template: str | None = None
) -> Path:
    """Write a cross-encoder of the body of one of `KINDS` and modules; return the folder.

    Args:
        kind: the body.
        folder: where to.
        pooling: the mode of sentence-transformers' Pooling.
        modules: its modules behind the pooling, which get weights by a seed.
        template: the chat template of the body's tokenizer.
    """
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 - slow, and few need it
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415
    from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: PLC0415

    build(kind, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                scale = 1.5 / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0.3
                weight.add_(torch.randn(weight.shape, generator=generator) * scale)
    body = Transformer(str(folder))
    CrossEncoder(
        modules=[body, Pooling(body.get_embedding_dimension(), pooling), *modules]
    ).save_pretrained(str(folder), create_model_card=False)
    return folder


_LANGUAGE_MODELS = {"gemma": "Gemma", "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def _language_tokenizer() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "yes", "no", "Yes", "1", "0", "<bos>"]
    tokenizer = _byte_bpe("Qwen2Tokenizer", special, model_max_length=512)()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def _spread(model: Any) -> None:
    """Draw weights so that scores depend on the input, around 0 and about 1 apart.

    The default weights give nearly constant scores.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                scale = 0.5 if "embed" in name else 1.2 / weight.shape[-1] ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        ids = torch.randint(10, model.config.vocab_size, (64, 24), generator=generator)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        for weight in model.parameters():
            if weight.shape[0] == 1 and weight.ndim > 1:  # the last layer
                weight.div_(logits.std())
            if weight.shape == (1,):  # its bias
                weight.sub_(logits.mean() / logits.std())


def _wordpiece(cls: str) -> Callable[[], Any]:
    """The vocabulary of BERT, in the tokenizer class of a model family."""

    def make() -> Any:
        path = DATA / "wordpiece" / "tokenizer.json"
        vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        return getattr(transformers, cls)(vocab=vocab, model_max_length=512)

    return make


def _trained(model: Any, trainer: Any, pre_tokenizer: Any, normalizer: Any = None) -> Any:
    """Train a tokenizer on the corpus and return its model as JSON."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return json.loads(tokenizer.to_str())["model"]


def _unigram() -> Any:
    trained = _trained(
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            unk_token="<unk>",
            show_progress=False,
        ),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        normalizers.NFKC(),
    )
    vocab = [(piece, score) for piece, score in trained["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=512)


def _byte_bpe(cls: str, special: list[str], **options: Any) -> Callable[[], Any]:
    """A byte-level BPE in the tokenizer class of a model family."""

    def make() -> Any:
        trained = _trained(
            models.BPE(),
            trainers.BpeTrainer(
                vocab_size=700,
                special_tokens=special,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        )
        merges = [tuple(pair) for pair in trained["merges"]]
        return getattr(transformers, cls)(vocab=trained["vocab"], merges=merges, **options)

    return make


def _modernbert_tokenizer() -> Any:
    """As published: a plain fast tokenizer with `[CLS] query [SEP] document [SEP]`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    byte_bpe = _byte_bpe("Qwen2Tokenizer", special, unk_token="[UNK]")()
    tokenizer = Tokenizer.from_str(byte_bpe.backend_tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(names, special, strict=True)),
    )


def _model(cls: str, **options: Any) -> Callable[[Any], Any]:
    """The model class `…ForSequenceClassification`, at the size of its tokenizer."""

    def make(tokenizer: Any) -> Any:
        model = getattr(transformers, f"{cls}ForSequenceClassification")
        config = model.config_class(
            vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **options
        )
        return model(config).eval()

    return make


_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_ROBERTA = {**_SMALL, "max_position_embeddings": 514, "type_vocab_size": 1}
_DECODER = {**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 1024, "head_dim": 16}
_QWEN = _byte_bpe("Qwen2Tokenizer", ["<|endoftext|>"], model_max_length=512)

KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "bert": (_wordpiece("BertTokenizer"), _model("Bert", **_SMALL)),
    "distilbert": (
        _wordpiece("DistilBertTokenizer"),
        _model("DistilBert", dim=64, n_layers=3, n_heads=4, hidden_dim=128, num_labels=1),
    ),
    "electra": (_wordpiece("ElectraTokenizer"), _model("Electra", embedding_size=32, **_SMALL)),
    "llama": (_QWEN, _model("Llama", **_DECODER)),
    "modernbert": (
        _modernbert_tokenizer,
        _model(
            "ModernBert",
            **_SMALL,
            max_position_embeddings=8192,
            local_attention=16,
            global_attn_every_n_layers=3,
            classifier_pooling="mean",
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
        ),
    ),
    "qwen3": (_QWEN, _model("Qwen3", **_DECODER)),
    "roberta": (
        _byte_bpe("RobertaTokenizer", _ROBERTA_SPECIAL, model_max_length=512),
        _model("Roberta", **_ROBERTA),
    ),
    "xlm-roberta": (_unigram, _model("XLMRoberta", **_ROBERTA)),
}
if importlib.util.find_spec("transformers.models.gte"):  # transformers 5.23 and later
    KINDS["gte"] = (_unigram, _model("Gte", **_SMALL))
    KINDS = dict(sorted(KINDS.items()))

EVERY_KIND = [
    pytest.param(kind, marks=[] if kind in {"bert", "qwen3", "xlm-roberta"} else pytest.mark.slow)
    for kind in KINDS
]
"""All kinds as test parameters; the quick run takes one of each form."""

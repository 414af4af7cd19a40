"""A chain of modules: a body and what follows it, saved by sentence-transformers or PyLate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import ConfigError

__all__ = [
    "MASK",
    "WEIGHTS",
    "ChainOutput",
    "ChainPooling",
    "ListedModule",
    "ModuleChain",
    "Step",
    "is_pylate",
    "list_modules",
    "module_folders",
    "read_chain",
    "read_inline_projection",
]

ChainPooling: TypeAlias = Literal["cls", "lasttoken", "mean", "tokens"]
"""Which rows of the body's last layer become the vector that the head reads; or it reads each."""

ChainOutput: TypeAlias = Literal["scores", "sentence_embedding", "token_embeddings"]
"""What a chain gives: the scores of a pair, or one vector of a text, or one of each token."""

WEIGHTS = "model.safetensors"
"""The file of a module's weights, in its folder."""

_PLAIN = (("Transformer",), ("Transformer", "LogitScore"))
"""Chains whose score comes from the transformer itself."""

_START = ("Transformer", "Pooling")
MASK = "MultiVectorMask"
"""The module that says which tokens of a text are compared; only models of tokens have it."""
_POOLED = ("Dense", "Dropout", "LayerNorm", "Normalize")
"""What may follow a Pooling."""
_TOKENS = ("Dense", "Dropout", MASK, "Normalize")
"""What may follow the body of a model whose tokens are compared."""
_PYLATE = {"pylate.models.Dense.Dense": "sentence_transformers.models.Dense"}
"""The module that PyLate saves → the one of sentence-transformers that does the same."""
_WITHOUT_SETTINGS = ("Dropout", MASK, "Normalize")
"""Modules of which older releases save nothing."""
_VECTOR: Final = "sentence_embedding"
_TOKEN_VECTORS: Final = "token_embeddings"  # noqa: S105 - no password
_SCORES: Final = "scores"
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
"""What `config.json` calls the width of a body."""
_MOST_MODULES = 100
_FOLDER = re.compile(r"[\w-][\w.-]*")
_ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")
_OLD_POOLINGS = "pooling_mode_"
"""How the switches of sentence-transformers before 5 begin, as in `pooling_mode_cls_token`."""
_OLD_NAMES = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}

Read: TypeAlias = Callable[[str], Any]
"""Reads a JSON file of the checkpoint by its path in there; None: there is none."""


@dataclass(frozen=True, slots=True)
class ListedModule:
    """One entry of `modules.json`."""

    kind: str
    """The name of its class, as `"Dense"`."""
    folder: str
    """Where its files are below the model's folder; empty for the folder itself."""

    def __str__(self) -> str:
        return f"{self.folder or self.kind}"


@dataclass(frozen=True, slots=True)
class Step:
    """One module of the head: it reads a vector by its name, and writes one."""

    kind: Literal["Dense", "LayerNorm", "Normalize"]
    folder: str
    """Where its weights are below the model's folder."""
    source: str
    """The name of the vector that it reads; the pooled one is `"sentence_embedding"`."""
    target: str
    """The name of the vector that it writes; the last one is the `output` of the chain."""
    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Identity"
    """The name of a class of `torch.nn`, which needs no arguments."""
    residual: Literal["none", "input", "linear"] = "none"
    """What is added to the output: nothing, the input, or the input through a matrix."""


@dataclass(frozen=True, slots=True)
class ModuleChain:
    """How the states of a body become scores, or vectors of texts."""

    pooling: ChainPooling
    steps: tuple[Step, ...]
    include_prompt: bool
    """Whether the pooling reads the tokens of a prompt before the query."""
    files: tuple[str, ...]
    """The small files that this comes from, by their paths below the model's folder."""
    weights: tuple[Path, ...]
    """The files with the weights of the steps."""
    output: ChainOutput
    """The name of the vector that the chain is for."""
    num_outputs: int
    """How many numbers it has: labels of a pair, or dimensions."""

    @property
    def input(self) -> str:
        """The name of the vector that the first step reads."""
        return _TOKEN_VECTORS if self.pooling == "tokens" else _VECTOR

    @property
    def gives_vectors(self) -> bool:
        """Whether texts are read alone and become vectors."""
        return self.output != _SCORES


def list_modules(model: str, modules: object) -> tuple[ListedModule, ...]:
    """Return the modules that sentence-transformers would run, in order; () if none are listed.

    Args:
        model: what to call the model in messages.
        modules: the array in `modules.json`; None: there is no such file.

    Raises:
        ConfigError: a module is unknown, or its place is; the message names it.
    """
    if modules is None:
        return ()
    entries = [entry for entry in cast("list[Any]", modules) if isinstance(entry, Mapping)]
    if len(entries) > _MOST_MODULES:
        raise ConfigError(
            f"modules.json of {model!r} lists {len(entries)} modules, and no model has more than "
            f"{_MOST_MODULES}; it is damaged"
        )
    types = [_PYLATE.get(str(entry.get("type")), str(entry.get("type"))) for entry in entries]
    listed = tuple(
        ListedModule(kind.rpartition(".")[2], str(entry.get("path", "")))
        for kind, entry in zip(types, entries, strict=True)
    )
    kinds = tuple(module.kind for module in listed)
    compares_tokens = kinds[:1] == _START[:1] and kinds[1:2] != _START[1:] and kinds not in _PLAIN
    if not kinds or (compares_tokens and kinds[1] not in _TOKENS) or kinds[0] != _START[0]:
        raise ConfigError(
            f"{model!r} is a chain of the modules {list(kinds)}, which this package can't run (it "
            "runs sequence classifiers, language models with a LogitScore, a Transformer with "
            "a Pooling and Dense, LayerNorm, Normalize and Dropout, and a Transformer with Dense, "
            f"{MASK} and Normalize, whose tokens are compared)"
        )
    for kind, entry, module in zip(types, entries, listed, strict=True):
        known: tuple[str, ...] = (*_START, *_POOLED)
        if compares_tokens or kinds in _PLAIN:
            known = (_START[0], *(_TOKENS if compares_tokens else ("LogitScore",)))
        if not kind.startswith("sentence_transformers.") or module.kind not in known:
            raise ConfigError(
                f"{model!r} holds the module {entry.get('type')!r} in {module.folder!r}, which "
                "this package can't run; it runs those of sentence-transformers called "
                f"{list(known)}"
            )
    folders = [module.folder for module in listed]
    if folders[0] or not all(_FOLDER.fullmatch(folder) for folder in folders[1:]):
        raise ConfigError(f"modules.json of {model!r} names unexpected folders: {folders}")
    return listed


def module_folders(modules: Sequence[Any] | None) -> list[str]:
    """Return the folders below the model's own that `modules.json` names, whatever they hold.

    Of a list that is longer than any model's, no more than could be one.
    """
    entries = (modules or ())[:_MOST_MODULES]
    places = [str(entry.get("path")) for entry in entries if isinstance(entry, Mapping)]
    return [place for place in dict.fromkeys(places) if _FOLDER.fullmatch(place)]


def read_chain(
    model: str, folder: Path, modules: Sequence[ListedModule], config: Mapping[str, Any], read: Read
) -> ModuleChain | None:
    """Read the modules behind the transformer; None where it gives the score itself.

    Args:
        model: what to call the model in messages.
        folder: where its files are.
        modules: what `modules.json` lists.
        config: the body's `config.json`.
        read: gives another JSON file of the checkpoint.

    Raises:
        ConfigError: a module has settings that this package can't run, or its weights are missing
            or of other shapes; the message names it.
    """
    if tuple(module.kind for module in modules) in ((), *_PLAIN):
        return None
    _check_body(model, config, read("sentence_bert_config.json") or {})
    pooling: ChainPooling = "tokens"
    start: ChainOutput = _TOKEN_VECTORS
    rest = modules[1:]
    settings = [_settings(model, module, read) for module in rest]
    include_prompt = True
    if modules[1].kind == _START[1]:
        pooling, width = _pooling(model, modules[1], settings[0], config)
        include_prompt = settings[0].get("include_prompt", True) is not False
        start, rest, settings = _VECTOR, rest[1:], settings[1:]
    else:
        width = _width(model, config)
    widths: dict[str, int] = {start: width}
    steps: list[Step] = []
    for module, values in zip(rest, settings, strict=True):
        where = f"the module {module} of {model!r}"
        step = _step(where, module, values, start)
        if step is None:
            continue
        if step.source not in widths:
            raise ConfigError(
                f"{where} reads {step.source!r}, and this package has only {sorted(widths)} there"
            )
        if step.kind == "Normalize":
            step = replace(step, inputs=widths[step.source], outputs=widths[step.source])
        if step.inputs != widths[step.source]:
            raise ConfigError(
                f"{where} reads {step.inputs} numbers, and {step.source!r} has "
                f"{widths[step.source]}"
            )
        _check_weights(where, folder / module.folder / WEIGHTS, step)
        widths[step.target] = step.outputs
        steps.append(step)
    if is_pylate(modules, read):
        steps.append(Step("Normalize", "", start, start, widths[start], widths[start]))
    output: ChainOutput = _SCORES if _SCORES in widths else start
    return ModuleChain(
        pooling,
        tuple(steps),
        include_prompt,
        tuple(file for module in modules[1:] if read(file := f"{module.folder}/config.json")),
        tuple(folder / step.folder / WEIGHTS for step in steps if step.kind != "Normalize"),
        output,
        widths[output],
    )


def _width(model: str, config: Mapping[str, Any]) -> int:
    """Return how many numbers the body gives for each token."""
    widths = [config[name] for name in _WIDTHS if type(config.get(name)) is int]
    if not widths:
        raise ConfigError(
            f"config.json of {model!r} sets none of {', '.join(_WIDTHS)}, so the width of the "
            "vectors is unknown"
        )
    return int(widths[0])


def is_pylate(modules: Sequence[ListedModule], read: Read) -> bool:
    """Whether PyLate saved a model of tokens, which lists neither its mask nor its last step.

    Args:
        modules: what `modules.json` lists.
        read: gives another JSON file of the checkpoint.
    """
    kinds = [module.kind for module in modules[1:]]
    native = (read("config_sentence_transformers.json") or {}).get("model_type")
    is_of_tokens = bool(kinds) and kinds[0] in _TOKENS
    return is_of_tokens and MASK not in kinds and native != "MultiVectorEncoder"


def read_inline_projection(model: str, folder: Path, config: Mapping[str, Any]) -> ModuleChain:
    """Return the chain of a checkpoint of Stanford's ColBERT: `linear.weight` beside the body.

    Args:
        model: what to call the model in messages.
        folder: where its files are.
        config: the body's `config.json`.

    Raises:
        ConfigError: the weights lack the projection, or it is of another shape.
    """
    file, width = folder / WEIGHTS, _width(model, config)
    header = read_header(file).tensors if file.exists() else {}
    entry = header.get("linear.weight")
    if entry is None or len(entry.shape) != 2 or entry.shape[1] != width:  # noqa: PLR2004 - a matrix
        found = "no linear.weight" if entry is None else f"a linear.weight of {entry.shape}"
        raise ConfigError(
            f"{model!r} is a ColBERT by its architecture (HF_ColBERT), and its {WEIGHTS} has "
            f"{found}: the projection of its {width} numbers is missing; download it, or save it "
            "again"
        )
    outputs = entry.shape[0]
    steps = (
        Step("Dense", "", _TOKEN_VECTORS, _TOKEN_VECTORS, width, outputs, bias=False),
        Step("Normalize", "", _TOKEN_VECTORS, _TOKEN_VECTORS, outputs, outputs),
    )
    return ModuleChain(
        "tokens",
        steps,
        include_prompt=True,
        files=(),
        weights=(),  # they are among the body's
        output=_TOKEN_VECTORS,
        num_outputs=outputs,
    )


def _check_body(model: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    expected = {
        "transformer_task": ("feature-extraction", None),
        "module_output_name": ("token_embeddings", None),
        "do_lower_case": (False, None),
    }
    for name, allowed in expected.items():
        if settings.get(name) not in allowed:
            raise ConfigError(
                f"the Transformer of {model!r} has {name}={settings[name]!r}, which this package "
                f"can't run before a Pooling; it runs {allowed[0]!r}"
            )
    modalities = settings.get("modality_config") or {}
    for name in ("text", "message"):
        entry = modalities.get(name) or {}
        method, output = entry.get("method", "forward"), entry.get("method_output_name")
        if method != "forward" or output not in ("last_hidden_state", ["last_hidden_state"], None):
            raise ConfigError(
                f"the Transformer of {model!r} gives {method}().{output} of a {name}, which this "
                "package can't run; it runs forward().last_hidden_state"
            )
    names = config.get("architectures") or ()
    if config.get("is_encoder_decoder") or any(str(n).endswith("EncoderModel") for n in names):
        raise ConfigError(
            f"the Transformer of {model!r} is of an encoder-decoder ({list(names)}), which this "
            "package can't run before a Pooling"
        )


def _settings(model: str, module: ListedModule, read: Read) -> Mapping[str, Any]:
    values = read(f"{module.folder}/config.json")
    if values is None and module.kind in _WITHOUT_SETTINGS:
        return {}
    if values is None:
        raise ConfigError(
            f"the module {module} of {model!r} has no config.json; download or save the model again"
        )
    return cast("Mapping[str, Any]", values)


def _pooling(
    model: str, module: ListedModule, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[ChainPooling, int]:
    width = settings.get("embedding_dimension", settings.get("word_embedding_dimension"))
    body = config.get("hidden_size", width)
    if type(width) is not int or width != body:
        raise ConfigError(
            f"the module {module} of {model!r} pools {width} numbers, and the body gives {body}"
        )
    modes = settings.get("pooling_mode")
    if modes is None:
        old = {name.removeprefix(_OLD_POOLINGS) for name, on in settings.items()
               if name.startswith(_OLD_POOLINGS) and on}  # fmt: skip
        modes = sorted(_OLD_NAMES.get(name, name) for name in old) or ["mean"]
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if mode not in ("cls", "lasttoken", "mean"):
        raise ConfigError(
            f"the module {module} of {model!r} has pooling_mode={modes!r}, which this package "
            "can't run; it runs cls, lasttoken and mean"
        )
    return cast("ChainPooling", mode), width


def _dense(folder: str, settings: Mapping[str, Any], start: str) -> Step:
    inputs, outputs = int(settings["in_features"]), int(settings["out_features"])
    source = settings.get("module_input_name") or start
    residual: Literal["none", "input", "linear"] = "none"
    if settings.get("use_residual"):
        residual = "input" if inputs == outputs else "linear"
    return Step(
        "Dense",
        folder,
        source,
        settings.get("module_output_name") or source,
        inputs,
        outputs,
        bool(settings.get("bias", True)),
        _activation(settings.get("activation_function", "torch.nn.Tanh")),
        residual,
    )


def _activation(path: object) -> str:
    match = _ACTIVATION.fullmatch(str(path))
    if match is None:
        raise ValueError(f"has activation_function={path!r}, which is not of torch.nn")
    return match[1]


def _layer_norm(folder: str, settings: Mapping[str, Any], _: str) -> Step:
    width = int(settings["dimension"])
    return Step("LayerNorm", folder, _VECTOR, _VECTOR, width, width)


def _normalize(folder: str, settings: Mapping[str, Any], start: str) -> Step | None:
    source = settings.get("module_input_name") or _VECTOR
    if source == _VECTOR != start:
        return None  # there is none, and sentence-transformers then does nothing
    return Step("Normalize", folder, source, settings.get("module_output_name") or source, 0, 0)


def _nothing(*_: object) -> None:
    """Stand for a module that changes no vector: dropout outside of training, and the mask."""


_READERS: Mapping[str, Callable[[str, Mapping[str, Any], str], Step | None]] = {
    "Dense": _dense,
    "Dropout": _nothing,
    "LayerNorm": _layer_norm,
    MASK: _nothing,
    "Normalize": _normalize,
}


def _step(where: str, module: ListedModule, settings: Mapping[str, Any], start: str) -> Step | None:
    try:
        return _READERS[module.kind](module.folder, settings, start)
    except KeyError as exc:
        raise ConfigError(f"{where} does not set {exc.args[0]!r} in its config.json") from exc
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{where} {exc}, so this package can't run it") from exc


def _check_weights(where: str, file: Path, step: Step) -> None:
    """Check that the file of a step holds what its settings say, and nothing else."""
    if step.kind == "Normalize":
        return
    if not file.exists():
        raise ConfigError(f"{where} has no {WEIGHTS}; download it, or save the model again")
    shapes = {name: entry.shape for name, entry in read_header(file).tensors.items()}
    matrix, vector = (step.outputs, step.inputs), (step.outputs,)
    expected: dict[str, tuple[int, ...]] = {"norm.weight": vector, "norm.bias": vector}
    if step.kind == "Dense":
        expected = {"linear.weight": matrix}
        if step.bias:
            expected["linear.bias"] = vector
        if step.residual == "linear":
            expected["residual.weight"] = matrix
    if shapes != expected:
        raise ConfigError(f"{where} has the weights {shapes}, and its config.json needs {expected}")

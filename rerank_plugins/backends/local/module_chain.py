"""A chain of modules: the body, pooling and head that sentence-transformers saves as one model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import ConfigError

__all__ = [
    "WEIGHTS",
    "ChainPooling",
    "ListedModule",
    "ModuleChain",
    "Step",
    "list_modules",
    "module_folders",
    "read_chain",
]

ChainPooling: TypeAlias = Literal["cls", "lasttoken", "mean"]
"""Which rows of the body's last layer become the vector that the head reads."""

WEIGHTS = "model.safetensors"
"""The file of a module's weights, in its folder."""

_PLAIN = (("Transformer",), ("Transformer", "LogitScore"))
"""Chains whose score comes from the transformer itself."""

_START = ("Transformer", "Pooling")
_VECTOR = "sentence_embedding"
_SCORES = "scores"
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
    """The name of the vector that it writes; the head ends with `"scores"`."""
    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Identity"
    """The name of a class of `torch.nn`, which needs no arguments."""
    residual: Literal["none", "input", "linear"] = "none"
    """What is added to the output: nothing, the input, or the input through a matrix."""


@dataclass(frozen=True, slots=True)
class ModuleChain:
    """How the states of a body become scores."""

    pooling: ChainPooling
    steps: tuple[Step, ...]
    include_prompt: bool
    """Whether the pooling reads the tokens of a prompt before the query."""
    files: tuple[str, ...]
    """The small files that this comes from, by their paths below the model's folder."""
    weights: tuple[Path, ...]
    """The files with the weights of the steps."""

    @property
    def num_labels(self) -> int:
        """How many scores a pair has."""
        return next(step.outputs for step in reversed(self.steps) if step.target == _SCORES)


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
    listed = tuple(
        ListedModule(str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", "")))
        for entry in entries
    )
    kinds = tuple(module.kind for module in listed)
    if kinds not in _PLAIN and kinds[:2] != _START:
        raise ConfigError(
            f"{model!r} is a chain of the modules {list(kinds)}, which this package can't run (it "
            "runs sequence classifiers, language models with a LogitScore, and a Transformer with "
            "a Pooling and a head of Dense, LayerNorm, Normalize and Dropout)"
        )
    for entry, module in zip(entries, listed, strict=True):
        known = (*_START, "LogitScore") if kinds in _PLAIN else (*_START, *_READERS)
        if not str(entry.get("type")).startswith("sentence_transformers.") or (
            module.kind not in known
        ):
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
    """Return the folders below the model's own that `modules.json` names, whatever they hold."""
    places = [str(entry.get("path")) for entry in modules or () if isinstance(entry, Mapping)]
    return [place for place in places if _FOLDER.fullmatch(place)]


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
    if len(modules) < len(_START) or modules[1].kind != _START[1]:
        return None
    _check_body(model, config, read("sentence_bert_config.json") or {})
    settings = [_settings(model, module, read) for module in modules[1:]]
    pooling, width = _pooling(model, modules[1], settings[0], config)
    widths = {_VECTOR: width}
    steps: list[Step] = []
    for module, values in zip(modules[2:], settings[1:], strict=True):
        where = f"the module {module} of {model!r}"
        step = _step(where, module, values)
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
    if _SCORES not in widths:
        raise ConfigError(
            f"no module of {model!r} writes 'scores' (`module_output_name`), so it gives vectors "
            "of texts, and not scores of pairs; choose a reranker (cross-encoder)"
        )
    return ModuleChain(
        pooling,
        tuple(steps),
        settings[0].get("include_prompt", True) is not False,
        tuple(f"{module.folder}/config.json" for module in modules[1:]),
        tuple(folder / step.folder / WEIGHTS for step in steps if step.kind != "Normalize"),
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


def _dense(folder: str, settings: Mapping[str, Any]) -> Step:
    inputs, outputs = int(settings["in_features"]), int(settings["out_features"])
    source = settings.get("module_input_name") or _VECTOR
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


def _layer_norm(folder: str, settings: Mapping[str, Any]) -> Step:
    width = int(settings["dimension"])
    return Step("LayerNorm", folder, _VECTOR, _VECTOR, width, width)


def _normalize(folder: str, settings: Mapping[str, Any]) -> Step:
    source = settings.get("module_input_name") or _VECTOR
    return Step("Normalize", folder, source, settings.get("module_output_name") or source, 0, 0)


def _dropout(*_: object) -> None:
    """Drops nothing outside of training."""


_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Step | None]] = {
    "Dense": _dense,
    "Dropout": _dropout,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


def _step(where: str, module: ListedModule, settings: Mapping[str, Any]) -> Step | None:
    try:
        return _READERS[module.kind](module.folder, settings)
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

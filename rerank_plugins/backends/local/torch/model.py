"""A checkpoint as a torch model: choosing the dtype, loading with transformers."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Collection, Sequence
from typing import Any

import safetensors
import torch
import transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import DType, EngineSettings, UnsupportedByEngine
from rerank_plugins.backends.local.foreign_code import code_repositories
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.quantisation import check_packages
from rerank_plugins.backends.local.torch.chain import ChainModel
from rerank_plugins.backends.local.torch.config_object import config_object
from rerank_plugins.backends.local.torch.encoder_decoder import EncoderDecoderModel
from rerank_plugins.backends.local.torch.foreign_class import foreign_class
from rerank_plugins.backends.local.torch.heads import keep_answer_rows, upcast_head
from rerank_plugins.backends.local.torch.quantise import QUANTISED, quantise_weights
from rerank_plugins.backends.local.torch.quiet import quiet
from rerank_plugins.errors import BackendError, ConfigError, MissingDependencyError

__all__ = ["choose_dtype", "limit_memory", "load_model"]

_LISTED = 4
"""Most names of weights in a message."""


def choose_dtype(dtype: DType, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """Return the dtype of weights and activations on this device.

    `"auto"` is float32 off CUDA, and so is what computes beside weights in 8 or 4 bits. On CUDA it
    is float16, as fast as bfloat16 and eight times as precise, except for language models and
    checkpoints saved in bfloat16, whose values may be too large.

    Raises:
        UnsupportedByEngine: torch or the device lacks it.
    """
    if dtype == "tf32" and device.type != "cuda":
        raise UnsupportedByEngine(f"the torch engine has no dtype {dtype!r} on {device.type!r}")
    if dtype in ("auto", *QUANTISED) and device.type == "cuda":
        saved = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
        if saved != "bfloat16" and not checkpoint.is_decoder:
            return torch.float16
        return torch.bfloat16 if _has_bfloat16() else torch.float32
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, torch.float32)


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def limit_memory(device: torch.device, fraction: float) -> None:
    """Limit this process to a fraction of a GPU's memory.

    Raises:
        UnsupportedByEngine: the device is not a CUDA GPU.
    """
    if device.type != "cuda":
        raise UnsupportedByEngine(
            f"`gpu_memory_fraction` is for CUDA GPUs, and the model runs on {str(device)!r}"
        )
    number = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(fraction, number)


def load_model(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    settings: EngineSettings,
    answers: Sequence[int] = (),
) -> Any:
    """Load the model onto the device in evaluation mode, with its head in float32.

    Args:
        checkpoint: the files.
        device: where the model runs.
        dtype: of its weights and activations.
        settings: what may be loaded.
        answers: the tokens whose logits make the score of a language model: one or two.

    Raises:
        ConfigError: transformers can't load it, or its files lack weights.
        MissingDependencyError: its weights are quantised, and what reads them is not installed.
        BackendError: it does not fit onto the device.
    """
    kind: Any = transformers.AutoModelForSequenceClassification
    if checkpoint.chain is not None:
        kind = transformers.AutoModel
    elif checkpoint.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    elif answers:
        kind = transformers.AutoModelForCausalLM
    config = None if checkpoint.is_native else config_object(checkpoint.config)
    placed = _placed(checkpoint, device, settings)
    try:
        if checkpoint.code:
            config_class = foreign_class(checkpoint, "AutoConfig") or transformers.AutoConfig
            config = config_class.from_pretrained(checkpoint.folder, local_files_only=True)
            kind = foreign_class(checkpoint, kind.__name__) or kind
        with quiet(warnings=checkpoint.chain is None):  # a body needs no pooler
            model, report = kind.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                trust_remote_code=settings.trust_remote_code,
                use_safetensors=checkpoint.weights[0].suffix == ".safetensors",
                **placed,
            )
    except (
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
        safetensors.SafetensorError,
    ) as exc:
        raise _cannot_load(checkpoint, settings, exc) from exc
    _check_whole(checkpoint, report["missing_keys"])
    if settings.dtype in QUANTISED:
        quantise_weights(model, settings.dtype, device)  # type: ignore[arg-type]  # as just seen
    model.config.get_text_config().use_cache = False
    if answers:
        keep_answer_rows(model, answers)
    if checkpoint.chain is not None:
        model = ChainModel(model, checkpoint.chain, checkpoint.folder)
    upcast_head(model)
    if checkpoint.is_encoder_decoder:
        model = EncoderDecoderModel(model)
    try:
        return model.eval() if placed else model.eval().to(device)
    except (RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc):
            raise BackendError(
                f"the model {checkpoint.model!r} does not fit onto {device}; choose a smaller one, "
                'dtype="float16" or "int8", or device="cpu"'
            ) from exc
        raise


def _placed(
    checkpoint: Checkpoint, device: torch.device, settings: EngineSettings
) -> dict[str, Any]:
    """Return how transformers loads weights that are saved in few bits: onto the device at once.

    Raises:
        ConfigError: transformers knows no such method, and would read them as they stand; or they
            can't be rounded once more.
        MissingDependencyError: what reads them is not installed.
    """
    quantisation = checkpoint.quantisation
    if quantisation is None:
        return {}
    if settings.dtype in QUANTISED:
        raise UnsupportedByEngine(
            f"the weights of {checkpoint.model!r} are quantised already ({quantisation}); leave "
            f"out dtype={settings.dtype!r}"
        )
    known = {
        name.partition("_")[0] if name.startswith("bitsandbytes") else name
        for name in AUTO_QUANTIZATION_CONFIG_MAPPING
    }
    if quantisation.method not in known:
        raise ConfigError(
            f"the weights of {checkpoint.model!r} are quantised by {quantisation.method!r}, and "
            f"transformers {transformers.__version__} reads only {', '.join(sorted(known))}; take "
            " the model in float32, float16 or bfloat16"
        )
    check_packages(checkpoint.model, quantisation)
    if quantisation.method == "bitsandbytes":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast)
    return {"device_map": {"": device}} if importlib.util.find_spec("accelerate") else {}


def _cannot_load(
    checkpoint: Checkpoint, settings: EngineSettings, exc: Exception
) -> ConfigError | MissingDependencyError:
    """Return what to tell where transformers raised."""
    if checkpoint.config.get("auto_map") and not settings.trust_remote_code:
        others = code_repositories(checkpoint.config)
        where = f" in {', '.join(others)}" if others else ""
        pins = "".join(f", and code_revisions='{name}@COMMIT'" for name in others[:1])
        return ConfigError(
            f"{checkpoint.model!r} brings Python code of its own{where}, and transformers "
            f"{transformers.__version__} can't load it without; if you have read that code and "
            f"trust it, pass `trust_remote_code=True`{pins} (a hub model also needs its commit "
            "as `revision`)"
        )
    if checkpoint.quantisation is not None and isinstance(exc, ImportError):
        return MissingDependencyError(
            f"the weights of {checkpoint.model!r} are quantised ({checkpoint.quantisation}), and "
            f"what reads them is not installed: {reason_of(exc)}"
        )
    return ConfigError(
        f"transformers {transformers.__version__} can't load {checkpoint.model!r}: {reason_of(exc)}"
    )


def _check_whole(checkpoint: Checkpoint, missing: Collection[str]) -> None:
    """Refuse a model some of whose weights were not in its files."""
    unused = "pooler." if checkpoint.chain is not None else None
    lacking = sorted(key for key in missing if not (unused and key.startswith(unused)))
    if not lacking:
        return
    more = f" and {len(lacking) - _LISTED} more" if len(lacking) > _LISTED else ""
    what = f"{checkpoint.model!r} lacks the weights {lacking[:_LISTED]}{more}"
    if checkpoint.quantisation is not None:
        raise ConfigError(
            f"{what}: they are quantised ({checkpoint.quantisation}) in a way that transformers "
            f"{transformers.__version__} does not read; take the model in float32, float16 or "
            "bfloat16"
        )
    raise ConfigError(
        f"{what}, which would be random and give meaningless scores; choose a trained reranker"
    )


def _is_no_cast(record: logging.LogRecord) -> bool:
    """Whether a record is none of bitsandbytes' about float32, of which there is one per layer."""
    return "inputs will be cast" not in record.msg

"""An encoder-decoder that answers with a word, as a model that the forward passes run."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from rerank_plugins.backends.local.torch.heads import upcast_inputs
from rerank_plugins.errors import ConfigError

__all__ = ["EncoderDecoderModel"]

_HALF = (torch.float16, torch.bfloat16)


class EncoderDecoderModel(torch.nn.Module):
    """Encodes a prompt, and decodes one step, whose logits are those of the answer tokens.

    The head computes in float32.

    Args:
        whole: transformers' `ForConditionalGeneration`, whose head has the answers' rows only.

    Raises:
        ConfigError: its files name no token with which an answer starts.
    """

    base_model_prefix = "decoder"

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole
        self.config = whole.config
        start = whole.config.decoder_start_token_id
        if start is None:
            start = whole.generation_config.decoder_start_token_id
        if not isinstance(start, int):
            raise ConfigError(
                f"the files of this {type(whole).__name__} name no decoder_start_token_id"
            )
        self._start = start
        head = whole.get_output_embeddings()
        if next(whole.decoder.parameters()).dtype in _HALF and isinstance(head, torch.nn.Linear):
            head.float().register_forward_pre_hook(upcast_inputs, with_kwargs=True)

    @property
    def decoder(self) -> Any:
        """What gives the state that the head reads."""
        return self.whole.decoder

    @property
    def device(self) -> torch.device:
        device: torch.device = self.whole.device
        return device

    def set_attn_implementation(self, name: str) -> None:
        """Set the attention function, as models of transformers do."""
        self.whole.set_attn_implementation(name)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return `logits`, [n, 1, answers], of ids, [n, tokens], that are padded on the right."""
        start = input_ids.new_full((len(input_ids), 1), self._start)
        output = self.whole(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=start,
            use_cache=False,
        )
        return SequenceClassifierOutput(logits=output.logits)

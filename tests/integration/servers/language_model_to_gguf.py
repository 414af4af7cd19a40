"""Write a Qwen3 language model as a GGUF file: `python language_model_to_gguf.py FOLDER OUT.gguf`.

Runs in llama.cpp's environment. It reads what `build_language_model` of the tests writes.
"""

import json
import sys
from pathlib import Path

import gguf
from gguf_file import finish

TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.v_proj": "attn_v",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of chat models: the one of the checkpoint is for rerankers."""


def renamed(name: str) -> str:
    """Return llama.cpp's name for a weight of transformers' `Qwen3ForCausalLM`."""
    module, kind = name.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, number, part = module.split(".", 3)
    return f"blk.{number}.{LAYER[part]}.{kind}"


def token_type(added: dict[str, object] | None) -> gguf.TokenType:
    """Return how llama.cpp treats a token: it writes no control token into its responses."""
    if added is None:
        return gguf.TokenType.NORMAL
    is_control = str(added["content"]).startswith("<")
    return gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED


def write(folder: Path, out: Path) -> None:
    """Convert the checkpoint in `folder`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    ids = tokenizer["model"]["vocab"] | {name: token["id"] for name, token in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    heads = config["num_attention_heads"]
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([token_type(added.get(token)) for token in tokens])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)
    finish(writer, folder, renamed)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))

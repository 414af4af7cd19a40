"""Write a BERT cross-encoder as a GGUF file: `python to_gguf.py FOLDER OUT.gguf`.

Runs in llama.cpp's environment. llama.cpp's own converter drops the pooler of a sequence
classifier, and then the scores are wrong; here the pooler is kept, as `cls`. The server gives
every token the type 0, so its scores can match only if both rows of the type embedding are equal.
"""

import json
import sys
from pathlib import Path

import gguf
from gguf_file import finish

TOP = {
    "bert.embeddings.LayerNorm": "token_embd_norm",
    "bert.embeddings.position_embeddings": "position_embd",
    "bert.embeddings.token_type_embeddings": "token_types",
    "bert.embeddings.word_embeddings": "token_embd",
    "bert.pooler.dense": "cls",
    "classifier": "cls.output",
}
LAYER = {
    "attention.output.LayerNorm": "attn_output_norm",
    "attention.output.dense": "attn_output",
    "attention.self.key": "attn_k",
    "attention.self.query": "attn_q",
    "attention.self.value": "attn_v",
    "intermediate.dense": "ffn_up",
    "output.LayerNorm": "layer_output_norm",
    "output.dense": "ffn_down",
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary(folder: Path) -> list[str]:
    """Return the tokens in the order of their ids."""
    vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__)


def spelled(token: str) -> str:
    """Return a WordPiece token as llama.cpp spells it: a word begins with U+2581."""
    if token in SPECIAL:
        return token
    return token.removeprefix("##") if token.startswith("##") else "\u2581" + token


def renamed(name: str) -> str:
    """Return llama.cpp's name for a weight of transformers' `BertForSequenceClassification`."""
    module, kind = name.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, _, number, part = module.split(".", 4)
    return f"blk.{number}.{LAYER[part]}.{kind}"


def write(folder: Path, out: Path) -> None:
    """Convert the checkpoint in `folder`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = vocabulary(folder)
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spelled(token) for token in tokens])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=True)
    writer.add_add_sep_token(value=False)  # the server would add a second one between the texts
    finish(writer, folder, renamed)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))

"""Models of a few thousand weights for tests: real transformers folders and files whose answers can be worked out.

The layers add nothing to the residual stream and the embeddings are one-hot, so the next token depends on the last one
alone: `transitions` is the whole model.
"""

from __future__ import annotations

from math import log
from pathlib import Path

import torch

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SEVEN_TO_THREE = {ASSISTANT: {"4": 0.7, "5": 0.3}, "4": {END: 1.0}, "5": {END: 1.0}}
# Lines of a letter, some with a digit; a blank line is one token here, and so is a byte.
LINES = {
    ASSISTANT: {"a": 0.5, "4": 0.3, "5": 0.2},
    "a": {"a": 0.5, "Ċ": 0.3, "4": 0.2},
    "4": {"Ċ": 0.6, END: 0.4},
    "5": {"Ċ": 0.5, END: 0.5},
    "Ċ": {"a": 0.6, "4": 0.3, "Ċ": 0.1},
}
WORDLESS = {ASSISTANT: {"a": 1.0}, "a": {END: 1.0}}
BRIEF_OR_ENDLESS = {ASSISTANT: {"4": 0.6, "a": 0.4}, "4": {END: 1.0}, "a": {"a": 1.0}}


def bigram_tokenizer():
    """Byte-level with SmolLM's splitting of digits: a token for every byte, one of two blanks, three special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, "ĠĠ"])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "Ġ")]))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([USER, ASSISTANT, END])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def bigram_model(tokenizer, transitions=SEVEN_TO_THREE, context=512):
    """A llama that goes from token to token with the given probabilities; everything else is e^-40 as likely."""
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab = len(tokenizer)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=vocab + vocab % 2, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=16, max_position_embeddings=context, rms_norm_eps=1e-6,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    loudness = config.hidden_size**0.5  # a one-hot vector after the norm
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab, config.hidden_size))
        model.lm_head.weight.fill_(-40 / loudness)
        for source, targets in transitions.items():
            for target, p in targets.items():
                i, j = tokenizer.convert_tokens_to_ids([source, target])
                model.lm_head.weight[j, i] = log(p) / loudness
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval()


def save_folder(folder: Path, transitions=SEVEN_TO_THREE, context=512) -> Path:
    """A folder of safetensors, configuration and tokenizer."""
    tokenizer = bigram_tokenizer()
    bigram_model(tokenizer, transitions, context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gguf(path: Path, transitions=SEVEN_TO_THREE, stored="F32") -> Path:
    """The same model as a GGUF, its matrices stored so: F32, BF16 or F16."""
    import gguf

    tokenizer = bigram_tokenizer()
    model = bigram_model(tokenizer, transitions)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = [gguf.TokenType.CONTROL if token in (USER, ASSISTANT, END) else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_list(tokens)
    writer.add_token_types(special)
    writer.add_token_merges(["Ġ Ġ"] * 2)  # a list of one is read as a text by transformers 5.0
    writer.add_bos_token_id(tokenizer.eos_token_id)  # transformers 5.0 asks for one
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem in outer:
            target = outer[stem]
        else:
            _, _, number, inner = stem.split(".", 3)
            target = f"blk.{number}.{names[inner]}"
        kind = gguf.GGMLQuantizationType[stored if weight.dim() > 1 else "F32"]
        writer.add_tensor(f"{target}.weight", gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""Tiny random models of many architectures: two to six layers, 32 wide, made from the configs of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.mamba import modeling_mamba

VOCAB = 101
WIDTH = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**WIDTH, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXED = {"num_hidden_layers": 4, "sliding_window": 12}
MIXED_TYPES = {"layer_types": ["sliding_attention", "full_attention"] * 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048, "n_inner": 48,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip

# Architectures that can share a prefix: transformers' model type -> config. A number behind "-" is a second config.
SHARE: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**HEADS, "sliding_window": 12},
    "ministral": {**HEADS, **MIXED, **MIXED_TYPES},
    "qwen2": GROUPED,
    "qwen2-2": {**GROUPED, **MIXED, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": HEADS,
    "qwen3_moe": {**HEADS, **EXPERTS, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "mixtral": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "gemma": HEADS,
    "gemma2": {**HEADS, **MIXED, **MIXED_TYPES, "query_pre_attn_scalar": 8},
    "gemma3_text": {**HEADS, **MIXED, "num_hidden_layers": 6, "query_pre_attn_scalar": 8},
    "gemma4_text": {
        **HEADS,
        **MIXED,
        **MIXED_TYPES,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 0,
    },
    "gemma4_text-2": {
        **HEADS,
        **MIXED,
        **MIXED_TYPES,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 2,
    },
    "phi": GROUPED,
    "phi3": {**GROUPED, "sliding_window": None},
    "gpt2": GPT2,
    "gpt_neox": {**WIDTH, "rotary_pct": 0.5},
    "gpt_bigcode": GPT2,
    "opt": {**WIDTH, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": GROUPED,
    "olmo3": {**GROUPED, **MIXED, **MIXED_TYPES},
    "granite": {**GROUPED, "attention_multiplier": 0.3},
    "granitemoe": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.3},
    "cohere": GROUPED,
    "cohere2": {**GROUPED, **MIXED, **MIXED_TYPES, "head_dim": 8},
    "starcoder2": {**GROUPED, "sliding_window": 12},
    "stablelm": GROUPED,
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0]},
    "glm": HEADS,
    "glm4": HEADS,
    "exaone4": {**HEADS, **MIXED, **MIXED_TYPES},
    "nemotron": HEADS,
    "helium": HEADS,
    "gpt_oss": {**HEADS, **MIXED, **MIXED_TYPES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": GROUPED,
    "olmoe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "persimmon": WIDTH,
    "seed_oss": HEADS,
    "arcee": GROUPED,
    "ernie4_5": GROUPED,
}
INTERFACE, ATTENTION = "attention interface", "attention"
# Architectures that cannot, in some releases at least: what the sentence of `why_not` must name.
FALL_BACK: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek_v3": ({**GROUPED, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
                     "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1,
                     "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, **EXPERTS},
                    ATTENTION),
    "llama4_text": ({**HEADS, "attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48,
                     "interleave_moe_layer_step": 2, "num_hidden_layers": 4}, "chunks"),
    "bloom": ({"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}, INTERFACE),
    "mpt": ({"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 2048}, INTERFACE),
    "gptj": ({**GPT2, "rotary_dim": 4}, INTERFACE),
    "codegen": ({**GPT2, "rotary_dim": 4}, INTERFACE),
    "xglm": ({"vocab_size": VOCAB, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
              "max_position_embeddings": 2048}, INTERFACE),
    "mamba": ({"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
              "LinearAttentionLayer"),
    "falcon_h1": ({**HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
                   "mamba_chunk_size": 8}, "LinearAttention"),
    "qwen3_next": ({**HEADS, "num_hidden_layers": 4, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 4,
                    "shared_expert_intermediate_size": 16, **EXPERTS}, "LinearAttentionLayer"),
}  # fmt: skip


# These came to transformers' attention interface after 5.0.
LATE = {"nemotron", "persimmon", "stablelm"}


# In older releases of transformers their states lie in a cache whose rows cannot be chosen: no copy can be made.
OWN_CACHES = {"mamba"} if hasattr(modeling_mamba, "MambaCache") else set()


def sharing(name: str, *args: Any, **changes: Any) -> Any:
    """`tiny`, of an architecture that shares a prefix; skips where this release does not let it yet."""
    from fastsample.engines.local.selection import why_not

    model = tiny(name, *args, **changes)
    if name in LATE and INTERFACE in (why_not(model) or ""):
        pytest.skip(f"transformers {transformers.__version__} has {name} not in its attention interface yet")
    return model


def tiny(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A random model in eval mode. Its weights are larger than the usual, so that its logits depend on its cache."""
    if name.split("-")[0] not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    settings = SHARE[name] if name in SHARE else FALL_BACK[name][0]
    config = AutoConfig.for_model(name.split("-")[0], **{**settings, "initializer_range": 0.3, **changes})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

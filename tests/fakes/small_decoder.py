"""The shape of a decoder that is computed in no time, for tests of what computes it."""

from headway_engine.model.config import ModelConfig

SHAPE = ModelConfig(
    architecture="llama",
    vocab_size=96,
    hidden_size=64,
    intermediate_size=112,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    max_position_embeddings=64,
    rope_scaling=None,
    attention_bias=False,
    qk_norm=False,
    tie_word_embeddings=True,
    eos_token_ids=(),
)

"""A step model for a model shape on a GPU type: bytes over bandwidth, FLOPs over compute, all-reduces, overhead.

Shares of the nominal figures are fitted by hand to vLLM 0.24 measurements of an 8B Llama on one H100 and one H200; A100's
rest on kernel tables of ai-dynamo/aiconfigurator (Apache-2.0), L40S's are assumed. `Gpu.source` says which.
"""

from dataclasses import dataclass

from headway_planner.steps import StepModel

HOST_MS = 0.2  # of a step
LAYER_MS = 0.02  # launches and small kernels of a layer
SEQUENCE_MS = 0.25e-3  # a layer's cost of one more token in a memory-bound step, one GPU
FIRST_TOKEN_MS = 4.5  # server time of a first token beside the steps
RESERVE_BYTES = 3e9  # of a GPU, beside weights and KV
PREFILL_ATTENTION_SHARE = 0.6  # of the nominal FLOP/s
NVLINK_LATENCY_MS = 10e-3  # of one all-reduce
PCIE_SPEED, PCIE_LATENCY_MS = 25e9, 20e-3  # bytes a second, milliseconds of one all-reduce; assumed


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder in bf16; the fields are those of a config.json."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool

    @property
    def read_weights(self) -> float:
        """Weights that each step multiplies: layers and head."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn) + self.hidden * self.vocab

    @property
    def weight_bytes(self) -> float:
        """Memory of all weights."""
        return 2 * (self.read_weights + (0 if self.tied else self.hidden * self.vocab))

    @property
    def kv_bytes(self) -> int:
        """KV cache of one token."""
        return 4 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Gpu:
    """Nominal figures (bytes, bytes/s, FLOP/s), shares of them that are reached, NVLink's effective bytes/s (0: none)."""

    name: str
    memory: float
    bandwidth: float
    flops: float
    weight_share: float
    kv_share: float
    flops_share: float
    nvlink: float
    source: str


SHAPES = {
    one.name: one
    for one in (
        Shape("smol135m", 576, 30, 9, 3, 64, 1536, 49152, True),
        Shape("qwen06b", 1024, 28, 16, 8, 128, 3072, 151936, True),
        Shape("llama8b", 4096, 32, 32, 8, 128, 14336, 128256, False),
        Shape("llama13b", 5120, 40, 40, 40, 128, 13824, 32000, False),
        Shape("qwen32b", 5120, 64, 64, 8, 128, 25600, 151936, False),
        Shape("llama70b", 8192, 80, 64, 8, 128, 28672, 128256, False),
    )
}
_MEASURED = "fit to vLLM 0.24, llama8b, one GPU"
GPUS = {
    one.name: one
    for one in (
        Gpu("H100", 80e9, 3.35e12, 989e12, 0.78, 0.80, 0.66, 300e9, _MEASURED),
        Gpu("H200", 141e9, 4.8e12, 989e12, 0.78, 0.56, 0.68, 300e9, _MEASURED),
        Gpu(
            "A100",
            80e9,
            2.039e12,
            312e12,
            0.75,
            0.75,
            0.75,
            200e9,
            "near the kernel tables of aiconfigurator, vLLM 0.14",
        ),
        Gpu("L40S", 48e9, 0.864e12, 362e12, 0.75, 0.75, 0.65, 0.0, "data sheet, shares assumed"),
    )
}


def link(gpu: Gpu, interconnect: str) -> str:
    """What GPUs of this type talk over: what was asked for, or PCIe where there is no NVLink."""
    return interconnect if gpu.nvlink else "pcie"


def all_reduce_ms(gpu: Gpu, tp: int, interconnect: str, size: float) -> float:
    """One all-reduce of `size` bytes over `tp` GPUs: latency, and the volume of a ring."""
    fast = link(gpu, interconnect) == "nvlink"
    speed, latency = (gpu.nvlink, NVLINK_LATENCY_MS) if fast else (PCIE_SPEED, PCIE_LATENCY_MS)
    return latency + 1000 * size * 2 * (tp - 1) / tp / speed


def reduce_ms(shape: Shape, gpu: Gpu, tp: int, interconnect: str) -> tuple[float, float]:
    """All-reduces of one step, two a layer: constant, and per token of the step."""
    if tp == 1:
        return 0.0, 0.0
    constant = all_reduce_ms(gpu, tp, interconnect, 0)
    token = all_reduce_ms(gpu, tp, interconnect, 2 * shape.hidden) - constant
    return 2 * shape.layers * constant, 2 * shape.layers * token


def step_model(shape: Shape, gpu: Gpu, tp: int, interconnect: str) -> StepModel:
    """Coefficients of one engine. `kv_tokens` is 0 when the weights do not fit."""
    constant, per_token = reduce_ms(shape, gpu, tp, interconnect)
    free = tp * (0.9 * gpu.memory - RESERVE_BYTES) - shape.weight_bytes
    return StepModel(
        name=f"{gpu.name.lower()}-{shape.name}-tp{tp}",
        gpus=tp,
        host_ms=HOST_MS + LAYER_MS * shape.layers + constant,
        a1_ms=2000 * shape.read_weights / tp / (gpu.bandwidth * gpu.weight_share),
        b1_ms=SEQUENCE_MS * shape.layers / tp + per_token,
        a2_ms=0.0,
        b2_ms=2000 * shape.read_weights / tp / (gpu.flops * gpu.flops_share) + per_token,
        att_pf_ms=2000 * shape.heads * shape.head_dim * shape.layers / tp / (gpu.flops * PREFILL_ATTENTION_SHARE),
        att_dec0_ms=0.0,
        att_dec_seq_ms=0.0,
        att_dec_ctx_ms=1000 * shape.kv_bytes / tp / (gpu.bandwidth * gpu.kv_share),
        kv_tokens=max(0, int(free / shape.kv_bytes)),
        first_token_ms=FIRST_TOKEN_MS,
    )

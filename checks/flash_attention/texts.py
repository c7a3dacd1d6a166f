"""Messages and kernel names of the FlashAttention packages, wherever they are read."""

from __future__ import annotations

from fp8doctor.checks.flash_attention.faults import TORCH_SYMBOL, rebuild
from fp8doctor.model import ErrorText, Kernel

# Raised by the packages themselves; the files are named in the rules' sources.
ERROR_TEXTS = (
    ErrorText(
        r"flash_attn\S*\.so: " + TORCH_SYMBOL + r"|\bflash_attn(_2)?_cuda:? undefined symbol",
        "FA001",
        "Build FlashAttention for this torch, or remove it: torch's own attention does without.",
        rebuild(2),
    ),
    ErrorText(
        r"FlashAttention only supports Ampere GPUs or newer",
        "FA007",
        "Use torch.nn.functional.scaled_dot_product_attention on this GPU; on one that is newer than Ampere an old"
        " FlashAttention says this as well, and an update helps.",  # Dao-AILab/flash-attention#1540
    ),
    # csrc/flash_attn/flash_api.cpp; transformers' tests quote it for models that are in FP32.
    ErrorText(
        r"FlashAttention only supports? fp16 and bf16 data type",
        "FA007",
        "Give it queries, keys and values in bfloat16 (torch.autocast, or the model in bfloat16): FP8 is for the linear"
        " layers.",
    ),
    ErrorText(
        r"FlashAttention (forward|backward) only supports head dimension at most \d+",
        "FA007",
        "Use torch.nn.functional.scaled_dot_product_attention for this head dimension.",
    ),
    ErrorText(
        r"is not supported on SM100/SM110\. head_dim and head_dim_v must be between 8 and 128",
        "FA007",
        "Use torch.nn.functional.scaled_dot_product_attention for this head dimension.",
    ),
    # What hopper/ was built for is in neither a GPU of another generation nor a build without it
    # (facebookresearch/xformers#1329, Dao-AILab/flash-attention#1481 and #2593).
    ErrorText(
        r"CUDA error \(\S*hopper[/\\]flash_(fwd|bwd)_launch_template\.h:\d+\): no kernel image is available"
        r"|FlashAttention(Hopper)? only supports Hopper GPUs or newer|flash_attn\.hopper only supports Hopper GPUs",
        "FA002",
        "FlashAttention 3 does not run on this GPU: take FlashAttention 2, or torch's scaled_dot_product_attention.",
    ),
    ErrorText(
        r"CUDA error \(\S*flash[-_]attn?\S*[/\\]csrc[/\\]\S*:\d+\): no kernel image is available",
        "FA004",
        "Build FlashAttention for this GPU, or use torch's scaled_dot_product_attention.",
        rebuild(2),
    ),
    ErrorText(
        r"This flash attention build does not support (?!FP8)",
        "FA007",
        "Build FlashAttention 3 again without the FLASH_ATTENTION_DISABLE_... variable of that feature.",
        rebuild(3),
    ),
    ErrorText(
        r"No module named '(flash_attn_interface|flash_attn_3|flashattn_hopper_cuda)\b",
        "FA003",
        "Import FlashAttention 3 by the name that is there, or install it from the folder hopper of its repository.",
        "python -c \"import importlib.util as u; print([n for n in ('flash_attn_interface', 'flash_attn_3')"
        ' if u.find_spec(n)])"',
        title="FlashAttention 3 is asked for by a module name that is not there",
    ),
    ErrorText(
        r"FlashAttention-3 is only supported on CUDA 12\.3 and above",
        "FA007",
        "Build it with a CUDA toolkit of 12.3 or later.",
    ),
    ErrorText(
        r"This flash attention build does not support FP8",
        "FA008",
        "Build FlashAttention 3 again without FLASH_ATTENTION_DISABLE_FP8, or keep attention in BF16.",
        rebuild(3),
    ),
    ErrorText(
        r"FP8 is only supported on SM100 \(compute capability 10\.x\) for FA4 CuTe",
        "FA008",
        "Keep attention in BF16 on this GPU.",
    ),
    ErrorText(
        r"FA4 CuTe FP8 backward is not supported yet|FA3 backward does not support fp8",
        "FA008",
        "Train with attention in BF16: FP8 attention of FlashAttention is forward only.",
        title="FlashAttention has no backward pass in FP8",
    ),
    ErrorText(
        r"Low-precision flash attention SDPA requires FA3",
        "FA008",
        "Keep attention in BF16: torch's FP8 attention is FlashAttention 3's, which is for Hopper.",
        title="torch's FP8 attention was asked for without FlashAttention 3",
    ),
)

# FlashAttention 2: names in its extension of 2.8.3; 3: public traces and hopper/flash_*_launch_template.h; 4: traces.
KERNELS = (
    Kernel(r"(?<!pytorch_)flash::flash_(fwd|bwd)", "attention"),
    Kernel(r"flash::enable_sm90(_or_later)?<flash::FlashAttn(Fwd|Bwd)Sm90", "attention"),
    Kernel(r"FlashAttentionForwardSm(80|90|100|120)", "attention"),
)

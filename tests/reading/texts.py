"""Reports as the tools write them, made up from the description of their formats: no real box stands behind them."""

from __future__ import annotations


def collect_env(
    *,
    torch: str = "2.6.0+cu124",
    cuda: str = "12.4",
    rocm: str = "N/A",
    available: str = "True",
    gpus: str = " GPU 0: NVIDIA GeForce RTX 4090",
    driver: str = "550.54.14",
    platform: str = "Linux-6.8.0-45-generic-x86_64-with-glibc2.35",
    os: str = "Ubuntu 22.04.5 LTS (x86_64)",
    pip: tuple[str, ...] = ("numpy==1.26.4", "torch==2.6.0", "triton==3.2.0"),
) -> str:
    """`python -m torch.utils.collect_env`."""
    packages = "\n".join(f"[pip3] {package}" for package in pip)
    return f"""Collecting environment information...
PyTorch version: {torch}
Is debug build: False
CUDA used to build PyTorch: {cuda}
ROCM used to build PyTorch: {rocm}

OS: {os}
GCC version: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0
Clang version: Could not collect
CMake version: version 3.31.4
Libc version: glibc-2.35

Python version: 3.11.9 (main, Apr 19 2024, 16:48:06) [GCC 11.2.0] (64-bit runtime)
Python platform: {platform}
Is CUDA available: {available}
CUDA runtime version: Could not collect
CUDA_MODULE_LOADING set to: LAZY
GPU models and configuration:{gpus}
Nvidia driver version: {driver}
cuDNN version: Could not collect
HIP runtime version: N/A
MIOpen runtime version: N/A
Is XNNPACK available: True

CPU:
Architecture:                    x86_64
CPU op-mode(s):                  32-bit, 64-bit
CPU(s):                          32
Vendor ID:                       GenuineIntel
Model name:                      Some CPU @ 2.00GHz
Flags:                           fpu vme de pse {"avx512_bf16 " * 200}

Versions of relevant libraries:
{packages}
[conda] Could not collect
"""


VLLM_TAIL = """ROCM Version: Could not collect
Neuron SDK Version: N/A
vLLM Version: 0.7.3
vLLM Build Flags:
CUDA Archs: Not Set; ROCm: Disabled; Neuron: Disabled
GPU Topology:
GPU0    GPU1    CPU Affinity    NUMA Affinity   GPU NUMA ID
GPU0     X      NODE    0-15    0               N/A
GPU1    NODE     X      0-15    0               N/A

Legend:

  X    = Self

LD_LIBRARY_PATH=/opt/python/lib
NCCL_P2P_DISABLE=1
VLLM_SOMETHING_ELSE=1
CUDA_VISIBLE_DEVICES=0
"""

SECTIONED = """==============================
        System Info
==============================
OS                           : Ubuntu 24.04 LTS (x86_64)

==============================
       PyTorch Info
==============================
PyTorch version              : 2.8.0+cu128
Is debug build               : False
CUDA used to build PyTorch   : 12.8
ROCM used to build PyTorch   : N/A

==============================
      Python Environment
==============================
Python version               : 3.12.3 (main, Feb  4 2025, 14:48:35) [GCC 13.3.0] (64-bit runtime)
Python platform              : Linux-6.8.0-60-generic-x86_64-with-glibc2.39

==============================
       CUDA / GPU Info
==============================
Is CUDA available            : True
CUDA runtime version         : 12.8.93
GPU models and configuration :
GPU 0: NVIDIA B200
GPU 1: NVIDIA B200

Nvidia driver version        : 575.57.08
cuDNN version                : Could not collect

==============================
          CPU Info
==============================
Architecture:                         x86_64
CPU(s):                               224

==============================
Versions of relevant libraries
==============================
[pip3] torch==2.8.0+cu128
[pip3] triton==3.4.0
[conda] Could not collect

==============================
         vLLM Info
==============================
ROCM Version                 : Could not collect
vLLM Version                 : 0.10.1.dev7+gabcdef123 (git sha: abcdef123)
vLLM Build Flags:
  CUDA Archs: Not Set; ROCm: Disabled
GPU Topology:
  Could not collect

==============================
     Environment Variables
==============================
NVIDIA_VISIBLE_DEVICES=all
CUDA_VERSION=12.8.1
"""

SGLANG = """Python: 3.10.12 (main, Nov 20 2023, 15:14:05) [GCC 11.4.0]
CUDA available: True
GPU 0,1: NVIDIA GeForce RTX 4090
GPU 2: NVIDIA GeForce RTX 3090
GPU 0,1 Compute Capability: 8.9
GPU 2 Compute Capability: 8.6
CUDA_HOME: /usr/local/cuda
NVCC: Cuda compilation tools, release 12.4, V12.4.131
CUDA Driver Version: 550.90.07
PyTorch: 2.5.1+cu124
sglang: 0.4.3
flashinfer: 0.2.1
triton: 3.1.0
torchao: Module Not Found
vllm: Module Not Found
NVIDIA Topology:
        GPU0    GPU1    GPU2    CPU Affinity
GPU0     X      PHB     SYS     0-31

Hypervisor vendor: KVM
ulimit soft: 1048576
"""

SGLANG_ROCM = """Python: 3.12.8 (main, Dec  4 2024, 08:54:12) [GCC 11.4.0]
ROCM available: True
GPU 0,1: AMD Instinct MI300X
GPU 0,1 Compute Capability: 9.4
ROCM_HOME: /opt/rocm
HIPCC: HIP version: 6.3.42131-fa1d09cbd
ROCM Driver Version: 6.7.0
PyTorch: 2.6.0a0+git1234567
sgl_kernel: 0.0.3
"""

TRANSFORMERS = """- `transformers` version: 4.46.0
- Platform: Linux-5.15.0-1064-x86_64-with-glibc2.35
- Python version: 3.10.14
- Huggingface_hub version: 0.26.1
- Safetensors version: 0.4.5
- Accelerate version: not installed
- Accelerate config:    not found
- PyTorch version (GPU?): 2.5.0+cu124 (True)
- Tensorflow version (GPU?): not installed (NA)
- Using distributed or parallel set-up in script?: <fill in>
- Using GPU in script?: <fill in>
- GPU type: NVIDIA L40S
"""

ACCELERATE = """- `Accelerate` version: 1.10.1
- Platform: Windows-11-10.0.26100-SP0
- `accelerate` bash location: C:\\tools\\accelerate.exe
- Python version: 3.12.6
- Numpy version: 2.2.4
- PyTorch version: 2.8.0+cpu
- PyTorch accelerator: N/A
- System RAM: 63.21 GB
- `Accelerate` default config:
        Not found
"""

DIFFUSERS = """- \U0001f917 Diffusers version: 0.32.0
- Platform: Linux-6.5.0-41-generic-x86_64-with-glibc2.35
- Running on Google Colab?: No
- Python version: 3.10.12
- PyTorch version (GPU?): 2.4.1+cu121 (True)
- Huggingface_hub version: 0.25.1
- Transformers version: 4.44.2
- Accelerate version: 0.34.2
- PEFT version: not installed
- xFormers version: 0.0.28
- Accelerator: NVIDIA A100-SXM4-80GB, 81920 MiB
NVIDIA A100-SXM4-80GB, 81920 MiB
- Using GPU in script?: yes
"""

DS_REPORT = """--------------------------------------------------
DeepSpeed C++/CUDA extension op report
--------------------------------------------------
fused_adam ............. [NO] ....... [OKAY]
 [WARNING]  please install triton==1.0.0 if you want to use sparse attention
--------------------------------------------------
DeepSpeed general environment info:
torch install path ............... ['/usr/lib/python3/dist-packages/torch']
torch version .................... 2.3.1+cu118
deepspeed install path ........... ['/usr/lib/python3/dist-packages/deepspeed']
deepspeed info ................... 0.15.1, unknown, unknown
torch cuda version ............... 11.8
torch hip version ................ None
nvcc version ..................... 11.8
deepspeed wheel compiled w. ...... torch 2.3, cuda 11.8
shared memory (/dev/shm) size .... 125.80 GB
"""

XFORMERS = """xFormers 0.0.28.post1
memory_efficient_attention.ckF:                    unavailable
memory_efficient_attention.fa2F@v2.6.3:            available
is_triton_available:                               True
pytorch.version:                                   2.4.1+cu121
pytorch.cuda:                                      available
gpu.compute_capability:                            8.9
gpu.name:                                          NVIDIA RTX 4000 Ada Generation
build.cuda_version:                                1201
build.python_version:                              3.10.14
"""

NVIDIA_SMI = """Mon Jan 13 10:00:00 2025
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.90.07              Driver Version: 550.90.07      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:1B:00.0 Off |                    0 |
| N/A   33C    P0             70W /  700W |       1MiB /  81559MiB |      0%      Default |
|                                         |                        |             Disabled |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA H100 80GB HBM3          On  |   00000000:43:00.0 Off |                    0 |
| N/A   33C    P0             70W /  700W |       1MiB /  81559MiB |      0%      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
"""
# Before driver 530 names end after 18 characters.
NVIDIA_SMI_OLD = """+-----------------------------------------------------------------------------+
| NVIDIA-SMI 515.65.01    Driver Version: 515.65.01    CUDA Version: 11.7     |
|-------------------------------+----------------------+----------------------+
|   0  NVIDIA GeForce ...  Off  | 00000000:0A:00.0 Off |                  N/A |
| 30%   40C    P8    20W / 350W |    100MiB / 24576MiB |      0%      Default |
|                               |                      |                  N/A |
+-------------------------------+----------------------+----------------------+
"""

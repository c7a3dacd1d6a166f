"""torch.compile: has it all that it needs here, is it left on, and does it compile FP8?"""

from fp8doctor.checks.compiler.facts import CompileCache, CompiledCast, CompiledFunction, Compiler

# Children get a folder of the doctor's own under these names; the user's are in `Request.replaced_environment`.
CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")

__all__ = ["CACHE_VARIABLES", "CompileCache", "CompiledCast", "CompiledFunction", "Compiler"]

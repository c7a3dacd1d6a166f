"""What runs in the worker of one GPU: it joins the others for each case, and answers with what it measured.

Commands come as lines of JSON on standard input, answers go to a descriptor of our own: standard output belongs to the
examined packages.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import signal
import sys
import time
from typing import Any

from fp8doctor.checks.linear.timing import outcome_of
from fp8doctor.checks.parallel.collectives import measure
from fp8doctor.checks.parallel.plan import Case, Sizes
from fp8doctor.checks.parallel.profiling import profiled
from fp8doctor.checks.parallel.steps import Spread, timed
from fp8doctor.measuring.stepping import Meter
from fp8doctor.plain import to_plain

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Dynamo keeps one entry for each format and kind of weight; its default limit of 8 would make later ones eager.
RECOMPILE_LIMIT = 64


def main() -> None:
    """Answer until standard input ends."""
    told = json.loads(sys.argv[1])
    with contextlib.suppress(Exception):  # nothing is left on the GPU when the probe itself is killed
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    source = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    answers = told["answers"]
    sizes = Sizes(**{**told["sizes"], "collective_bytes": tuple(told["sizes"]["collective_bytes"])})
    try:
        rank = Rank(told["rank"], sizes)
    except Exception as error:
        _send(answers, {"outcome": "error", "error": f"{type(error).__name__}: {error}"[:300]})
        os._exit(3)
    _send(answers, {"outcome": "ok"})
    for line in source:
        command = json.loads(line)
        _send(answers, rank.answer(Case(**command["case"]), command["store"]))
    os._exit(0)  # exit handlers of a group whose other members are gone have been seen to wait for them


def _send(descriptor: int, answer: dict[str, Any]) -> None:
    data = json.dumps(_finite(to_plain(answer)), allow_nan=False).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prepare_compiler() -> None:
    import torch._dynamo.config as dynamo

    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
    setattr(dynamo, limit, RECOMPILE_LIMIT)
    dynamo.automatic_dynamic_shapes = False
    # Blocks are compiled one by one: splitting each at DDP's buckets would make it another block.
    dynamo.optimize_ddp = False


class Rank:
    """One worker: its device, the group that it is in, and the first BF16 step's logits."""

    def __init__(self, rank: int, sizes: Sizes) -> None:
        # In this process: for kernels this few, starting the compiler's own workers takes longer than compiling.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        import torch

        if sizes.compiled:
            _prepare_compiler()
        self.torch = torch
        self.rank = rank
        self.sizes = sizes
        if sizes.backend == "nccl":
            self.device = torch.device("cuda", rank)
            torch.cuda.set_device(self.device)
        else:
            self.device = torch.device("cpu")
            torch.set_num_threads(1)
        self.meter = Meter(torch, self.device)
        self.store: str | None = None
        self.reference: Any = None

    def answer(self, case: Case, store: str) -> dict[str, Any]:
        """Do one case; what came of it."""
        began = time.monotonic()
        try:
            if store != self.store:
                self._leave()
            if self.rank >= case.gpus:
                return {"outcome": "ok"}
            if self.store is None:
                self._join(case.gpus, store)
            fields = self._do(case)
        except Exception as error:  # refusals are results
            outcome, text = outcome_of(self.torch, error)
            fields = {"outcome": outcome, "error": text}
        gc.collect()
        if self.meter.on_gpu:
            self.torch.cuda.empty_cache()
        return {"outcome": "ok", "began": began, "ended": time.monotonic(), **fields}

    def _do(self, case: Case) -> dict[str, Any]:
        if case.do == "collective":
            return measure(self.meter, case, self.sizes)
        step = Spread(self.torch, self.sizes, case, self.device)
        if case.do == "profile":
            return profiled(self.meter, step, first=self.rank == 0)
        fields, logits = timed(self.meter, step, self.sizes, self.reference)
        if self.reference is None and case.config == "torch-bf16":
            self.reference = logits
        return fields

    def _join(self, gpus: int, store: str) -> None:
        """Be a member of the group of so many GPUs that meets in a file: no port is needed, and none is taken."""
        from torch import distributed

        meeting = distributed.FileStore(store, gpus)
        more = {"device_id": self.device} if self.meter.on_gpu else {}
        distributed.init_process_group(self.sizes.backend, store=meeting, rank=self.rank, world_size=gpus, **more)
        self.store = store

    def _leave(self) -> None:
        """Be a member of no group."""
        if self.store is not None:
            from torch import distributed

            self.store = None
            distributed.destroy_process_group()

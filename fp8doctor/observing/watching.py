"""Which steps pass in a block of somebody's code, and what does the profiler see of the first steady ones?"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

# Steps that are recorded, and calls of a model after which the window ends if nothing marks a step.
STEPS, MOST_CALLS = 3, 64
# A window in which something was compiled is no steady one: it is begun again so often at most.
RESTARTS = 3


class Watcher:
    """Records the first steady steps of a block, and leaves nothing behind.

    A step is an optimizer's step, or where none is taken a call of the outermost module. The window opens with the
    block and closes after some steps; from then on no hook is left, and the block runs as it would by itself.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.model: Any = None
        self.steps = 0
        self.calls = 0
        # Whether something was compiled in the window that is kept.
        self.compiled = False
        self.failed: str | None = None
        self._optimizer_steps = 0
        self._restarts = 0
        self._profiler: Any = None
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        """Open the window."""
        import torch
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._torch = torch
        self._first = register_module_forward_pre_hook(self._outermost)
        self._undo.callback(self._first.remove)
        handle = register_optimizer_step_post_hook(lambda *_: self._stepped())
        self._undo.callback(handle.remove)
        self._open()

    def stop(self) -> None:
        """Close the window, if it is open, and write what was recorded."""
        self._undo.close()
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        self._wait()
        if not self._torch.autograd._profiler_enabled():
            # Stopping again what another one has stopped ends the process inside of torch.
            self.failed = "another profiler was on meanwhile, and ended this one"
            return
        try:
            profiler.stop()
            self.compiled = self._graphs() != self._graphs_before
            self.steps = self._optimizer_steps or self.calls
            profiler.export_chrome_trace(str(self.file))
        except RuntimeError as error:  # another profiler was on
            self.failed = str(error)

    def _open(self) -> None:
        activities = [self._torch.profiler.ProfilerActivity.CPU]
        if self._torch.cuda.is_available():
            activities.append(self._torch.profiler.ProfilerActivity.CUDA)
        self._wait()
        self._graphs_before = self._graphs()
        self.calls = self._optimizer_steps = 0
        if self._torch.autograd._profiler_enabled():
            self.failed = "another profiler is on"
            self._undo.close()
            return
        profiler = self._torch.profiler.profile(activities=activities, record_shapes=True)
        try:
            profiler.start()
        except RuntimeError as error:
            self.failed = str(error)
            self._undo.close()
            return
        self._profiler = profiler

    def _outermost(self, module: Any, arguments: Any) -> None:
        """The first module that is called is the outermost one; later calls of it are counted."""
        self._first.remove()
        self.model = module
        handle = module.register_forward_pre_hook(lambda *_: self._called())
        self._undo.callback(handle.remove)
        self.calls = 1

    def _called(self) -> None:
        whole = not self._optimizer_steps and not self._torch.is_grad_enabled()
        if (whole and self.calls >= STEPS) or self.calls >= MOST_CALLS:
            self._window_ends()
        self.calls += 1

    def _stepped(self) -> None:
        self._optimizer_steps += 1
        if self._optimizer_steps >= STEPS:
            self._window_ends()

    def _window_ends(self) -> None:
        if self._graphs() != self._graphs_before and self._restarts < RESTARTS and self._profiler is not None:
            self._restarts += 1
            profiler, self._profiler = self._profiler, None
            self._wait()
            if self._torch.autograd._profiler_enabled():
                profiler.stop()
                self._open()
            else:
                self.failed = "another profiler was on meanwhile, and ended this one"
            return
        self.stop()

    def _graphs(self) -> int:
        """How many graphs Dynamo has compiled so far in this process."""
        counters: Callable[[], Any] = lambda: self._torch._dynamo.utils.counters["stats"]["unique_graphs"]  # noqa: E731
        try:
            return int(counters())
        except AttributeError:
            return 0

    def _wait(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.synchronize()


class Watch:
    """`with fp8doctor.watch() as w: ...`; afterwards `w.report` says what held the block's steps back."""

    def __init__(self, judge: Callable[[Watcher], Any]) -> None:
        self._judge = judge
        self._folder = tempfile.TemporaryDirectory(prefix="fp8doctor-")
        self._watcher = Watcher(Path(self._folder.name) / "trace.json")
        self.report: Any = None
        self._used = False

    def __enter__(self) -> Watch:
        if self._used:
            raise RuntimeError("this has watched a block already: make a new fp8doctor.watch()")
        self._used = True
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._watcher.stop()
            if kind is None:
                self.report = self._judge(self._watcher)
        finally:
            self._folder.cleanup()

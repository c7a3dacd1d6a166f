"""The machine: do CPU, memory, container and environment let the GPU run at its speed?"""

from fp8doctor.checks.machine.facts import Machine

__all__ = ["Machine"]

"""One step of a program, by a profiler's trace: what held it, and what would FP8 give it?"""

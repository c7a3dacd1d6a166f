"""How probes are run: one child process each, with a deadline; a crash is a fact."""

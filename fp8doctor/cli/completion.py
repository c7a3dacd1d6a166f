"""`fp8doctor completion`: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import click

from fp8doctor.cli import options


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the script that completes fp8doctor's words in SHELL.

    To install it, save it where your shell looks, and start a new shell:

    \b
    bash  fp8doctor completion bash > ~/.local/share/bash-completion/completions/fp8doctor
    zsh   fp8doctor completion zsh > ~/.zfunc/_fp8doctor
          and in ~/.zshrc: fpath+=~/.zfunc; autoload -Uz compinit; compinit
    fish  fp8doctor completion fish > ~/.config/fish/completions/fp8doctor.fish

    bash needs the package bash-completion for that; without it: eval "$(fp8doctor completion bash)" in ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    from fp8doctor.cli.group import cli
    from fp8doctor.cli.output import write

    completion = get_completion_class(shell)
    if completion is None:  # a shell that an older click does not know
        raise click.ClickException(f"the installed click cannot complete in {shell}")
    write(options.STDOUT, completion(cli, {}, "fp8doctor", "_FP8DOCTOR_COMPLETE").source())
    return 0

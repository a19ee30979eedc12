//! `larder completions`: what a shell needs to complete the commands and their options.

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::{Shell, generate};

use crate::output::say;

#[derive(Debug, Args)]
#[command(after_help = "The script goes to stdout; put it where the shell looks for it, and start a new shell.

Examples:
  larder completions bash > ~/.local/share/bash-completion/completions/larder
  larder completions zsh > ~/.zfunc/_larder        # with fpath+=~/.zfunc before compinit in .zshrc
  larder completions fish > ~/.config/fish/completions/larder.fish")]
pub(crate) struct Arguments {
    /// The shell
    shell: KnownShell,
}

/// The shells that are tried out; clap knows more.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for `command`, the whole command line.
pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<()> {
    let shell = match arguments.shell {
        KnownShell::Bash => Shell::Bash,
        KnownShell::Zsh => Shell::Zsh,
        KnownShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut command, "larder", &mut script);
    say!("{}", String::from_utf8(script)?.trim_end());
    Ok(())
}

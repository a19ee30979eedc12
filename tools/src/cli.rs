//! The command line itself: which commands there are, how an error is told and which exit code it becomes.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. An error is told in plain lines, what failed first and why below it.

use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::{Parser, Subcommand};

use crate::{
    ask, compact, demo, erase, ingest, model_eval, model_get, model_publish, model_train, place, sample, serve,
};

#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about = "Larder: a feature store and the model that uses it, in one process",
    after_help = "Start with `larder demo`; every command explains itself with --help."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the serving node
    Serve(serve::Arguments),
    /// Bring Parquet files into the store
    #[command(subcommand)]
    Ingest(ingest::Command),
    /// Divide what is live between the warm and the cold tier anew
    Place(place::Arguments),
    /// Forget users: what is known of them is invisible at once
    Erase(erase::Arguments),
    /// Take the bytes of erased users out of the store's files
    Compact(compact::Arguments),
    /// Fetch encoder weights, train, measure and swap ranking heads
    #[command(subcommand)]
    Model(ModelCommand),
    /// Write a sample shop: Parquet files, an answer catalogue, questions and a larder.toml
    Sample(sample::Arguments),
    /// Ask a running node one question
    Ask(ask::Arguments),
    /// Show all of it at work on a sample shop
    Demo(demo::Arguments),
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Fetch a model's files, checked
    Get(model_get::Arguments),
    /// Train the ranking head of a tenant
    Train(model_train::Arguments),
    /// Have a running node take a tenant's newly trained head
    Publish(model_publish::Arguments),
    /// Measure encoders and heads on labelled questions
    Eval(model_eval::Arguments),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match run(&CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Ingest(command) => ingest::run(command),
        Command::Place(arguments) => place::run(arguments),
        Command::Erase(arguments) => erase::run(arguments),
        Command::Compact(arguments) => compact::run(arguments),
        Command::Model(ModelCommand::Get(arguments)) => model_get::run(arguments),
        Command::Model(ModelCommand::Train(arguments)) => model_train::run(arguments),
        Command::Model(ModelCommand::Publish(arguments)) => model_publish::run(arguments),
        Command::Model(ModelCommand::Eval(arguments)) => model_eval::run(arguments),
        Command::Sample(arguments) => sample::run(arguments),
        Command::Ask(arguments) => ask::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
    }
}

/// The chain of causes, one line each; a cause that the line above already repeats is left out.
fn told(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut above = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !above.contains(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
        }
        above = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let mut root = CommandLine::command();
        root.build();
        root.clone().debug_assert();
        let mut open: Vec<clap::Command> = root.get_subcommands().cloned().collect();
        while let Some(command) = open.pop() {
            if command.get_name() == "help" {
                continue;
            }
            if command.has_subcommands() {
                open.extend(command.get_subcommands().cloned());
                continue;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("  larder {}", path(&command))), "{} has no example", command.get_name());
        }
    }

    /// "larder-ingest-build", as clap calls it, is typed "ingest build".
    fn path(command: &clap::Command) -> String {
        let full = command.get_bin_name().unwrap_or_default();
        full.strip_prefix("larder ").unwrap_or(full).to_owned()
    }

    #[test]
    fn wrong_usage_is_told_from_failure() {
        assert_eq!(CommandLine::try_parse_from(["larder", "sample"]).unwrap_err().exit_code(), 2);
        assert_eq!(CommandLine::try_parse_from(["larder", "sample", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn an_error_is_told_once() {
        let error =
            anyhow::anyhow!("the disk is full").context("cannot write x: the disk is full").context("no sample");
        assert_eq!(told(&error), "error: no sample\n  because: cannot write x: the disk is full\n");
    }
}

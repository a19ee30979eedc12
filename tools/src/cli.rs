//! The command line itself: which commands there are, how an error is told and which exit code it becomes.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. An error is told in plain lines: what failed, why, and where that is known what to do next.
//! `larder --help` lists the commands by who uses them.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use larder_ingest::without_secrets;
use larder_serve::ConfigError;

use crate::panics::{caught, tell_of_panics};
use crate::{
    answer, ask, backup, chaos, compact, completions, demo, erase, feedback, ingest, inspect, load, model_eval,
    model_get, model_publish, model_train, place, plan, restore, rows, sample, serve, stream, submit, verify, warm,
};

#[derive(Debug, Parser)]
#[command(name = "larder", version, about = "Larder: a feature store and the model that uses it, in one process")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// Who uses what, in the order of `larder --help`. A command that stands in no group is listed under "More".
const GROUPS: [(&str, &[&str]); 5] = [
    ("To see what it is", &["demo", "sample"]),
    ("Questions and answers (applications, support)", &["ask", "submit", "answer", "feedback"]),
    ("What the node knows of users (data engineers)", &["ingest", "rows", "stream", "place", "erase", "compact"]),
    (
        "Running nodes (operators)",
        &["serve", "warm", "inspect", "verify", "backup", "restore", "load", "plan", "chaos", "completions"],
    ),
    ("Better answers (whoever tends the models)", &["model"]),
];

const AFTER_COMMANDS: &str =
    "Every command explains itself, with examples: larder COMMAND --help. Results go to stdout, as JSON with --json; \
progress and errors go to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the serving node
    Serve(serve::Arguments),
    /// Bring Parquet files into the store
    #[command(subcommand)]
    Ingest(ingest::Command),
    /// Write live rows to a running node
    #[command(subcommand)]
    Rows(rows::Command),
    /// Have a change stream go on elsewhere in its topic
    #[command(subcommand)]
    Stream(stream::Command),
    /// Divide what is live between the warm and the cold tier anew
    Place(place::Arguments),
    /// Read rows into a running node's memory before they are asked for
    Warm(warm::Arguments),
    /// Forget users: what is known of them is invisible at once
    Erase(erase::Arguments),
    /// Take the bytes of erased users out of the store's files
    Compact(compact::Arguments),
    /// Look inside a store: what it holds, or what every tier knows of one key
    Inspect(inspect::Arguments),
    /// Prove that a closed store is whole: every checksum of every file
    Verify(verify::Arguments),
    /// Copy a store of one moment to a folder or an object store, while its node goes on
    Backup(backup::Arguments),
    /// Make a new store of a backup
    Restore(restore::Arguments),
    /// Fetch encoder weights, train, measure and swap ranking heads
    #[command(subcommand)]
    Model(ModelCommand),
    /// Write a sample shop: Parquet files, an answer catalogue, questions and a larder.toml
    Sample(sample::Arguments),
    /// Give a running node faults on purpose, or take them away
    Chaos(chaos::Arguments),
    /// Ask a running node one question
    Ask(ask::Arguments),
    /// Leave a question with a running node, to be answered when it has time
    Submit(submit::Arguments),
    /// Fetch the answer to a question that was submitted
    Answer(answer::Arguments),
    /// Say whether an answer helped; write what was said as training data
    #[command(subcommand)]
    Feedback(feedback::Command),
    /// Put a load on a running node, open-loop, and report what became of it
    Load(Box<load::Arguments>),
    /// Say how many nodes a forecast needs, from the measured capacity of one
    Plan(plan::Arguments),
    /// Show all of it at work on a sample shop
    Demo(demo::Arguments),
    /// Print what bash, zsh or fish need to complete commands and options
    Completions(completions::Arguments),
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
    tell_of_panics();
    let matches = command_line().try_get_matches();
    let command = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(line) => line.command,
        Err(error) => return wrong_usage(&error),
    };
    match caught(|| run(&command)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprint!("{}", told(&error));
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}

/// Says what is wrong with the command line, or prints the help that was asked for. clap repeats what was typed; a password in a URL is left out.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let typed: Vec<String> = std::env::args().collect();
    let plain = error.render().to_string();
    let text = hide_secrets(&plain, &typed);
    // Its own printing knows colours.
    let _ = if text == plain { error.print() } else { io::stderr().write_all(text.as_bytes()) };
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The text without the secrets of the URLs among the arguments.
fn hide_secrets(text: &str, arguments: &[String]) -> String {
    let mut text = text.to_owned();
    for argument in arguments.iter().filter(|argument| argument.contains("://")) {
        // Of --option=URL clap repeats the URL alone.
        let value = argument.split_once('=').filter(|_| argument.starts_with('-')).map(|(_, value)| value);
        for typed in [Some(argument.as_str()), value].into_iter().flatten() {
            text = text.replace(typed, &without_secrets(typed));
        }
    }
    text
}

/// The whole command line, with its commands in groups.
fn command_line() -> clap::Command {
    let command = CommandLine::command();
    let commands = format!("{}{AFTER_COMMANDS}", grouped(&command));
    command.after_help(commands).help_template("{about}\n\n{usage-heading} {usage}{after-help}\n\nOptions:\n{options}")
}

/// The commands by who uses them, each with what it does.
fn grouped(command: &clap::Command) -> String {
    let known: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let more = command.get_subcommands().map(clap::Command::get_name).filter(|name| !known.contains(name)).collect();
    let groups = GROUPS.iter().map(|(title, names)| (*title, names.to_vec())).chain([("More", more)]);
    let mut text = String::new();
    for (title, names) in groups {
        let commands: Vec<_> = names.iter().filter_map(|name| command.find_subcommand(name)).collect();
        if commands.is_empty() {
            continue;
        }
        text.push_str(&format!("{title}:\n"));
        for command in commands {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {:12} {about}\n", command.get_name()));
        }
        text.push('\n');
    }
    text
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Ingest(command) => ingest::run(command),
        Command::Rows(command) => rows::run(command),
        Command::Stream(command) => stream::run(command),
        Command::Place(arguments) => place::run(arguments),
        Command::Warm(arguments) => warm::run(arguments),
        Command::Erase(arguments) => erase::run(arguments),
        Command::Compact(arguments) => compact::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Backup(arguments) => backup::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
        Command::Model(ModelCommand::Get(arguments)) => model_get::run(arguments),
        Command::Model(ModelCommand::Train(arguments)) => model_train::run(arguments),
        Command::Model(ModelCommand::Publish(arguments)) => model_publish::run(arguments),
        Command::Model(ModelCommand::Eval(arguments)) => model_eval::run(arguments),
        Command::Sample(arguments) => sample::run(arguments),
        Command::Chaos(arguments) => chaos::run(arguments),
        Command::Ask(arguments) => ask::run(arguments),
        Command::Submit(arguments) => submit::run(arguments),
        Command::Answer(arguments) => answer::run(arguments),
        Command::Feedback(command) => feedback::run(command),
        Command::Load(arguments) => load::run_command(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Completions(arguments) => completions::run(arguments, command_line()),
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
    if let Some(next) = error.chain().find_map(next_step) {
        text.push_str(&format!("  next: {next}\n"));
    }
    text
}

/// What to do about a cause that does not say so itself.
fn next_step(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let unread = cause.downcast_ref::<ConfigError>().is_some_and(|error| error.message.starts_with("cannot be read"));
    unread
        .then_some("name the node's file with --config; `larder sample --out shop` writes a complete one to start from")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let mut root = command_line();
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

    #[test]
    fn every_command_stands_in_one_group() {
        let help = command_line().render_help().to_string();
        assert!(!help.contains("\nMore:"), "name the new command in GROUPS: {help}");
        for command in command_line().get_subcommands() {
            let line = format!("\n  {:12} ", command.get_name());
            assert_eq!(help.matches(&line).count(), 1, "{} in {help}", command.get_name());
        }
        assert!(help.contains("Exit codes: 0 done, 1 failed, 2 wrong usage."), "{help}");
    }

    /// "larder-ingest-build", as clap calls it, is typed "ingest build".
    fn path(command: &clap::Command) -> String {
        let full = command.get_bin_name().unwrap_or_default();
        full.strip_prefix("larder ").unwrap_or(full).to_owned()
    }

    #[test]
    fn no_password_is_repeated() {
        let say = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            let error = CommandLine::try_parse_from(&arguments).unwrap_err();
            hide_secrets(&error.render().to_string(), &arguments)
        };
        let build = ["larder", "ingest", "build", "--tenant", "t", "--view", "v", "--out", "o"];
        for wrong in [
            [&build[..], &["https://ada:hunter2@host/a.parquet"]].concat(),
            [&build[..], &["https://host/a.parquet?sig=hunter2"]].concat(),
            vec!["larder", "restore", "backups", "s3://ada:hunter2@bucket"],
            vec!["larder", "backup", "--keep=s3://ada:hunter2@bucket", "backups"],
        ] {
            let said = say(&wrong);
            assert!(!said.contains("hunter2") && said.contains("://"), "{said}");
        }
    }

    #[test]
    fn wrong_usage_is_told_from_failure() {
        assert_eq!(CommandLine::try_parse_from(["larder", "sample"]).unwrap_err().exit_code(), 2);
        assert_eq!(CommandLine::try_parse_from(["larder", "sample", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn an_absent_config_says_where_to_get_one() {
        let absent = larder_serve::NodeConfig::load(std::path::Path::new("/nowhere/larder.toml")).unwrap_err();
        let told = told(&Error::new(absent));
        assert!(
            told.starts_with("error: /nowhere/larder.toml: cannot be read") && told.contains("\n  next: name"),
            "{told}"
        );
    }

    #[test]
    fn an_error_is_told_once() {
        let error =
            anyhow::anyhow!("the disk is full").context("cannot write x: the disk is full").context("no sample");
        assert_eq!(told(&error), "error: no sample\n  because: cannot write x: the disk is full\n");
    }
}

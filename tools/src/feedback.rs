//! `larder feedback`: says whether answers helped (`record`), and writes what was said as training data (`export`).

use anyhow::Result;
use clap::Subcommand;

use crate::{feedback_export, feedback_record};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether an answer of a running node helped, and what would have been right
    Record(Box<feedback_record::Arguments>),
    /// Write a tenant's feedback as JSON lines, which `larder model train --feedback` learns from
    Export(feedback_export::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Record(arguments) => feedback_record::run(arguments),
        Command::Export(arguments) => feedback_export::run(arguments),
    }
}

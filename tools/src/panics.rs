//! What a person sees of a fault in Larder itself: one plain line that says what to do, and the backtrace only for those who ask for it.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering};

/// Crates whose panics on damaged files are caught where they are called, and become an error that names the file.
const CAUGHT: [&str; 2] = ["/parquet-", "/arrow-"];

/// Whether a panic was told of, so that the process does not end without a word.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Has panics told of in one line, from now on, whatever thread they are in.
pub fn tell_of_panics() {
    set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if CAUGHT.iter().any(|name| place.contains(name)) {
            return;
        }
        TOLD.store(true, Ordering::Relaxed);
        eprintln!("{}", told(&message(panic), &place));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0") {
            eprintln!("{}", Backtrace::force_capture());
        }
    }));
}

/// Runs the work of the process. `None` when it panicked, which has been told of when this returns.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    if outcome.is_err() && !TOLD.load(Ordering::Relaxed) {
        eprintln!("{}", told("a damaged file was not caught as one", "an unknown place"));
    }
    outcome.ok()
}

fn message(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("no message");
    // One line, whatever was asserted.
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn told(message: &str, place: &str) -> String {
    format!(
        "error: larder {} has a fault of its own: {message} ({place}); please report this line with the command that you gave, and \
         with what it prints when RUST_BACKTRACE=1 is set",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_in_one_line_that_says_what_to_do() {
        let said = told("index out of bounds", "tools/src/x.rs:1:2");
        assert!(!said.contains('\n') && said.starts_with("error: larder "), "{said}");
        assert!(said.contains("index out of bounds (tools/src/x.rs:1:2); please report"), "{said}");
    }
}

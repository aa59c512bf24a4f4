//! What goes to standard output, and what to standard error.

use std::io::Write as _;

use super::{BAD_INPUT, DONE, FAILED};

/// Prints to standard output; a closed pipe is an end, not a crash.
pub(super) fn print(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => DONE,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => DONE,
        Err(error) => fail(&format!("writing to standard output: {error}")),
    }
}

/// Tells what is wrong with the input.
pub(super) fn refuse(texts: &[String]) -> u8 {
    tell("error", texts);
    BAD_INPUT
}

/// Tells why the whole command failed.
pub(super) fn fail(text: &str) -> u8 {
    tell("error", &[text.to_owned()]);
    FAILED
}

/// Tells what is worth knowing.
pub(super) fn warn(texts: &[String]) {
    tell("warning", texts);
}

/// Every line says what it is, so that none is lost in a log.
fn tell(what: &str, texts: &[String]) {
    let mut out = std::io::stderr().lock();
    for line in texts.iter().flat_map(|text| text.lines()) {
        // Nobody is left to be told if standard error is gone.
        writeln!(out, "{what}: {line}").ok();
    }
}

/// A JSON document with a line feed.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    // Reports are maps with string keys; nothing in them can fail to be written.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// A number of things.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

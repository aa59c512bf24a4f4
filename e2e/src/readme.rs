//! Commands of `README.md` and the pages beside it, which scenarios run as they stand there, and what they print.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Output};
use crate::operator::repository;

/// A block of shell commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script(String);

impl Script {
    /// The first block of shell commands (` ```sh `) below a heading of `README.md`.
    ///
    /// # Errors
    /// When there is none.
    pub fn below(heading: &str) -> Result<Self> {
        Self::on("README.md", heading)
    }

    /// The same on another page.
    ///
    /// # Errors
    /// When there is none.
    pub fn on(page: &str, heading: &str) -> Result<Self> {
        let text = fs::read_to_string(repository().join(page)).with_context(|| format!("reading {page}"))?;
        Self::find(&text, heading).with_context(|| format!("{page} has no commands below `{heading}`"))
    }

    fn find(text: &str, heading: &str) -> Option<Self> {
        block(text, heading, "```sh").map(|block| Self(text[block].to_owned()))
    }

    /// The same, with something that a user has to put in replaced by what it is here.
    ///
    /// # Errors
    /// When the commands do not have it exactly once.
    pub fn with(self, theirs: &str, here: &str) -> Result<Self> {
        ensure!(self.0.matches(theirs).count() == 1, "`{theirs}` is not once in\n{}", self.0);
        Ok(Self(self.0.replace(theirs, here)))
    }

    /// Runs it in a folder, with `kubectl` and `helm` of the cluster's administrator; the first command that fails ends it.
    ///
    /// # Errors
    /// When it cannot be started; commands that fail are an [`Output`].
    pub async fn run(&self, cluster: &Cluster, folder: &Path) -> Result<Output> {
        cluster.shell(&self.0, folder).await
    }
}

/// Where the first block of this kind below a heading is, with its last line feed.
fn block(text: &str, heading: &str, kind: &str) -> Option<Range<usize>> {
    let (mut at, mut below, mut start) = (0, false, None);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches('\n');
        match start {
            Some(start) if bare == "```" => return Some(start..at),
            None if below && bare == kind => start = Some(at + line.len()),
            None if below && bare.starts_with('#') => return None,
            None => below |= bare == heading,
            Some(_) => {}
        }
        at += line.len();
    }
    None
}

/// Holds what a session on a terminal has printed against the first one (` ```console `) below a heading of `README.md`; takes
/// it over if `UPDATE` is set.
///
/// # Errors
/// When they differ, or there is none.
pub fn session(heading: &str, printed: &str) -> Result<()> {
    let path = repository().join("README.md");
    let text = fs::read_to_string(&path)?;
    let block = block(&text, heading, "```console").with_context(|| format!("no session below `{heading}`"))?;
    let there = &text[block.clone()];
    if there != printed && std::env::var_os("UPDATE").is_some() {
        return Ok(fs::write(&path, [&text[..block.start], printed, &text[block.end..]].concat())?);
    }
    ensure!(there == printed, "run with UPDATE=1 and look at what has changed in README.md; it is\n{printed}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# A\n```sh\none\n```\n## B\ntext\n```console\n$ no\n```\n```sh\ntwo x\nthree\n```\n## C\n## D\n```sh\n```\n";

    #[test]
    fn the_block_below_a_heading_is_found_and_no_other() {
        assert_eq!(Script::find(TEXT, "# A"), Some(Script("one\n".to_owned())));
        assert_eq!(Script::find(TEXT, "## B"), Some(Script("two x\nthree\n".to_owned())));
        assert_eq!(Script::find(TEXT, "## C"), None);
        assert_eq!(Script::find(TEXT, "## E"), None);
    }

    #[test]
    fn only_what_is_there_once_is_replaced() {
        let script = Script::find(TEXT, "## B").unwrap();
        assert_eq!(script.clone().with("x", "y").unwrap(), Script("two y\nthree\n".to_owned()));
        assert!(script.clone().with("t", "y").is_err());
        assert!(script.with("four", "y").is_err());
    }
}

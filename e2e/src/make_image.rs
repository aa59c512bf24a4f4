//! `image`: the operator's image in `target/image`.

use std::process::Command;

use anyhow::{Context, Result};
use e2e::layout::{self, Place};
use e2e::{container, operator, process};

/// Builds it from the built operator, prints what it weighs, and pushes it with these flags if there is a place for it.
pub(crate) fn run(place: Option<&Place>, flags: &[String]) -> Result<()> {
    let image = container::operator_image(source_date()?, &revision())?;
    let folder = process::target_folder().join("image");
    image.write(&folder)?;
    let mut all = 0;
    for (name, layer) in &image.layers {
        all += layer.bytes.len();
        crate::print(&format!("{name:8} {:>12} bytes  {}", layer.bytes.len(), layer.digest));
    }
    crate::print(&format!("{:8} {all:>12} bytes  {}", "image", image.digest()));
    crate::print(&format!("OCI layout in {}", folder.display()));
    if let Some(place) = place {
        layout::push(&folder, place, flags)?;
    }
    Ok(())
}

/// Seconds since 1970 that everything in the image is dated: `SOURCE_DATE_EPOCH`, or 0.
fn source_date() -> Result<i64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text} is not a number of seconds")),
        Err(_) => Ok(0),
    }
}

/// The commit, marked if the tree differs from it.
fn revision() -> String {
    let args = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
    let output = Command::new("git").args(args).current_dir(operator::repository()).output();
    let commit = output.ok().filter(|output| output.status.success());
    commit.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! `convert`: a file of oc-mirror as an object.

use super::ConvertArgs;
use super::output::{print, refuse};
use crate::failure::chain;
use crate::file::{self, Destination};

/// Runs the command.
pub(super) fn run(args: &ConvertArgs) -> u8 {
    let to = match args.to.parse::<Destination>() {
        Ok(to) => to,
        Err(error) => return refuse(&[format!("--to: {error}")]),
    };
    match file::convert(&args.file, &to) {
        Ok(converted) => print(&converted.manifest()),
        Err(error) => refuse(&[chain(&error)]),
    }
}

//! `catalog filter`: what a selection leaves of a catalog that lies in a folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

use super::output::{print, refuse, warn};
use super::{CatalogCommand, DONE, FAILED, FilterArgs};
use crate::api::content::Operator;
use crate::catalog::{Loader, Selection, filter, related, validate};
use crate::failure::chain;
use crate::file::{self, Destination, To};
use crate::request::{Fault, Request};

/// Names files that are no part of the catalog, as `.gitignore` does.
const IGNORE_FILE: &str = ".indexignore";

/// Runs the command.
pub(super) fn run(command: &CatalogCommand) -> u8 {
    let CatalogCommand::Filter(args) = command;
    match run_filter(args) {
        Ok(code) => code,
        Err(wrong) => refuse(&wrong),
    }
}

fn run_filter(args: &FilterArgs) -> Result<u8, Vec<String>> {
    let (operator, notes) = operator(args)?;
    warn(&notes);
    let selection = Selection::new(&operator)
        .map_err(|errors| errors.iter().map(|error| format!("{}: {error}", args.file.display())).collect::<Vec<_>>())?;
    let mut loader = Loader::new(selection.named());
    for (name, path) in files(&args.directory)? {
        let bytes = std::fs::read(&path).map_err(|error| vec![format!("reading {}: {error}", path.display())])?;
        loader.file(&name, &bytes);
    }
    let (catalog, left_out) =
        loader.finish().map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    warn(
        &left_out
            .iter()
            .map(|error| format!("left out, since it is about nothing selected: {error}"))
            .collect::<Vec<_>>(),
    );
    let filtered =
        filter(catalog, &selection).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    warn(&filtered.unknown.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut text = String::new();
    for line in filtered.catalog.lines() {
        text.push_str(&line);
        text.push('\n');
    }
    let printed = print(&text);
    let faults = validate(&filtered.catalog);
    warn(&faults.iter().map(|fault| format!("no server would take this: {fault}")).collect::<Vec<_>>());
    match related(&filtered.catalog) {
        Ok(_images) => {}
        Err(bad) => {
            warn(&bad.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
    let nothing = filtered.catalog.packages.values().all(|content| content.bundles.is_empty());
    if nothing {
        warn(&["nothing is left: the catalog has none of what is selected".to_owned()]);
    }
    Ok(if printed == DONE && !nothing { DONE } else { FAILED })
}

/// The only entry of `operators`, or the one that is named, and what is to be said about the file.
fn operator(args: &FilterArgs) -> Result<(Operator, Vec<String>), Vec<String>> {
    // The target plays no part.
    let nowhere: Destination = "localhost".parse().map_err(|error| vec![format!("{error}")])?;
    let loaded = file::read(&args.file, To::Given(&nowhere)).map_err(|error| vec![chain(&error)])?;
    if !loaded.errors.is_empty() {
        return Err(vec![file::lines(&args.file, &loaded.errors)]);
    }
    let wrong: Vec<_> = Request::of_file(&loaded.object).err().map(|invalid| invalid.faults).unwrap_or_default();
    let places = |fault: &Fault| fault.field.ends_with(".targetCatalog") || fault.field.ends_with(".targetTag");
    let problems = loaded.problems(&wrong.into_iter().filter(places).collect::<Vec<_>>());
    if !problems.is_empty() {
        return Err(vec![file::lines(&args.file, &problems)]);
    }
    let notes = loaded.warnings.iter().map(|warning| format!("{}:{warning}", args.file.display())).collect();
    let operators = loaded.object.spec.mirror.operators;
    let place =
        |operator: &Operator| (operator.catalog.clone(), operator.target_catalog.clone(), operator.target_tag.clone());
    let mut places = BTreeSet::new();
    if let Some(twice) = operators.iter().find(|operator| !places.insert(place(operator))) {
        let message = format!("{}: `{}` is there twice: make one entry of the two", args.file.display(), twice.catalog);
        return Err(vec![message]);
    }
    let known = || operators.iter().map(|operator| operator.catalog.as_str()).collect::<Vec<_>>().join(", ");
    let found = match &args.catalog {
        Some(catalog) => operators.iter().find(|operator| operator.catalog == *catalog),
        None if operators.len() > 1 => {
            return Err(vec![format!(
                "{} has several catalogs: name one with --catalog: {}",
                args.file.display(),
                known()
            )]);
        }
        None => operators.first(),
    };
    match (found, &args.catalog) {
        (Some(operator), _) => Ok((operator.clone(), notes)),
        (None, Some(catalog)) => Err(vec![format!("--catalog {catalog}: {} has {}", args.file.display(), known())]),
        (None, None) => Err(vec![format!("{} has no `operators`", args.file.display())]),
    }
}

/// Every file of a catalog, by its name below the root, in their order.
fn files(root: &Path) -> Result<Vec<(String, PathBuf)>, Vec<String>> {
    let told = |error: &dyn std::fmt::Display| vec![format!("reading the catalog in {}: {error}", root.display())];
    let top = root.canonicalize().map_err(|error| told(&error))?;
    if !top.is_dir() {
        return Err(told(&"it is not a folder"));
    }
    let walk = WalkBuilder::new(&top)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .follow_links(true)
        .sort_by_file_name(Ord::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|error| told(&error))?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) || entry.file_name() == IGNORE_FILE {
            continue;
        }
        let path = entry.into_path();
        let name = path.strip_prefix(&top).unwrap_or(&path).display().to_string();
        if !path.canonicalize().map_err(|error| told(&error))?.starts_with(&top) {
            return Err(told(&format!("`{name}` leads out of it")));
        }
        files.push((name, path));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        files(root).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn every_file_counts_but_those_that_are_ignored() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a/catalog.yaml", ""),
            ("a/.hidden", ""),
            ("a/README.md", ""),
            ("b/c/d", ""),
            (".indexignore", "*.md\n/b/e\n"),
            ("b/e", ""),
            (".gitignore", "d\n"),
        ] {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), text).unwrap();
        }
        symlink(root.path().join("a/catalog.yaml"), root.path().join("b/linked")).unwrap();
        assert_eq!(names(root.path()), [".gitignore", "a/.hidden", "a/catalog.yaml", "b/c/d", "b/linked"]);
    }

    #[test]
    fn a_link_that_leads_out_is_an_error() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "").unwrap();
        symlink(other.path().join("secret"), root.path().join("catalog.json")).unwrap();
        let error = files(root.path()).unwrap_err();
        assert!(error[0].contains("`catalog.json` leads out of it"), "{error:?}");
        assert!(files(&root.path().join("nowhere")).is_err());
    }
}

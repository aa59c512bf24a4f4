//! Who is measured, and how each is told what to copy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use e2e::process::RunFolder;
use e2e::tools::{self, Tool};

use super::measure::Launch;

/// A program, and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// `imageset-mirror mirror --attachments skip`.
    Ours,
    /// `imageset-mirror mirror`, attachments and all.
    OursAttachments,
    /// The library of oc-mirror, set as oc-mirror sets it.
    OcMirror,
    /// regsync, 8 images and 16 requests at a time.
    Regsync,
    /// regsync as it comes.
    RegsyncDefault,
    /// A crane for each image, 4 at a time.
    Crane,
    /// An oras for each image, 4 at a time.
    Oras,
    /// `skopeo sync`.
    Skopeo,
}

/// One image to copy.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) digest: String,
}

/// From where to where.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Host and port of the source, as clients are told.
    pub(crate) source: String,
    /// The same of the target.
    pub(crate) target: String,
    /// The certificates to trust; none for plain HTTP.
    pub(crate) ca: Option<String>,
}

/// Below this every contender puts its copies.
const PREFIX: &str = "m";
/// Processes at a time of what copies one image per process.
const PROCESSES: usize = 4;

impl Contender {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "imageset-mirror",
            Self::OursAttachments => "imageset-mirror, attachments copied",
            Self::OcMirror => "oc-mirror's copy path, 4 × 5",
            Self::Regsync => "regsync, tuned (8 images, 16 requests)",
            Self::RegsyncDefault => "regsync, as it comes",
            Self::Crane => "crane × 4",
            Self::Oras => "oras × 4",
            Self::Skopeo => "skopeo sync",
        }
    }

    /// Its version.
    pub(crate) fn version(self) -> String {
        match self {
            Self::Ours | Self::OursAttachments => super::revision(),
            Self::OcMirror => format!("go.podman.io/image/v5 {}", Tool::ImageCopy.version()),
            Self::Regsync | Self::RegsyncDefault => Tool::Regsync.version().to_owned(),
            Self::Crane => Tool::Crane.version().to_owned(),
            Self::Oras => Tool::Oras.version().to_owned(),
            Self::Skopeo => tools::skopeo_version().unwrap_or_default(),
        }
    }

    /// Whether it can run here, or why not; builds what is to be built.
    pub(crate) fn prepare(self) -> Result<(), String> {
        let made = match self {
            Self::Ours | Self::OursAttachments => e2e::operator::binary(),
            Self::OcMirror => tools::ensure(Tool::ImageCopy),
            Self::Regsync | Self::RegsyncDefault => tools::ensure(Tool::Regsync),
            Self::Crane => tools::ensure(Tool::Crane),
            Self::Oras => tools::ensure(Tool::Oras),
            Self::Skopeo => tools::skopeo().map(|(path, _)| path),
        };
        made.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// Where it puts an image of the source: skopeo leaves out all but the last part of the name.
    pub(crate) fn destination(self, repository: &str) -> String {
        let last = repository.rsplit('/').next().unwrap_or_default();
        format!("{PREFIX}/{}", if self == Self::Skopeo { last } else { repository })
    }

    /// How it is started to copy `items`.
    pub(crate) fn launch(self, items: &[Item], route: &Route, run: &RunFolder) -> Result<Launch> {
        let folder = run.path().to_owned();
        let home = folder.display().to_string();
        let mut env = vec![("HOME".to_owned(), home.clone())];
        if let Some(pem) = &route.ca {
            let file = run.write("certs/ca.crt", pem)?;
            env.push(("SSL_CERT_FILE".to_owned(), text(&file)));
        }
        let mut launch = Launch { folder, jobs: 1, commands: Vec::new(), env, stdin: None };
        match self {
            Self::Ours => launch.commands.push(ours(items, route, run, "skip")?),
            Self::OursAttachments => launch.commands.push(ours(items, route, run, "copy")?),
            Self::OcMirror => {
                let lines: Vec<String> = self.pairs(items, route).map(|(from, to)| format!("{from} {to}")).collect();
                launch.stdin = Some(run.write("images", lines.join("\n"))?);
                // As oc-mirror writes it.
                run.write("registries.d/default.yaml", "default-docker:\n  use-sigstore-attachments: true\n")?;
                let cache = run.folder("cache")?;
                let mut command = vec![text(&tools::ensure(Tool::ImageCopy)?), format!("-cache={}", cache.display())];
                command.push(format!("-registries.d={home}/registries.d"));
                command.extend(route.ca.as_ref().map(|_| format!("-certs={home}/certs")));
                launch.commands.push(command);
            }
            Self::Regsync | Self::RegsyncDefault => {
                let file = run.write("regsync.yaml", self.regsync(items, route))?;
                let program = text(&tools::ensure(Tool::Regsync)?);
                launch.commands.push(vec![program, "once".to_owned(), "-c".to_owned(), text(&file)]);
            }
            Self::Crane => {
                launch.jobs = PROCESSES;
                let program = text(&tools::ensure(Tool::Crane)?);
                let command = |(from, to)| vec![program.clone(), "copy".to_owned(), from, to];
                launch.commands = self.pairs(items, route).map(command).collect();
            }
            Self::Oras => {
                launch.jobs = PROCESSES;
                let program = text(&tools::ensure(Tool::Oras)?);
                let flags = match &route.ca {
                    Some(_) => ["from", "to"].map(|side| format!("--{side}-ca-file={home}/certs/ca.crt")),
                    None => ["from", "to"].map(|side| format!("--{side}-plain-http")),
                };
                let command = |(from, to)| {
                    let fixed = [program.clone(), "cp".to_owned(), "--no-tty".to_owned()];
                    fixed.into_iter().chain(flags.clone()).chain([from, to]).collect()
                };
                launch.commands = self.pairs(items, route).map(command).collect();
            }
            Self::Skopeo => {
                let (program, libraries) = tools::skopeo()?;
                if let Some(libraries) = libraries {
                    launch.env.push(("LD_LIBRARY_PATH".to_owned(), libraries));
                }
                // Root's cache is in a fixed place, which is not ours.
                launch.env.push(("_CONTAINERS_ROOTLESS_UID".to_owned(), "1".to_owned()));
                launch.env.push(("XDG_DATA_HOME".to_owned(), home.clone()));
                let file = run.write("sync.yaml", skopeo(items, route))?;
                let mut command = vec![text(&program)];
                command.extend(
                    ["--insecure-policy", "sync", "--all", "--preserve-digests", "--src", "yaml", "--dest", "docker"]
                        .map(String::from),
                );
                command.push(format!("--dest-tls-verify={}", route.ca.is_some()));
                command.extend([text(&file), format!("{}/{PREFIX}", route.target)]);
                launch.commands.push(command);
            }
        }
        Ok(launch)
    }

    /// Full names of where from and where to.
    fn pairs<'a>(self, items: &'a [Item], route: &'a Route) -> impl Iterator<Item = (String, String)> + 'a {
        items.iter().map(move |item| {
            let from = format!("{}/{}:{}", route.source, item.repository, item.tag);
            (from, format!("{}/{}:{}", route.target, self.destination(&item.repository), item.tag))
        })
    }

    fn regsync(self, items: &[Item], route: &Route) -> String {
        let mut text = "version: 1\ncreds:\n".to_owned();
        // Writing into a string does not fail.
        for host in [&route.source, &route.target] {
            writeln!(text, "  - registry: {host}").ok();
            match &route.ca {
                Some(pem) => {
                    text.push_str("    regcert: |\n");
                    text.extend(pem.lines().map(|line| format!("      {line}\n")));
                }
                None => text.push_str("    tls: disabled\n"),
            }
            if self == Self::Regsync {
                text.push_str("    reqConcurrent: 16\n");
            }
        }
        if self == Self::Regsync {
            text.push_str("defaults:\n  parallel: 8\n");
        }
        text.push_str("sync:\n");
        for (from, to) in self.pairs(items, route) {
            writeln!(text, "  - source: {from}\n    target: {to}\n    type: image").ok();
        }
        text
    }
}

fn ours(items: &[Item], route: &Route, run: &RunFolder, attachments: &str) -> Result<Vec<String>> {
    let head = "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\nmirror:\n  additionalImages:\n";
    let mut file = head.to_owned();
    for item in items {
        writeln!(file, "  - name: {}/{}@{}", route.source, item.repository, item.digest)?;
    }
    let file = run.write("imageset.yaml", file)?;
    let mut command = vec![text(&e2e::operator::binary()?), "mirror".to_owned(), "-f".to_owned(), text(&file)];
    command.extend(["--to".to_owned(), format!("{}/{PREFIX}", route.target)]);
    command.extend(["--attachments".to_owned(), attachments.to_owned()]);
    match &route.ca {
        Some(_) => command.extend(["--ca".to_owned(), format!("{}/certs/ca.crt", run.path().display())]),
        None => command.extend([&route.source, &route.target].map(|host| format!("--tls={host}=plain"))),
    }
    Ok(command)
}

fn skopeo(items: &[Item], route: &Route) -> String {
    let mut text = format!("{}:\n  tls-verify: {}\n  images:\n", route.source, route.ca.is_some());
    let mut last = "";
    for item in items {
        // Writing into a string does not fail.
        if item.repository != last {
            writeln!(text, "    {}:", item.repository).ok();
            last = &item.repository;
        }
        writeln!(text, "      - {}", item.tag).ok();
    }
    text
}

fn text(path: &Path) -> String {
    PathBuf::from(path).display().to_string()
}

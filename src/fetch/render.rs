//! Rendering by the real `helm`: in a folder of its own that goes away, with nothing of our environment, and bounded.
//!
//! A chart is a program that a stranger wrote. It is given no network, since nothing of what it can do needs any (schemas, which
//! may name addresses, are not looked at); no cluster, no plugins and no files but its own; and it is killed once it takes too
//! long, too much memory or has said too much.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::failure::cut;

/// The Kubernetes that charts are rendered for, whatever the program was built for.
const KUBE_VERSION: &str = "1.33.0";
/// What is kept of the program's complaints.
const MAX_COMPLAINT: usize = 64 << 10;
/// What is told of them.
const MAX_TOLD: usize = 600;
/// Lines of them that are told.
const MAX_LINES: usize = 4;

/// One at a time, since each may take as much memory as all else.
static TURNS: Semaphore = Semaphore::const_new(1);

/// What one rendering may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Time. Default: 1 min.
    pub time: Duration,
    /// Bytes of memory. Default: 320 MiB.
    pub memory: u64,
    /// Bytes of output. Default: 24 MiB.
    pub output: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { time: Duration::from_mins(1), memory: 320 << 20, output: 24 << 20 }
    }
}

/// The program that renders charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helm {
    /// Its path, or its name if it is to be looked for on `PATH`.
    pub program: PathBuf,
    /// What one rendering may take.
    pub bounds: Bounds,
}

impl Default for Helm {
    fn default() -> Self {
        Self { program: PathBuf::from("helm"), bounds: Bounds::default() }
    }
}

/// Why there is nothing rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("`{}` cannot be started, which renders charts: install helm, or name it with --helm or IMAGESET_MIRROR_HELM", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the folder to render in cannot be used")]
    Folder(#[source] io::Error),
    #[error("helm cannot be kept within its bounds")]
    Limit(#[source] io::Error),
    #[error("helm cannot be listened to")]
    Output(#[source] io::Error),
    #[error("rendering it took more than {after:?}, so it was stopped")]
    Time { after: Duration },
    #[error("rendering it takes more than {} MiB of memory", memory >> 20)]
    Memory { memory: u64 },
    #[error("it renders to more than {} MiB", most >> 20)]
    TooLong { most: usize },
    #[error("it renders to something that is not text")]
    NotText,
    #[error("helm cannot render it: {0}")]
    Refused(String),
}

impl Error {
    /// True if the same chart may render later.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Limit(_) | Self::Output(_) | Self::Time { .. })
    }
}

impl Helm {
    /// This program, or the one on `PATH`.
    pub fn named(program: Option<PathBuf>) -> Self {
        program.map_or_else(Self::default, |program| Self { program, ..Self::default() })
    }

    /// What the archive of a chart renders to with `values`, which are JSON.
    pub(super) async fn render(&self, archive: &[u8], values: &str) -> Result<String, Error> {
        // Never closed.
        let _turn = TURNS.acquire().await.ok();
        let folder = tempfile::Builder::new().prefix("chart-").tempdir().map_err(Error::Folder)?;
        let place = folder.path();
        tokio::fs::write(place.join("chart.tgz"), archive).await.map_err(Error::Folder)?;
        tokio::fs::write(place.join("values.json"), values).await.map_err(Error::Folder)?;
        let mut command = Command::new(&self.program);
        command
            .args(["template", "release-name", "chart.tgz", "--values", "values.json", "--include-crds"])
            .args(["--skip-schema-validation", "--kube-version", KUBE_VERSION])
            .current_dir(place)
            .env_clear()
            .env("HOME", place)
            .env("TMPDIR", place)
            .env("HELM_CACHE_HOME", place.join("cache"))
            .env("HELM_CONFIG_HOME", place.join("config"))
            .env("HELM_DATA_HOME", place.join("data"))
            .env("HELM_PLUGINS", place.join("plugins"))
            .env("KUBECONFIG", place.join("kubeconfig"))
            // Collects garbage rather than running into the limit.
            .env("GOMEMLIMIT", (self.bounds.memory / 4 * 3).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = command.spawn();
        let mut child = started.map_err(|source| Error::Start { program: self.program.clone(), source })?;
        let ended = timeout(self.bounds.time, self.follow(&mut child)).await;
        let ended = ended.unwrap_or(Err(Error::Time { after: self.bounds.time }));
        // Before its folder goes away. One that has ended by itself is no error.
        child.kill().await.ok();
        ended
    }

    async fn follow(&self, child: &mut Child) -> Result<String, Error> {
        self.limit(child)?;
        let missing = || Error::Output(io::ErrorKind::BrokenPipe.into());
        let (output, complaint) = (child.stdout.take().ok_or_else(missing)?, child.stderr.take().ok_or_else(missing)?);
        let (output, complaint) = tokio::try_join!(self.whole(output), beginning(complaint))?;
        let status = child.wait().await.map_err(Error::Output)?;
        if status.success() {
            return String::from_utf8(output).map_err(|_invalid| Error::NotText);
        }
        let complaint = String::from_utf8_lossy(&complaint);
        // What Go's runtime says when it gets no memory.
        if complaint.contains("out of memory") || complaint.contains("cannot allocate memory") {
            return Err(Error::Memory { memory: self.bounds.memory });
        }
        Err(Error::Refused(told(&complaint, &status.to_string())))
    }

    /// Bounds memory, and processor time for the case that nobody is left to kill it.
    fn limit(&self, child: &Child) -> Result<(), Error> {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // It has ended already.
        let Some(id) = id else { return Ok(()) };
        let seconds = self.bounds.time.as_secs().saturating_mul(4).max(1);
        for (resource, most) in [(Resource::Data, self.bounds.memory), (Resource::Cpu, seconds), (Resource::Core, 0)] {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            match prlimit(Some(id), resource, limit) {
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(Error::Limit(error.into())),
            }
        }
        Ok(())
    }

    /// All of it, unless that is too much.
    async fn whole(&self, mut from: impl AsyncRead + Unpin) -> Result<Vec<u8>, Error> {
        let most = self.bounds.output;
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from.read(&mut buffer).await.map_err(Error::Output)?;
            if length == 0 {
                return Ok(bytes);
            }
            if bytes.len() + length > most {
                return Err(Error::TooLong { most });
            }
            bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
    }
}

/// The beginning of it; the rest is read and dropped, so that nobody waits.
async fn beginning(mut from: impl AsyncRead + Unpin) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let length = from.read(&mut buffer).await.map_err(Error::Output)?;
        if length == 0 {
            return Ok(bytes);
        }
        let kept = length.min(MAX_COMPLAINT.saturating_sub(bytes.len()));
        bytes.extend_from_slice(buffer.get(..kept).unwrap_or_default());
    }
}

/// The first lines of a complaint, without advice for whoever has typed a command.
fn told(complaint: &str, status: &str) -> String {
    let error = complaint.find("Error: ").and_then(|at| complaint.get(at + "Error: ".len()..)).unwrap_or(complaint);
    let lines = error.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Use --debug"));
    let text = lines.take(MAX_LINES).collect::<Vec<_>>().join(" ");
    if text.is_empty() { format!("it ended with {status}") } else { cut(&text, MAX_TOLD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_in_short() {
        let complaint =
            "WARNING: x\nError: execution error at (web/templates/a.yaml:1:3): need x\n\nUse --debug flag to render\n";
        assert_eq!(told(complaint, ""), "execution error at (web/templates/a.yaml:1:3): need x");
        assert_eq!(told("", "signal: 9 (SIGKILL)"), "it ended with signal: 9 (SIGKILL)");
        assert!(told(&"long ".repeat(1000), "").len() <= MAX_TOLD);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_what_to_do() {
        let helm = Helm { program: PathBuf::from("/nowhere/helm"), ..Helm::default() };
        let error = helm.render(b"", "{}").await.unwrap_err();
        assert!(error.to_string().contains("`/nowhere/helm` cannot be started"), "{error}");
        assert!(!error.passes());
    }

    /// A program that does this whatever it is told.
    fn program(does: &str) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helm");
        std::fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_stopped_and_one_that_says_too_much_is_not_heard() {
        let bounds = Bounds { output: 10, ..Bounds::default() };
        let short = Bounds { time: Duration::from_millis(50), ..bounds };
        for (does, bounds, why) in [
            ("while :; do :; done", short, "rendering it took more than 50ms, so it was stopped"),
            ("echo too much at once", bounds, "it renders to more than 0 MiB"),
            ("echo 'Error: it will not' >&2; exit 1", bounds, "helm cannot render it: it will not"),
            ("printf '\\377'", bounds, "not text"),
        ] {
            let (_folder, program) = program(does);
            let error = Helm { program, bounds }.render(b"", "{}").await.unwrap_err();
            assert!(error.to_string().contains(why), "{does}: {error}");
        }
    }

    #[tokio::test]
    async fn nothing_of_our_environment_is_seen() {
        let (_folder, program) = program("export -p");
        let seen = Helm { program, ..Helm::default() }.render(b"", "{}").await.unwrap();
        let names: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("export ")?.split('=').next()).collect();
        assert!(names.contains(&"KUBECONFIG") && std::env::var_os("PATH").is_some(), "{seen}");
        // What the shell sets by itself is no part of ours.
        let given =
            |name: &&str| name.starts_with("HELM_") || ["GOMEMLIMIT", "HOME", "KUBECONFIG", "TMPDIR"].contains(name);
        let rest: Vec<_> = names.into_iter().filter(|name| !given(name) && !name.ends_with("PWD")).collect();
        assert_eq!(rest, [""; 0], "{seen}");
    }
}

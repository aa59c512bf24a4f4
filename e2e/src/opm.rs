//! Catalog images, run as a cluster runs them and judged by those who read them: `opm`, OLM over the wire, and catalogd.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::catalog::LABEL;
use crate::image::Remote;
use crate::node::only_child;
use crate::operator::repository;
use crate::process::{Process, Program, RunFolder};
use crate::tools::{self, Tool};
use crate::wait::LONG;

/// Whom a cluster lets run what has no say in it: some user of the namespace's own range, in the group of root.
const USER: &str = "1000660000:0";
/// Where a catalog answers.
const ADDRESS: &str = "127.0.0.1:50051";

/// Whether a catalog image can be run on this machine.
///
/// # Errors
/// The reason, for people, if it cannot.
pub fn available() -> Result<(), String> {
    if std::env::consts::OS != "linux" {
        return Err(format!("namespaces need Linux, and this is {}", std::env::consts::OS));
    }
    if !geteuid().is_root() {
        return Err("running an image as a user of its own needs root".to_owned());
    }
    let programs = ["unshare", "nsenter", "mount", "ip", "chroot"];
    let missing: Vec<_> = programs.into_iter().filter(|program| !tools::found(program)).collect();
    if !missing.is_empty() {
        return Err(format!("running an image needs {} on the PATH", missing.join(", ")));
    }
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    match probe.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("namespaces are not allowed: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// A catalog image for one architecture, pulled.
#[derive(Debug)]
pub struct CatalogImage {
    layers: Vec<PathBuf>,
    config: Value,
    run: RunFolder,
}

/// What of its file system a running image may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything, as OLM lets it.
    Writable,
    /// Only a fresh `/tmp`, as hardened clusters let it.
    ReadOnly,
}

/// What a server says that it has.
#[derive(Clone, Debug, Deserialize)]
pub struct Served {
    /// Packages with what it says of each.
    pub packages: BTreeMap<String, Value>,
    /// Bundles, once for each of their channels.
    pub bundles: Vec<ServedBundle>,
}

/// A bundle in one channel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServedBundle {
    /// The package.
    pub package: String,
    /// The channel.
    pub channel: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its image.
    pub image: String,
    /// The bundle that it replaces, or nothing.
    pub replaces: String,
    /// The bundles that it skips.
    pub skips: Vec<String>,
}

impl Served {
    /// `package/channel/bundle` of everything, sorted.
    pub fn entries(&self) -> Vec<String> {
        let name = |it: &ServedBundle| format!("{}/{}/{}", it.package, it.channel, it.name);
        let mut names: Vec<_> = self.bundles.iter().map(name).collect();
        names.sort();
        names
    }
}

/// What a document of a catalog is about.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Document {
    /// Its kind.
    pub schema: String,
    /// The package that it belongs to, or nothing.
    pub package: String,
    /// Its name, or nothing.
    pub name: String,
}

impl CatalogImage {
    /// Pulls one, of an index that for `architecture`.
    ///
    /// # Errors
    /// When the registry has it not, or not whole.
    pub async fn pull(registry: &Remote, repository: &str, reference: &str, architecture: &str) -> Result<Self> {
        let missing = || format!("no {repository}:{reference} for {architecture}");
        let root = registry.manifest(repository, reference).await?.with_context(missing)?;
        let mut manifest = root.json()?;
        if let Some(listed) = manifest.get("manifests").and_then(Value::as_array) {
            let fits = |it: &&Value| it.pointer("/platform/architecture").and_then(Value::as_str) == Some(architecture);
            let digest = listed.iter().find(fits).and_then(|it| it.get("digest")).and_then(Value::as_str);
            let image = registry.manifest(repository, digest.with_context(missing)?).await?;
            manifest = image.with_context(missing)?.json()?;
        }
        let run = RunFolder::create("catalog")?;
        let digest = |descriptor: Option<&Value>| {
            let digest = descriptor.and_then(|it| it.get("digest")).and_then(Value::as_str);
            digest.map(ToOwned::to_owned).with_context(|| format!("a descriptor without a digest in {manifest}"))
        };
        let config = registry.blob(repository, &digest(manifest.get("config"))?).await?;
        let config = serde_json::from_slice(&config).context("reading the image's config")?;
        let mut layers = Vec::new();
        for layer in manifest.get("layers").and_then(Value::as_array).into_iter().flatten() {
            let bytes = registry.blob(repository, &digest(Some(layer))?).await?;
            layers.push(run.write(&format!("layers/{}", layers.len()), bytes)?);
        }
        Ok(Self { layers, config, run })
    }

    /// Its config.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where its label says that the catalog is.
    ///
    /// # Errors
    /// When there is no such label.
    pub fn label(&self) -> Result<&str> {
        let label = self.config.pointer("/config/Labels").and_then(|labels| labels.get(LABEL)).and_then(Value::as_str);
        label.context("the image has no label that says where the catalog is")
    }

    /// Its file system, which is unpacked once, as a node does it.
    ///
    /// # Errors
    /// When a layer cannot be applied.
    pub async fn root(&self) -> Result<PathBuf> {
        let folder = self.run.path().join("root");
        if !folder.exists() {
            self.unpack(&folder, None).await?;
        }
        Ok(folder)
    }

    /// What catalogd would serve of it: it unpacks nothing but what its label names.
    ///
    /// # Errors
    /// When it would not accept it.
    pub async fn as_catalogd(&self) -> Result<Vec<Document>> {
        let folder = self.run.path().join("catalogd");
        let label = self.label()?;
        self.unpack(&folder, Some(label)).await?;
        let configs = folder.join(label.trim_start_matches('/'));
        let mut documents: Vec<Document> = client(&[OsStr::new("load"), configs.as_os_str()]).await?;
        documents.sort();
        Ok(documents)
    }

    async fn unpack(&self, folder: &Path, only: Option<&str>) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut args = vec![OsStr::new("unpack")];
        if let Some(only) = only {
            args.extend([OsStr::new("-only"), OsStr::new(only)]);
        }
        args.push(folder.as_os_str());
        args.extend(self.layers.iter().map(|layer| layer.as_os_str()));
        run(&client_program(&args).await?).await.map(drop)
    }

    /// Has `opm validate` look at the catalog.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn validate(&self) -> Result<()> {
        let configs = self.root().await?.join(self.label()?.trim_start_matches('/'));
        let opm = tokio::task::spawn_blocking(|| tools::ensure(Tool::Opm)).await??;
        run(&Program::new("validate", opm).arg("validate").arg(configs)).await.map(drop)
    }

    /// Starts it as its config says, asks it for everything over the wire as soon as it answers, and ends it.
    ///
    /// # Errors
    /// When it ends before it answers, or does not answer at the deadline; with the end of its log.
    pub async fn serve(&self, access: Access) -> Result<Served> {
        let root = self.root().await?;
        let script = repository().join("e2e/node/serve.sh");
        let mut program = Program::new("opm", "unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "/bin/sh"])
            .arg(script)
            .arg(root)
            .arg(USER)
            .arg(if access == Access::ReadOnly { "read-only" } else { "writable" })
            .args(self.strings("Entrypoint"))
            .args(self.strings("Cmd"));
        for variable in self.strings("Env") {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            // The programs before the image's own are found by that of this machine.
            if name != "PATH" {
                program = program.env(name, value);
            }
        }
        let mut server = Process::spawn(&program, &self.run.logs())?;
        let outside = server.id();
        let args = [OsStr::new("ask"), OsStr::new(ADDRESS)];
        let ask = client_program(&args).await?;
        server
            .ready(LONG, || async {
                let network = format!("--net=/proc/{}/ns/net", only_child(outside)?);
                let inside = Program::new("ask", "nsenter").arg(network).arg(&ask.path).args(&ask.args);
                let output = run(&inside).await?;
                Ok(Some(serde_json::from_slice(&output).context("reading what the client prints")?))
            })
            .await
    }

    /// A list of the image's config.
    fn strings(&self, key: &str) -> Vec<&str> {
        let list = self.config.pointer("/config").and_then(|config| config.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

async fn client_program(args: &[&OsStr]) -> Result<Program> {
    let path = tokio::task::spawn_blocking(|| tools::ensure(Tool::CatalogClient)).await??;
    Ok(Program::new("catalogclient", path).args(args))
}

async fn client<T: DeserializeOwned>(args: &[&OsStr]) -> Result<T> {
    let output = run(&client_program(args).await?).await?;
    serde_json::from_slice(&output).context("reading what catalogclient prints")
}

/// What a program prints that must succeed.
async fn run(program: &Program) -> Result<Vec<u8>> {
    let mut command = Command::new(&program.path);
    command.args(&program.args).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("running {}", program.path.display()))?;
    ensure!(output.status.success(), "{}: {}", program.name, String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

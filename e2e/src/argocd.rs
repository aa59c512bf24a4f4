//! Argo CD as plain processes: application controller and repo server, with redis and a Git repository on this machine.
//!
//! The controller works under a `ServiceAccount` of its own with all permissions, so that the audit log tells what it did from
//! what the harness and the operator did. There is no API server of Argo CD: an [`ArgoCd`] asks for refreshes and syncs as
//! that server would, through the Application.
//!
//! The controller's metrics port listens on all interfaces; Argo CD has no flag for that.

pub mod lua;
pub mod settings;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::cluster::{AuditEvent, AuditMark, Cluster, Output};
use crate::process::{Process, Program, RunFolder, free_port, port_was_taken};
use crate::tools::{self, Tool};
use crate::wait::{LONG, eventually, until};

/// Where Argo CD lives.
pub const NAMESPACE: &str = "argocd";
/// The `ServiceAccount` of its controller.
pub const ACCOUNT: &str = "argocd-application-controller";
/// The finalizer with which an Application takes its objects along.
pub const CASCADE: &str = "resources-finalizer.argocd.argoproj.io";

const PORT_ATTEMPTS: usize = 5;

/// The programs of this suite.
#[derive(Debug)]
struct Programs {
    argocd: PathBuf,
    helm: PathBuf,
    redis: Program,
    git: PathBuf,
}

impl Programs {
    fn find() -> Result<Self> {
        // First what cannot be built: nobody waits for a build in vain.
        let (redis, libraries) = tools::redis()?;
        let mut redis = Program::new("redis", redis);
        if let Some(libraries) = libraries {
            redis = redis.env("LD_LIBRARY_PATH", &libraries.display().to_string());
        }
        let git = on_path("git").context("git is not there, and Argo CD cannot do without it")?;
        Ok(Self { argocd: tools::ensure(Tool::ArgoCd)?, helm: tools::ensure(Tool::Helm)?, redis, git })
    }
}

/// Makes sure of every program of this suite and of Argo CD's CRDs.
///
/// # Errors
/// When redis or git is not there, or as [`tools::ensure()`].
pub fn ensure() -> Result<()> {
    Programs::find()?;
    tools::argo_cd_crds()?;
    Ok(())
}

/// A running Argo CD. Dropping it kills its processes.
#[derive(Debug)]
pub struct ArgoCd {
    controller: Process,
    repo_server: Process,
    redis: Process,
    applications: Api<DynamicObject>,
}

impl ArgoCd {
    /// Installs Argo CD into a cluster, with these files of `config/argocd` applied as its README says, and starts it.
    ///
    /// # Errors
    /// When a part cannot be had or does not start.
    pub async fn start(cluster: &Cluster, settings: &[&str]) -> Result<Self> {
        let crds = tokio::task::spawn_blocking(|| ensure().and_then(|()| tools::argo_cd_crds())).await??;
        install(cluster, &crds).await?;
        for file in settings {
            apply_settings(cluster, file).await?;
        }
        Self::launch(cluster).await
    }

    /// Ends it and starts it again, with what the cluster holds now.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn restart(&mut self, cluster: &Cluster) -> Result<()> {
        for process in [&mut self.controller, &mut self.repo_server, &mut self.redis] {
            process.kill();
        }
        *self = Self::launch(cluster).await?;
        Ok(())
    }

    async fn launch(cluster: &Cluster) -> Result<Self> {
        let Programs { argocd, helm, redis, git } = tokio::task::spawn_blocking(Programs::find).await??;
        let run = cluster.run();
        // What the repo server may start, and nothing else.
        let path = run.folder("argocd/path")?;
        for (name, program) in [("git", git), ("helm", helm)] {
            if !path.join(name).exists() {
                symlink(program, path.join(name))?;
            }
        }
        let home = run.folder("argocd/home")?.display().to_string();
        let scratch = run.folder("argocd/tmp")?.display().to_string();
        let kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT).await?.display().to_string();
        let program = |name: &str| Program::new(name, &argocd).env("ARGOCD_BINARY_NAME", name).env("HOME", &home);
        let (redis, redis_port) = listening(run, |port, _| {
            redis
                .clone()
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
                .arg(port.to_string())
        })
        .await?;
        let redis_flags = ["--redis".to_owned(), format!("127.0.0.1:{redis_port}")];
        let (repo_server, repo_port) = listening(run, |port, metrics| {
            program("argocd-repo-server")
                .env("PATH", &path.display().to_string())
                .env("TMPDIR", &scratch)
                .env("ARGOCD_GPG_ENABLED", "false")
                .args(["--address", "127.0.0.1", "--metrics-address", "127.0.0.1", "--disable-tls"])
                .args(["--port".to_owned(), port.to_string(), "--metrics-port".to_owned(), metrics.to_string()])
                .args(&redis_flags)
        })
        .await?;
        let (controller, _) = listening(run, |port, _| {
            program(ACCOUNT)
                .env("PATH", "/nonexistent")
                // The kubeconfig is what https://kubernetes.default.svc means.
                .env("ARGOCD_FAKE_IN_CLUSTER", "true")
                .env("KUBECONFIG", &kubeconfig)
                .args(["--kubeconfig", &kubeconfig, "-n", NAMESPACE])
                .args(["--repo-server".to_owned(), format!("127.0.0.1:{repo_port}")])
                .args(["--repo-server-plaintext", "--persist-resource-health"])
                .args(["--metrics-port".to_owned(), port.to_string()])
                .args(&redis_flags)
        })
        .await?;
        let applications = applications(cluster).await?;
        Ok(Self { controller, repo_server, redis, applications })
    }

    /// The Applications.
    pub fn applications(&self) -> &Api<DynamicObject> {
        &self.applications
    }

    /// Has an Application rendered and compared anew, at the newest commit, and waits until that is done.
    ///
    /// # Errors
    /// When it is not at the deadline.
    pub async fn refresh(&self, name: &str) -> Result<DynamicObject> {
        let annotation = "argocd.argoproj.io/refresh";
        self.patch(name, &json!({"metadata": {"annotations": {annotation: "hard"}}})).await?;
        until(&self.applications, name, LONG, "refreshed", |object| {
            !object.metadata.annotations.as_ref().is_some_and(|marks| marks.contains_key(annotation))
        })
        .await
    }

    /// Syncs an Application as a person would, and waits for the end of it, which need not be a success.
    ///
    /// # Errors
    /// When it has not ended at the deadline.
    pub async fn sync(&self, name: &str, prune: bool) -> Result<DynamicObject> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The Application remembers only its last operation: ours has to be told from others.
        let mark = format!("e2e-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let operation = json!({
            "initiatedBy": {"username": "e2e"},
            "info": [{"name": "mark", "value": mark}],
            "sync": {"prune": prune},
        });
        eventually(LONG, &format!("`{name}` to be synced by hand"), || async {
            let object = self.applications.get(name).await?;
            let state = object.data.pointer("/status/operationState").unwrap_or(&Value::Null);
            // Only the phase tells: other fields of the operation before are left in the state until the new one sets them.
            let running = matches!(state.get("phase").and_then(Value::as_str), Some("Running" | "Terminating"));
            if state.pointer("/operation/info/0/value") == Some(&json!(mark)) {
                return Ok((!running).then(|| object.clone()));
            }
            if object.data.get("operation").is_none() && !running {
                // Not if Argo CD begins one of its own meanwhile: the two would become one.
                let version = object.metadata.resource_version.clone();
                self.patch(name, &json!({"metadata": {"resourceVersion": version}, "operation": operation})).await?;
            }
            bail!("the operation is {state}")
        })
        .await
    }

    /// Waits until an Application has this sync status and this health at this commit.
    ///
    /// # Errors
    /// When it has not at the deadline.
    pub async fn until(&self, name: &str, commit: &str, (sync, health): (&str, &str)) -> Result<DynamicObject> {
        let what = format!("{sync} and {health} at {commit}");
        until(&self.applications, name, LONG, &what, |object| {
            is_at(object, commit) && state(object) == (sync.to_owned(), health.to_owned())
        })
        .await
    }

    /// Merges a patch into an Application.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn patch(&self, name: &str, patch: &Value) -> Result<DynamicObject> {
        let patched = self.applications.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.with_context(|| format!("patching Application `{name}`"))
    }
}

/// Sync status and health of an Application.
pub fn state(application: &DynamicObject) -> (String, String) {
    let text = |pointer| application.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/status/sync/status"), text("/status/health/status"))
}

/// Whether an Application was last compared with this commit.
pub fn is_at(application: &DynamicObject, commit: &str) -> bool {
    application.data.pointer("/status/sync/revision").and_then(Value::as_str) == Some(commit)
}

/// Kind and name of each object that an Application knows, with sync status and health, both empty where there is none.
pub fn resources(application: &DynamicObject) -> Vec<(String, String, String)> {
    let listed = application.data.pointer("/status/resources").and_then(Value::as_array);
    let text = |entry: &Value, pointer| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |entry: &Value| {
        let object = format!("{}/{}", text(entry, "/kind"), text(entry, "/name"));
        (object, text(entry, "/status"), text(entry, "/health/status"))
    };
    listed.into_iter().flatten().map(row).collect()
}

/// What Argo CD's controller asked for after a mark that changes something of one of these resources (plural names).
///
/// # Errors
/// When the audit log cannot be read.
pub fn writes_since(cluster: &Cluster, mark: AuditMark, resources: &[&str]) -> Result<Vec<AuditEvent>> {
    let mut events = cluster.audit_since(mark)?;
    events.retain(|event| {
        event.is_by(NAMESPACE, ACCOUNT) && event.is_write() && resources.contains(&event.resource.as_str())
    });
    Ok(events)
}

/// Applies a file of settings by the command that `config/argocd/README.md` gives for it.
///
/// # Errors
/// When there is no such command, or the API server refuses it.
pub async fn apply_settings(cluster: &Cluster, file: &str) -> Result<()> {
    let readme = fs::read_to_string(settings::folder().join("README.md"))?;
    let (folder, here) = ("config/argocd/", format!("{}/", settings::folder().display()));
    let end = format!(" {folder}{file}");
    let commands = readme.lines().filter_map(|line| line.strip_prefix("$ kubectl "));
    let command = commands.filter(|command| command.ends_with(&end)).collect::<Vec<_>>();
    let [command] = command.as_slice() else { bail!("the README has {} commands for {file}", command.len()) };
    let args: Vec<String> = command.split_whitespace().map(|arg| arg.replace(folder, &here)).collect();
    cluster.kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>()).await?.ok()?;
    Ok(())
}

/// `argocd admin settings resource-overrides`: settings and an object in files, no server.
///
/// # Errors
/// When the program cannot be had; what it refuses is an [`Output`].
pub fn offline(command: &str, object: &Path, more: &[&str]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut program = Command::new(tools::ensure(Tool::ArgoCd)?);
    program.env_clear().env("HOME", home.path()).env("ARGOCD_BINARY_NAME", "argocd").stdin(Stdio::null());
    // It shows what an action changes by `diff`.
    program.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    program.args(["admin", "settings", "resource-overrides", command]).arg(object).args(more);
    program.arg("--argocd-cm-path").arg(settings::folder().join("argocd-cm.yaml"));
    let output = program.output().context("running argocd")?;
    Ok(Output::of(&format!("argocd {command}"), &output))
}

async fn applications(cluster: &Cluster) -> Result<Api<DynamicObject>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application"));
    Ok(Api::namespaced_with(cluster.client().await?, NAMESPACE, &kind))
}

/// What Argo CD's own manifests would bring, without the pods.
async fn install(cluster: &Cluster, crds: &Path) -> Result<()> {
    for name in ["application", "appproject"] {
        let file = crds.join(format!("{name}-crd.yaml"));
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        cluster.add_crd(&text).await?;
    }
    let metadata = |name: &str| {
        let label = json!({"app.kubernetes.io/part-of": "argocd"});
        json!({"name": name, "namespace": NAMESPACE, "labels": label})
    };
    let key = "a key that signs nothing in here";
    cluster
        .apply_all(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT)}),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": ACCOUNT},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
            }),
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": metadata("argocd-secret"),
                "stringData": {"server.secretkey": key},
            }),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("argocd-cm")}),
            json!({
                "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "metadata": metadata("default"),
                "spec": {
                    "sourceRepos": ["*"],
                    "destinations": [{"server": "*", "namespace": "*"}],
                    "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
                },
            }),
        ])
        .await
}

/// Starts a program on free ports, its own and another one, and waits until it listens on its own.
async fn listening(run: &RunFolder, program: impl Fn(u16, u16) -> Program) -> Result<(Process, u16)> {
    for attempt in 1.. {
        let (port, other) = (free_port()?, free_port()?);
        let mut process = Process::spawn(&program(port, other), &run.logs())?;
        let ready = process.ready(LONG, || async move {
            let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(("127.0.0.1", port)));
            connected.await??;
            Ok(Some(()))
        });
        match ready.await {
            Ok(()) => return Ok((process, port)),
            Err(_) if attempt < PORT_ATTEMPTS && port_was_taken(process.stderr()) => {}
            Err(error) => return Err(error),
        }
    }
    bail!("no free ports")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A Git repository that Argo CD reads.
#[derive(Debug)]
pub struct Git {
    bare: PathBuf,
    tree: PathBuf,
}

impl Git {
    /// Makes an empty one in the folder of a run.
    ///
    /// # Errors
    /// When git is not there or refuses.
    pub fn create(run: &RunFolder, name: &str) -> Result<Self> {
        let (bare, tree) = (run.folder(&format!("git/{name}.git"))?, run.folder(&format!("git/{name}"))?);
        let made = Self { bare, tree };
        made.git(&made.bare, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
        made.git(&made.tree, &["init", "--quiet", "--initial-branch=main"])?;
        Ok(made)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("file://{}", self.bare.display())
    }

    /// The files that the next commit is made of.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Writes files (removes those without a text), commits and pushes everything, and returns the commit.
    ///
    /// # Errors
    /// When a file cannot be written, or git refuses.
    pub fn push(&self, files: &[(&str, Option<String>)]) -> Result<String> {
        for (name, text) in files {
            let path = self.tree.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&self.tree))?;
            match text {
                Some(text) => fs::write(&path, text)?,
                None => fs::remove_file(&path)?,
            }
        }
        self.git(&self.tree, &["add", "--all"])?;
        self.git(&self.tree, &["commit", "--quiet", "--allow-empty", "--message=e2e"])?;
        self.git(&self.tree, &["push", "--quiet", &self.bare.display().to_string(), "HEAD:main"])?;
        self.head()
    }

    fn head(&self) -> Result<String> {
        Ok(self.git(&self.tree, &["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Takes over what somebody else has pushed, and returns the commit.
    ///
    /// # Errors
    /// When git refuses.
    pub fn pull(&self) -> Result<String> {
        self.git(&self.tree, &["pull", "--quiet", &self.bare.display().to_string(), "main"])?;
        self.head()
    }

    /// Tags the newest commit.
    ///
    /// # Errors
    /// When git refuses.
    pub fn tag(&self, name: &str) -> Result<()> {
        self.git(
            &self.tree,
            &["push", "--quiet", &self.bare.display().to_string(), &format!("HEAD:refs/tags/{name}")],
        )?;
        Ok(())
    }

    /// Runs git with nothing of the user's own settings.
    fn git(&self, folder: &Path, args: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.current_dir(folder).args(args).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.tree.join("..")).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "e2e").env(format!("GIT_{role}_EMAIL"), "e2e@example.com");
        }
        Output::of(&format!("git {}", args.join(" ")), &command.output().context("running git")?).ok()
    }
}

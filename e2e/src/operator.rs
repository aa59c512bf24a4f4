//! The built operator, run as its Deployment says, under its own `ServiceAccount`.
//!
//! There is no kubelet: the harness takes `args` and `env` of the container in rendered `config/default`, asks for a
//! token of the `ServiceAccount`, and starts the binary on this machine. What differs from a pod is listed in
//! [`Operator::start`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment as Manifest;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use rustix::process::Signal;
use serde::Deserialize as _;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::cluster::{Cluster, client_of};
use crate::process::{Process, Program, free_port, port_was_taken, target_folder};
use crate::wait::{LONG, SHORT, eventually, image_set_mirrors};

const PORT_ATTEMPTS: usize = 5;
/// Least time between syncs that are asked for; in production a minute.
const SYNC_GAP: &str = "1s";

/// What of the Deployment matters for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its namespace: the operator's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The `ServiceAccount` that the operator runs under.
    pub service_account: String,
    /// The container's image.
    pub image: String,
    /// The container's arguments.
    pub args: Vec<String>,
    /// The container's environment, by name; `fieldRef`s are still to be resolved.
    pub env: Vec<(String, EnvValue)>,
}

/// Where the value of an environment variable comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// It is written in the Deployment.
    Literal(String),
    /// It is a field of the pod.
    Field(String),
}

/// What a test changes about the Deployment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Flags that replace those of the same name in the Deployment, or are added: `("--flag", "value")`; repeatable.
    pub flags: Vec<(String, String)>,
    /// Environment variables that replace those of the same name, or are added.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// With this flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::canonicalize(&root).unwrap_or(root)
}

/// The binary under test: `IMAGESET_MIRROR_BIN`, else the newest one that cargo has built.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("IMAGESET_MIRROR_BIN") {
        return std::path::absolute(&path).with_context(|| format!("IMAGESET_MIRROR_BIN={}", path.display()));
    }
    let built = ["release", "debug"].map(|profile| target_folder().join(profile).join("imageset-mirror"));
    let newest = built.into_iter().filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path))).max();
    let (_, path) =
        newest.context("the operator is not built: run `cargo build --release`, or set IMAGESET_MIRROR_BIN")?;
    Ok(path)
}

/// Applies `config/default` to a cluster, as the README says, waits until the CRD is served, and returns its Deployment.
///
/// # Errors
/// When the API server refuses something.
pub async fn apply_config_default(cluster: &Cluster) -> Result<Deployment> {
    let folder = repository().join("config/default");
    let folder = folder.display().to_string();
    cluster.kubectl(&["apply", "--server-side", "-k", &folder]).await?.ok()?;
    let mirrors = image_set_mirrors(cluster.client().await?, "default");
    let (mirrors, one) = (&mirrors, &ListParams::default().limit(1));
    eventually(SHORT, "ImageSetMirror objects to be served", || async move { Ok(Some(mirrors.list(one).await?)) })
        .await?;
    let deployment = rendered_deployment(cluster).await?;
    owners_are_taken(cluster, &deployment, &deployment.namespace).await?;
    Ok(deployment)
}

/// Waits until the operator may write what our objects in a namespace own. The admission plugin that guards owners learns of a new kind a
/// little later, and refuses owners of that kind until then; whoever may do everything is not asked.
///
/// # Errors
/// When it is refused at the deadline.
pub async fn owners_are_taken(cluster: &Cluster, deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubeconfig = cluster.service_account_kubeconfig(&deployment.namespace, &deployment.service_account).await?;
    let client = client_of(&kubeconfig).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let owned = serde_json::from_value(json!({
        "metadata": {"name": "owned", "ownerReferences": [{
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "name": "owner", "uid": "none",
            "controller": true, "blockOwnerDeletion": true,
        }]},
    }))?;
    let (maps, owned) = (&maps, &owned);
    let dry_run = &PostParams { dry_run: true, ..PostParams::default() };
    eventually(SHORT, "ImageSetMirror objects to be taken as owners", || async move {
        Ok(Some(maps.create(dry_run, owned).await?))
    })
    .await?;
    Ok(())
}

/// The only Deployment of rendered `config/default`.
///
/// # Errors
/// When it does not render, or has not exactly one Deployment with one container.
pub async fn rendered_deployment(cluster: &Cluster) -> Result<Deployment> {
    static RENDERED: OnceCell<Deployment> = OnceCell::const_new();
    let render = || async {
        let folder = repository().join("config/default").display().to_string();
        let rendered = cluster.kubectl(&["kustomize", &folder]).await?.ok()?;
        parse_deployment(&rendered)
    };
    RENDERED.get_or_try_init(render).await.cloned()
}

/// The only Deployment of rendered manifests.
///
/// # Errors
/// When there is not exactly one Deployment with one container.
pub fn parse_deployment(rendered: &str) -> Result<Deployment> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(rendered) {
        let value = serde_yaml::Value::deserialize(document)?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("Deployment") {
            found.push(serde_yaml::from_value::<Manifest>(value)?);
        }
    }
    let [manifest] = found.as_slice() else { bail!("{} Deployments", found.len()) };
    let pod = manifest.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).context("no pod template")?;
    let [container] = pod.containers.as_slice() else { bail!("{} containers", pod.containers.len()) };
    let mut env = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref())) {
            (_, Some(field)) => EnvValue::Field(field.field_path.clone()),
            (value, None) if variable.value_from.is_none() => EnvValue::Literal(value.clone().unwrap_or_default()),
            _ => bail!("environment variable {}: only values and fieldRefs are understood", variable.name),
        };
        env.push((variable.name.clone(), value));
    }
    Ok(Deployment {
        namespace: manifest.metadata.namespace.clone().context("the Deployment has no namespace")?,
        name: manifest.metadata.name.clone().context("the Deployment has no name")?,
        service_account: pod.service_account_name.clone().context("the Deployment names no ServiceAccount")?,
        image: container.image.clone().context("the container has no image")?,
        args: container.args.clone().unwrap_or_default(),
        env,
    })
}

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    pod_name: String,
    metrics: String,
    probes: String,
}

impl Operator {
    /// Starts the binary as the Deployment says. Different from a pod are: the ports of `--metrics-addr` and
    /// `--probe-addr` are free ones of 127.0.0.1, the API server and the token come from `KUBECONFIG`, nothing is
    /// mounted, and syncs that are asked for may follow each other after a second.
    ///
    /// # Errors
    /// When it ends at once, or serves no probes at the deadline. It need not be ready: see [`Operator::until_ready`].
    pub async fn start(cluster: &Cluster, deployment: &Deployment, overrides: &Overrides) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let binary = binary()?;
        let kubeconfig = cluster.service_account_kubeconfig(&deployment.namespace, &deployment.service_account).await?;
        let pod_name = format!("{}-{}", deployment.name, COUNT.fetch_add(1, Ordering::Relaxed));
        for attempt in 1.. {
            let (metrics, probes) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
            let mut env = resolve_env(deployment, &pod_name)?;
            env.extend(overrides.env.iter().cloned());
            env.insert("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
            env.insert("HOME".to_owned(), cluster.run().folder("operator-home")?.display().to_string());
            let mut args: Vec<String> = deployment.args.iter().map(|arg| expand(arg, &env)).collect();
            let gap = SYNC_GAP.to_owned();
            let ours = [("--metrics-addr", &metrics), ("--probe-addr", &probes), ("--sync-gap", &gap)];
            let chosen = overrides.flags.iter().map(|(name, value)| (name.as_str(), value));
            set_flags(&mut args, &ours.into_iter().chain(chosen).collect::<Vec<_>>());
            let mut program = Program::new(&pod_name, &binary).args(args);
            program.env = env.into_iter().collect();
            let process = Process::spawn(&program, &cluster.run().logs())?;
            let mut operator = Self { process, pod_name: pod_name.clone(), metrics, probes };
            match operator.until_alive().await {
                Ok(()) => return Ok(operator),
                Err(_) if attempt < PORT_ATTEMPTS && port_was_taken(operator.process.stderr()) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free ports")
    }

    /// The name that it believes its pod has.
    pub fn pod_name(&self) -> &str {
        &self.pod_name
    }

    /// The process, for signals and its exit.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        let read =
            |path: &Path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        read(self.process.stderr()) + &read(self.process.stdout())
    }

    /// Waits until `/livez` answers.
    async fn until_alive(&mut self) -> Result<()> {
        let url = format!("http://{}/livez", self.probes);
        self.process.ready(LONG, || answers(url.clone())).await
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// When it ends, or the deadline has passed.
    pub async fn until_ready(&mut self, deadline: Duration) -> Result<()> {
        let url = format!("http://{}/readyz", self.probes);
        self.process.ready(deadline, || answers(url.clone())).await
    }

    /// Whether `/readyz` says yes now.
    pub async fn is_ready(&self) -> bool {
        matches!(answers(format!("http://{}/readyz", self.probes)).await, Ok(Some(())))
    }

    /// What `/readyz` says now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn readiness(&self) -> Result<String> {
        Ok(http()?.get(self.ready_url()).send().await?.text().await?)
    }

    /// Where it says whether it is ready.
    pub fn ready_url(&self) -> String {
        format!("http://{}/readyz", self.probes)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http()?.get(format!("http://{}/metrics", self.metrics)).send().await?.error_for_status()?.text().await?)
    }

    /// Waits until the text of `/metrics` meets `accept`.
    ///
    /// # Errors
    /// When it ends, or the deadline has passed.
    pub async fn until_metrics(&mut self, deadline: Duration, accept: impl Fn(&str) -> bool) -> Result<()> {
        let url = format!("http://{}/metrics", self.metrics);
        let accept = &accept;
        self.process
            .ready(deadline, || {
                let url = url.clone();
                async move { Ok(accept(&http()?.get(url).send().await?.text().await?).then_some(())) }
            })
            .await
    }

    /// Asks it to end (SIGTERM), as a kubelet does, and waits.
    ///
    /// # Errors
    /// When it has not ended at the deadline.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(SHORT).await
    }

    /// Kills it (SIGKILL): no chance to clean up.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it run on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }
}

fn http() -> Result<reqwest::Client> {
    crate::pki::install_tls_provider();
    Ok(reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?)
}

async fn answers(url: String) -> Result<Option<()>> {
    Ok(http()?.get(url).send().await?.status().is_success().then_some(()))
}

fn resolve_env(deployment: &Deployment, pod_name: &str) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for (name, value) in &deployment.env {
        let value = match value {
            EnvValue::Literal(value) => expand(value, &env),
            EnvValue::Field(path) => match path.as_str() {
                "metadata.name" => pod_name.to_owned(),
                "metadata.namespace" => deployment.namespace.clone(),
                "metadata.uid" => "00000000-0000-0000-0000-000000000000".to_owned(),
                "spec.serviceAccountName" => deployment.service_account.clone(),
                "spec.nodeName" => "e2e".to_owned(),
                "status.podIP" | "status.hostIP" => "127.0.0.1".to_owned(),
                other => bail!("environment variable {name}: the harness does not know the field {other}"),
            },
        };
        env.insert(name.clone(), value);
    }
    Ok(env)
}

/// Replaces `$(NAME)`, as Kubernetes does in `args`.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    env.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// Sets each `--flag=value`, in place of what the arguments say about these flags; a flag may be repeated.
fn set_flags(args: &mut Vec<String>, flags: &[(&str, &String)]) {
    for (name, _) in flags {
        let prefix = format!("{name}=");
        while let Some(at) = args.iter().position(|arg| arg == name || arg.starts_with(&prefix)) {
            let bare = args.remove(at) == *name;
            if bare && args.get(at).is_some_and(|next| !next.starts_with("--")) {
                args.remove(at);
            }
        }
    }
    args.extend(flags.iter().map(|(name, value)| format!("{name}={value}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENDERED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: op, namespace: ns}
spec:
  selector: {matchLabels: {app: op}}
  template:
    metadata: {labels: {app: op}}
    spec:
      serviceAccountName: account
      containers:
      - name: op
        image: host/op:1
        args: [controller, --namespace=$(POD_NAMESPACE), --metrics-addr, '0.0.0.0:8080', --quiet]
        env:
        - {name: LEVEL, value: info}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
";

    #[test]
    fn arguments_and_environment_come_from_the_deployment() {
        let deployment = parse_deployment(RENDERED).unwrap();
        assert_eq!((deployment.namespace.as_str(), deployment.service_account.as_str()), ("ns", "account"));
        assert_eq!(deployment.image, "host/op:1");
        let env = resolve_env(&deployment, "op-1").unwrap();
        assert_eq!(env.get("POD_NAMESPACE").unwrap(), "ns");
        let mut args: Vec<String> = deployment.args.iter().map(|arg| expand(arg, &env)).collect();
        let (address, one, two) = ("127.0.0.1:1".to_owned(), "x".to_owned(), "y".to_owned());
        set_flags(&mut args, &[("--metrics-addr", &address), ("--more", &one), ("--more", &two)]);
        let expected =
            ["controller", "--namespace=ns", "--quiet", "--metrics-addr=127.0.0.1:1", "--more=x", "--more=y"];
        assert_eq!(args, expected);
    }
}

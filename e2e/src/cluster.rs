//! A real Kubernetes control plane on loopback: etcd, API server, controller manager.
//!
//! The API server runs with RBAC, OpenShift's owner-reference admission and an audit log of every request. Without a node
//! there is no scheduler either: a Deployment stays without running pods, and the operator is started by
//! [`crate::operator`] instead. With one ([`Cluster::start_on_node`]) the same servers run in its network.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{self, Node};
use crate::pki::{self, Authority, Pair};
use crate::process::{Process, Program, RunFolder, free_port, port_was_taken};
use crate::tools::{self, Tool};
use crate::wait::{LONG, SHORT, eventually};

/// How often a server is started anew because somebody else took its port meanwhile.
const PORT_ATTEMPTS: usize = 5;

/// What the controller manager runs; the rest needs nodes or a cloud.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,deployment-controller,\
    replicaset-controller,disruption-controller,validatingadmissionpolicy-status-controller";

/// Every request, without bodies. A watch is logged when it starts, since it may outlive the test.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
    rules:\n- level: Metadata\n";

/// A kind that OpenShift brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenShiftKind {
    /// `imagedigestmirrorsets.config.openshift.io`
    ImageDigestMirrorSet,
    /// `imagetagmirrorsets.config.openshift.io`
    ImageTagMirrorSet,
    /// `imagecontentsourcepolicies.operator.openshift.io`
    ImageContentSourcePolicy,
    /// `images.config.openshift.io`: the cluster's image configuration.
    Image,
    /// `machineconfigpools.machineconfiguration.openshift.io`
    MachineConfigPool,
    /// `updateservices.updateservice.operator.openshift.io`, whose CRD is our own: that of its operator cannot be had.
    UpdateService,
    /// `catalogsources.operators.coreos.com`, of OLM.
    CatalogSource,
    /// `clustercatalogs.olm.operatorframework.io`, of OLM 1.
    ClusterCatalog,
}

impl OpenShiftKind {
    /// All of them.
    pub const ALL: [OpenShiftKind; 8] = [
        OpenShiftKind::ImageDigestMirrorSet,
        OpenShiftKind::ImageTagMirrorSet,
        OpenShiftKind::ImageContentSourcePolicy,
        OpenShiftKind::Image,
        OpenShiftKind::MachineConfigPool,
        OpenShiftKind::UpdateService,
        OpenShiftKind::CatalogSource,
        OpenShiftKind::ClusterCatalog,
    ];

    /// What `clusterResources` writes.
    pub const MIRROR_SETS: [OpenShiftKind; 2] = [OpenShiftKind::ImageDigestMirrorSet, OpenShiftKind::ImageTagMirrorSet];

    fn file(self) -> &'static str {
        match self {
            Self::ImageDigestMirrorSet => "0000_10_config-operator_01_imagedigestmirrorsets.crd.yaml",
            Self::ImageTagMirrorSet => "0000_10_config-operator_01_imagetagmirrorsets.crd.yaml",
            Self::ImageContentSourcePolicy => "0000_10_config-operator_01_imagecontentsourcepolicies.crd.yaml",
            Self::Image => "0000_10_config-operator_01_images-Default.crd.yaml",
            Self::MachineConfigPool => "0000_80_machine-config_01_machineconfigpools.crd.yaml",
            Self::UpdateService => "updateservices.yaml",
            Self::CatalogSource => "operators.coreos.com_catalogsources.yaml",
            Self::ClusterCatalog => "olm.operatorframework.io_clustercatalogs.yaml",
        }
    }
}

/// A running control plane.
#[derive(Debug)]
pub struct Cluster {
    // Before the node, and that before the folder: the processes end first.
    controller_manager: Option<Process>,
    scheduler: Option<Process>,
    apiserver: Option<Process>,
    apiserver_program: Program,
    etcd: Process,
    node: Option<Node>,
    server: String,
    ca_file: PathBuf,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    audit_log: PathBuf,
    run: RunFolder,
}

impl Cluster {
    /// Starts a cluster with OpenShift's mirror sets.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&OpenShiftKind::MIRROR_SETS).await
    }

    /// Starts a cluster with these OpenShift kinds; with none it is plain Kubernetes.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start_with(kinds: &[OpenShiftKind]) -> Result<Self> {
        Box::pin(Self::launch(None, kinds)).await
    }

    /// Starts a cluster with these OpenShift kinds and one node, which runs pods.
    ///
    /// # Errors
    /// When this machine cannot run a node, see [`Node::available`], or a part does not start.
    pub async fn start_on_node(kinds: &[OpenShiftKind]) -> Result<Self> {
        Box::pin(Self::launch(Some(Node::create().await?), kinds)).await
    }

    async fn launch(node: Option<Node>, kinds: &[OpenShiftKind]) -> Result<Self> {
        pki::install_tls_provider();
        let tools = tokio::task::spawn_blocking(|| -> Result<_> {
            Ok((
                tools::ensure(Tool::KubeApiserver)?,
                tools::ensure(Tool::KubeControllerManager)?,
                tools::ensure(Tool::Etcd)?,
                tools::ensure(Tool::Kubectl)?,
            ))
        });
        let (apiserver_path, manager_path, etcd_path, kubectl) = tools.await??;
        let run = RunFolder::create("cluster")?;
        let authority = Authority::new("e2e")?;
        let ca_file = run.write("pki/ca.crt", authority.pem())?;
        let names =
            ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc", "10.0.0.1", node::SERVICE_ADDRESS];
        let serving = authority.server(&run, "apiserver", &names)?;
        let admin = authority.client(&run, "admin", "e2e-admin", Some("system:masters"))?;
        let (sa_private, sa_public) = pki::signing_key(&run, "service-accounts")?;
        let audit_policy = run.write("audit-policy.yaml", AUDIT_POLICY)?;
        let audit_log = run.logs().join("audit.log");

        let (etcd, etcd_url) = match &node {
            None => start_etcd(&run, &etcd_path).await?,
            Some(node) => start_etcd_inside(node, &run, &etcd_path)?,
        };
        let flags = ApiServerFlags {
            path: &apiserver_path,
            etcd_url: &etcd_url,
            serving: &serving,
            ca_file: &ca_file,
            sa_private: &sa_private,
            sa_public: &sa_public,
            audit_policy: &audit_policy,
            audit_log: &audit_log,
            cert_dir: &run.folder("apiserver")?,
        };
        let admin_config = |server: &str| run.write("admin.kubeconfig", user_config(server, &ca_file, "admin", &admin));
        let mut attempt = 0;
        let (apiserver, apiserver_program, server, inner_server, kubeconfig) = loop {
            attempt += 1;
            let (program, server, inner_server) = if let Some(node) = &node {
                let server = format!("https://{}", node.reach("127.0.0.1:443").await?);
                (node.inside(&flags.on_node(&admin)), server, "https://127.0.0.1:443".to_owned())
            } else {
                let port = free_port()?;
                let server = format!("https://127.0.0.1:{port}");
                (flags.on_loopback(port), server.clone(), server)
            };
            let kubeconfig = admin_config(&server)?;
            let mut process = Process::spawn(&program, &run.logs())?;
            match apiserver_ready(&mut process, &kubeconfig).await {
                Ok(()) => break (process, program, server, inner_server, kubeconfig),
                Err(_) if attempt < PORT_ATTEMPTS && port_was_taken(process.stderr()) => {}
                Err(error) => return Err(error),
            }
        };

        let manager = authority.client(&run, "manager", "system:kube-controller-manager", None)?;
        let manager_config =
            run.write("manager.kubeconfig", user_config(&inner_server, &ca_file, "manager", &manager))?;
        let controllers = if node.is_some() { "*" } else { CONTROLLERS };
        let manager_program = Program::new("kube-controller-manager", manager_path)
            .arg(flag("--kubeconfig", &manager_config))
            .arg(flag("--service-account-private-key-file", &sa_private))
            .arg(flag("--root-ca-file", &ca_file))
            .arg(format!("--controllers={controllers}"))
            .args(["--leader-elect=false", "--use-service-account-credentials", "--secure-port=0"]);
        let manager_program = node.as_ref().map_or(manager_program.clone(), |node| node.inside(&manager_program));
        let controller_manager = Process::spawn(&manager_program, &run.logs())?;

        let mut cluster = Self {
            controller_manager: Some(controller_manager),
            scheduler: None,
            apiserver: Some(apiserver),
            apiserver_program,
            etcd,
            node,
            server,
            ca_file,
            kubeconfig,
            kubectl,
            audit_log,
            run,
        };
        cluster.boot_node(&authority, &inner_server).await?;
        cluster.add_kinds(kinds).await?;
        cluster.controllers_ready().await?;
        Ok(cluster)
    }

    /// Starts what a node needs, if there is one, and waits until it takes pods.
    async fn boot_node(&mut self, authority: &Authority, server: &str) -> Result<()> {
        let client = self.client().await?;
        let Some(node) = self.node.as_mut() else { return Ok(()) };
        let scheduler = authority.client(&self.run, "scheduler", "system:kube-scheduler", None)?;
        let config =
            self.run.write("scheduler.kubeconfig", user_config(server, &self.ca_file, "scheduler", &scheduler))?;
        let path = tokio::task::spawn_blocking(|| tools::ensure(Tool::KubeScheduler)).await??;
        let program = Program::new("kube-scheduler", path)
            .arg(flag("--kubeconfig", &config))
            .args(["--leader-elect=false", "--secure-port=0"]);
        self.scheduler = Some(Process::spawn(&node.inside(&program), &self.run.logs())?);
        node.boot(authority, &self.ca_file, server).await?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Node"));
        let nodes: &Api<DynamicObject> = &Api::all_with(client, &kind);
        let kubelet = node.kubelet().context("kubelet is not running")?;
        kubelet
            .ready(LONG, || async move {
                let object = nodes.get(node::NAME).await?;
                Ok(crate::wait::has_condition(&object, "Ready", "True").then_some(()))
            })
            .await
    }

    /// The node, if pods can run.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Installs more OpenShift kinds and waits until they are served.
    ///
    /// # Errors
    /// When a kind is not served at the deadline.
    pub async fn add_kinds(&self, kinds: &[OpenShiftKind]) -> Result<()> {
        if kinds.is_empty() {
            return Ok(());
        }
        let folder = tokio::task::spawn_blocking(tools::openshift_crds).await??;
        let [olm, olm1] = tokio::task::spawn_blocking(tools::olm_crds).await??;
        let own = crate::operator::repository().join("e2e/crds");
        for kind in kinds {
            let folder = match kind {
                OpenShiftKind::UpdateService => &own,
                OpenShiftKind::CatalogSource => &olm,
                OpenShiftKind::ClusterCatalog => &olm1,
                _ => &folder,
            };
            let file = folder.join(kind.file());
            let mut text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            if *kind == OpenShiftKind::ClusterCatalog {
                // The newest module that can be had is one before the version was renamed; what we write has not changed.
                text = text.replace("name: v1alpha1", "name: v1");
            }
            self.add_crd(&text).await.with_context(|| format!("installing {}", kind.file()))?;
        }
        Ok(())
    }

    /// Installs a CRD from YAML and waits until its objects can be listed.
    ///
    /// # Errors
    /// When the API server refuses it, or it is not served at the deadline.
    pub async fn add_crd(&self, yaml: &str) -> Result<()> {
        let client = self.client().await?;
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let crds: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        let crd: DynamicObject = serde_yaml::from_str(yaml).context("reading the CRD")?;
        let name = crd.metadata.name.clone().context("the CRD has no name")?;
        let text = |pointer: &str| crd.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (group, plural) = (text("/spec/group"), text("/spec/names/plural"));
        let version = text("/spec/versions/0/name");
        crds.create(&PostParams::default(), &crd).await?;
        let crds = &crds;
        let name = &name;
        eventually(SHORT, &format!("{name} to be established"), || async move {
            let crd = crds.get(name).await?;
            Ok(crate::wait::has_condition(&crd, "Established", "True").then_some(()))
        })
        .await?;
        let path = format!("/apis/{group}/{version}/{plural}?limit=1");
        eventually(SHORT, &format!("{path} to be served"), || {
            let request = http_get(&path);
            let client = client.clone();
            async move { Ok(Some(client.request_text(request?).await?)) }
        })
        .await?;
        Ok(())
    }

    /// Where the API server listens.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The kubeconfig of the administrator: for the harness only, never for the operator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of this run.
    pub fn run(&self) -> &RunFolder {
        &self.run
    }

    /// A new client of the administrator. It belongs to the runtime that it is made in.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig).await
    }

    /// Runs `kubectl` as the administrator, with a discovery cache of its own.
    ///
    /// # Errors
    /// When it cannot be started; a refused command is an [`Output`] like any other.
    pub async fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_with_input(args, "").await
    }

    /// Runs `kubectl` with text on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command(&self.kubectl)?;
        command.args(args);
        let file = tempfile::tempfile()?;
        std::io::Write::write_all(&mut &file, input.as_bytes())?;
        std::io::Seek::rewind(&mut &file)?;
        command.stdin(Stdio::from(file));
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("running kubectl")?;
        Ok(Output::of(&format!("kubectl {}", args.join(" ")), &output))
    }

    /// Runs commands of a shell in a folder, with our `kubectl` and `helm` as the administrator and nothing of the user's own
    /// settings; the first one that fails ends it.
    ///
    /// # Errors
    /// When helm cannot be had, or the shell cannot be started.
    pub async fn shell(&self, script: &str, folder: &Path) -> Result<Output> {
        let helm = tokio::task::spawn_blocking(|| tools::ensure(Tool::Helm)).await??;
        let programs = [&self.kubectl, &helm].into_iter().filter_map(|program| program.parent()).map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(programs.chain(std::env::split_paths(&path)))?;
        let mut command = self.command(Path::new("bash"))?;
        command.args(["-euxo", "pipefail", "-c", script]).current_dir(folder).env("PATH", path).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("running bash")?;
        Ok(Output::of("bash", &output))
    }

    /// A program that finds the cluster, and nothing of the user's own settings.
    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.run.path());
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", self.run.folder("kubectl-cache")?);
        Ok(command)
    }

    /// `kubectl apply --server-side --force-conflicts -f -` as the administrator, under a field manager of the harness: under
    /// kubectl's own it would take away what an installation has set and it does not name.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=e2e", "-f", "-"];
        self.kubectl_with_input(&args, yaml).await?.ok()
    }

    /// Applies objects in one go.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply_all(&self, objects: &[Value]) -> Result<()> {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).await?;
        Ok(())
    }

    /// A kubeconfig for a `ServiceAccount`, whose token lies in a file beside it.
    ///
    /// # Errors
    /// When there is no such account at the deadline.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.refresh_service_account_token(namespace, name, None).await?;
        let token = self.token_file(namespace, name);
        let text = pki::kubeconfig(&self.server, &self.ca_file, name, &[("tokenFile", &token)]);
        self.run.write(&format!("accounts/{namespace}-{name}.kubeconfig"), text)
    }

    /// Asks for a new token and puts it into the file that the account's kubeconfig names. A token that is `bound` to an
    /// object is revoked when that object is deleted.
    ///
    /// # Errors
    /// When there is no such account at the deadline.
    pub async fn refresh_service_account_token(
        &self,
        namespace: &str,
        name: &str,
        bound: Option<BoundObjectReference>,
    ) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec!["https://kubernetes.default.svc".to_owned()],
                bound_object_ref: bound,
                expiration_seconds: Some(12 * 3600),
            },
            ..TokenRequest::default()
        };
        let (accounts, request) = (&accounts, &request);
        let answer = eventually(SHORT, &format!("a token for {namespace}/{name}"), || async move {
            Ok(Some(accounts.create_token_request(name, &PostParams::default(), request).await?))
        })
        .await?;
        let token = answer.status.context("the token request has no status")?.token;
        // Renamed into place: a reader sees the old token or the new one.
        let file = self.token_file(namespace, name);
        let staging = self.run.write(&format!("accounts/{namespace}-{name}.new"), token)?;
        fs::rename(staging, file)?;
        Ok(())
    }

    fn token_file(&self, namespace: &str, name: &str) -> PathBuf {
        self.run.path().join(format!("accounts/{namespace}-{name}.token"))
    }

    /// Everything in the audit log so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        self.audit_since(AuditMark(0))
    }

    /// The present end of the audit log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit_mark(&self) -> Result<AuditMark> {
        Ok(AuditMark(fs::metadata(&self.audit_log)?.len()))
    }

    /// What was logged after a mark. The API server logs a request before it answers it. A watch is one event, logged
    /// when it starts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit_since(&self, mark: AuditMark) -> Result<Vec<AuditEvent>> {
        let log = fs::read(&self.audit_log).with_context(|| format!("reading {}", self.audit_log.display()))?;
        let new = log.get(usize::try_from(mark.0)?..).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let mut events = Vec::new();
        // The last line may still be in the making.
        let complete = new.iter().rposition(|&byte| byte == b'\n').and_then(|end| new.get(..end)).unwrap_or_default();
        for line in complete.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let raw: RawEvent = serde_json::from_slice(line).context("a line of the audit log")?;
            // The end of a watch whose start is an event already, perhaps before the mark.
            let end_of_watch =
                raw.verb == "watch" && raw.stage == "ResponseComplete" && raw.response_status.code == 200;
            if !end_of_watch && seen.insert(raw.audit_id.clone()) {
                events.push(raw.into());
            }
        }
        Ok(events)
    }

    /// Kills the API server; etcd and the controller manager stay.
    pub fn stop_apiserver(&mut self) {
        if let Some(mut process) = self.apiserver.take() {
            process.kill();
        }
    }

    /// Starts the API server again, on the same port and data, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready at the deadline.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        if self.apiserver.is_some() {
            return Ok(());
        }
        let mut process = Process::spawn(&self.apiserver_program, &self.run.logs())?;
        apiserver_ready(&mut process, &self.kubeconfig).await?;
        self.apiserver = Some(process);
        Ok(())
    }

    /// Freezes or thaws the API server: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze_apiserver(&self, frozen: bool) -> Result<()> {
        let process = self.apiserver.as_ref().context("the API server is not running")?;
        process.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Ends everything in order. Dropping does the same at once.
    pub fn stop(mut self) {
        self.controller_manager = None;
        self.scheduler = None;
        self.stop_apiserver();
        self.etcd.kill();
    }

    /// Waits for what the controller manager makes first.
    async fn controllers_ready(&mut self) -> Result<()> {
        let client = self.client().await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        let accounts = &accounts;
        let manager = self.controller_manager.as_mut().context("the controller manager is not running")?;
        manager.ready(LONG, || async move { Ok(accounts.get_opt("default").await?) }).await?;
        Ok(())
    }
}

/// A client for a kubeconfig.
///
/// # Errors
/// When it cannot be read.
pub async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    pki::install_tls_provider();
    let config = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

/// What a command printed.
#[derive(Clone, Debug)]
pub struct Output {
    command: String,
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    pub(crate) fn of(command: &str, output: &std::process::Output) -> Self {
        Self {
            command: command.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it did not, with its standard error.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success(), "{}: {}{}", self.command, self.stderr, self.stdout);
        Ok(self.stdout)
    }
}

/// A place in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditMark(u64);

/// One request, as the API server logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Who asked: `system:serviceaccount:<namespace>:<name>` for the operator.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// API group; empty for the core group and for paths without a resource.
    pub group: String,
    /// Plural resource name; empty for paths such as `/version`.
    pub resource: String,
    /// `status`, `token`, …, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name, or empty.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// The client's user agent.
    pub user_agent: String,
    /// When the request came in, RFC 3339 with microseconds.
    pub received: String,
    /// Path and query.
    pub uri: String,
}

impl AuditEvent {
    /// Whether it asks for a change.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether a `ServiceAccount` asked.
    pub fn is_by(&self, namespace: &str, account: &str) -> bool {
        self.user == format!("system:serviceaccount:{namespace}:{account}")
    }

    /// Whether RBAC or admission refused it.
    pub fn is_refused(&self) -> bool {
        matches!(self.code, 401 | 403)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEvent {
    #[serde(rename = "auditID")]
    audit_id: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    stage: String,
    verb: String,
    user: RawUser,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: RawObject,
    #[serde(default)]
    response_status: RawStatus,
    request_received_timestamp: String,
}

#[derive(Deserialize)]
struct RawUser {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawObject {
    resource: String,
    namespace: String,
    name: String,
    api_group: String,
    subresource: String,
}

#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default)]
    code: u16,
}

impl From<RawEvent> for AuditEvent {
    fn from(raw: RawEvent) -> Self {
        Self {
            user: raw.user.username,
            verb: raw.verb,
            group: raw.object_ref.api_group,
            resource: raw.object_ref.resource,
            subresource: raw.object_ref.subresource,
            namespace: raw.object_ref.namespace,
            name: raw.object_ref.name,
            code: raw.response_status.code,
            user_agent: raw.user_agent,
            received: raw.request_received_timestamp,
            uri: raw.request_uri,
        }
    }
}

struct ApiServerFlags<'a> {
    path: &'a Path,
    etcd_url: &'a str,
    serving: &'a Pair,
    ca_file: &'a Path,
    sa_private: &'a Path,
    sa_public: &'a Path,
    audit_policy: &'a Path,
    audit_log: &'a Path,
    cert_dir: &'a Path,
}

impl ApiServerFlags<'_> {
    fn on_loopback(&self, port: u16) -> Program {
        self.program().arg(format!("--secure-port={port}")).args([
            "--bind-address=127.0.0.1",
            // Loopback is not a valid address of a Service: advertise a documentation address, and to nobody.
            "--advertise-address=192.0.2.1",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        ])
    }

    /// Within reach of pods, and with access to kubelet.
    fn on_node(&self, kubelet_client: &Pair) -> Program {
        self.program()
            .arg(format!("--advertise-address={}", node::ADDRESS))
            .arg(flag("--kubelet-client-certificate", &kubelet_client.cert_file))
            .arg(flag("--kubelet-client-key", &kubelet_client.key_file))
            .arg(flag("--kubelet-certificate-authority", self.ca_file))
            .args([
                "--secure-port=443",
                "--bind-address=0.0.0.0",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement,NodeRestriction",
                "--kubelet-preferred-address-types=InternalIP",
                // Services have no addresses that route, but their pods do.
                "--enable-aggregator-routing=true",
            ])
    }

    fn program(&self) -> Program {
        Program::new("kube-apiserver", self.path)
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .arg(flag("--tls-cert-file", &self.serving.cert_file))
            .arg(flag("--tls-private-key-file", &self.serving.key_file))
            .arg(flag("--client-ca-file", self.ca_file))
            .arg(flag("--service-account-key-file", self.sa_public))
            .arg(flag("--service-account-signing-key-file", self.sa_private))
            .arg(flag("--audit-policy-file", self.audit_policy))
            .arg(flag("--audit-log-path", self.audit_log))
            .arg(flag("--cert-dir", self.cert_dir))
            .args([
                "--endpoint-reconciler-type=none",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--allow-privileged=true",
                "--audit-log-mode=blocking",
                // One file: rotation would take events away from the test.
                "--audit-log-maxsize=100000",
                "--profiling=false",
            ])
    }
}

/// A kubeconfig for a user with a certificate.
fn user_config(server: &str, ca_file: &Path, user: &str, pair: &Pair) -> String {
    let fields = [("client-certificate", pair.cert_file.as_path()), ("client-key", pair.key_file.as_path())];
    pki::kubeconfig(server, ca_file, user, &fields)
}

fn etcd_program(path: &Path, data: &Path, client: &str, peer: &str) -> Program {
    Program::new("etcd", path)
        .arg(flag("--data-dir", data))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .args(["--unsafe-no-fsync", "--log-level=warn"])
}

/// etcd in the node's network, where every port is free. The API server waits for it.
fn start_etcd_inside(node: &Node, run: &RunFolder, path: &Path) -> Result<(Process, String)> {
    let client = "http://127.0.0.1:2379";
    let program = etcd_program(path, &run.folder("etcd")?, client, "http://127.0.0.1:2380");
    Ok((Process::spawn(&node.inside(&program), &run.logs())?, client.to_owned()))
}

async fn start_etcd(run: &RunFolder, path: &Path) -> Result<(Process, String)> {
    for _ in 0..PORT_ATTEMPTS {
        let (client, peer) = (free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data = run.folder("etcd")?;
        let program = etcd_program(path, &data, &client, &peer);
        let mut process = Process::spawn(&program, &run.logs())?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{client}/readyz");
        let ready = process.ready(LONG, || {
            let request = http.get(&url);
            async move { Ok(request.send().await?.status().is_success().then_some(())) }
        });
        match ready.await {
            Ok(()) => return Ok((process, client)),
            Err(_) if port_was_taken(process.stderr()) => fs::remove_dir_all(&data)?,
            Err(error) => return Err(error),
        }
    }
    bail!("etcd found no port in {PORT_ATTEMPTS} attempts")
}

async fn apiserver_ready(process: &mut Process, kubeconfig: &Path) -> Result<()> {
    let client = client_of(kubeconfig).await?;
    process
        .ready(LONG, || {
            let client = client.clone();
            async move {
                let attempt = client.request_text(http_get("/readyz")?);
                // The client retries what it takes for a passing overload; here polling is ours.
                let answer = tokio::time::timeout(Duration::from_secs(5), attempt).await??;
                Ok((answer == "ok").then_some(()))
            }
        })
        .await
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

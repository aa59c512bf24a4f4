//! What most scenarios start from: a cluster with `config/default` applied, a source and a target registry with TLS and
//! passwords, and namespaces that can use them.

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};

use crate::cluster::{AuditEvent, AuditMark, Cluster, OpenShiftKind};
use crate::image::{Login, Remote, docker_config};
use crate::operator::{Deployment, Operator, Overrides, apply_config_default, rendered_deployment};
use crate::proxy::Proxy;
use crate::registry::{Options, Registry};
use crate::wait::{LONG, image_set_mirrors};

/// The Secret with the source registry's login.
pub const SOURCE_LOGIN: &str = "source-login";
/// The Secret with the target registry's login.
pub const TARGET_LOGIN: &str = "target-login";
/// The `ConfigMap` with the source registry's CA.
pub const SOURCE_CA: &str = "source-ca";
/// The `ConfigMap` with the target registry's CA.
pub const TARGET_CA: &str = "target-ca";
/// The key of a CA in its `ConfigMap`.
pub const CA_KEY: &str = "ca-bundle.crt";

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether the cluster has a node, on which the operator's Deployment runs.
    pub node: bool,
    /// The OpenShift kinds of the cluster.
    pub kinds: Vec<OpenShiftKind>,
    /// The registry that images come from.
    pub source: Options,
    /// The registry that they go to.
    pub target: Options,
}

impl Default for Setup {
    /// OpenShift's mirror sets, and CNCF distribution with TLS and passwords on both sides.
    fn default() -> Self {
        Self {
            node: false,
            kinds: OpenShiftKind::MIRROR_SETS.to_vec(),
            source: Options::distribution("source").tls().basic("puller", "source-password"),
            target: Options::distribution("target").tls().basic("pusher", "target-password"),
        }
    }
}

impl Setup {
    /// Starts the cluster and both registries, with nothing in them.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(self) -> Result<(Cluster, Registry, Registry)> {
        let cluster = async {
            if self.node { Cluster::start_on_node(&self.kinds).await } else { Cluster::start_with(&self.kinds).await }
        };
        tokio::try_join!(cluster, self.source.start(), self.target.start())
    }
}

/// Cluster, registries, and the Deployment of the operator, which is not running yet.
///
/// When it is dropped, no request of the operator may have been refused, unless a scenario has said that some will be.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Where images come from.
    pub source: Registry,
    /// Where they go.
    pub target: Registry,
    /// The operator's Deployment.
    pub deployment: Deployment,
    /// The host by which objects name the source: a [`crate::proxy::Proxy`] can take its place, before
    /// [`World::add_access`].
    pub source_host: String,
    /// The host by which objects name the target; likewise.
    pub target_host: String,
    /// The audit log from here on is the operator's.
    since: AuditMark,
    /// Why requests of the operator may be refused in this world, if so.
    pub refusals: Option<&'static str>,
}

impl World {
    /// Starts the default setup.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// Starts the default setup on a real node, where the operator's Deployment runs by itself and names registries by the
    /// node's address.
    ///
    /// # Errors
    /// When this machine cannot run a node, or a part does not start.
    pub async fn start_on_node() -> Result<Self> {
        Self::start_with(Setup { node: true, ..Setup::default() }).await
    }

    /// Starts another one.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start_with(setup: Setup) -> Result<Self> {
        let (cluster, source, target) = Box::pin(setup.start()).await?;
        if let Some(node) = cluster.node() {
            // Before its Deployment is there: no pod has to try twice.
            node.push_operator(&rendered_deployment(&cluster).await?.image).await?;
        }
        let deployment = apply_config_default(&cluster).await?;
        Box::pin(Self::around(cluster, source, target, deployment)).await
    }

    /// A world around an operator that is installed already.
    ///
    /// # Errors
    /// When the API server refuses what gives access to the registries.
    pub async fn around(cluster: Cluster, source: Registry, target: Registry, deployment: Deployment) -> Result<Self> {
        let (mut source_host, mut target_host) = (source.host(), target.host());
        if let Some(node) = cluster.node() {
            source_host = node.publish(source.port()).await?;
            target_host = node.publish(target.port()).await?;
        }
        let since = cluster.audit_mark()?;
        let world = Self { cluster, source, target, deployment, source_host, target_host, since, refusals: None };
        world.add_access(&world.deployment.namespace).await?;
        Ok(world)
    }

    /// Puts the logins and CAs of both registries into a namespace, which is made if it is not there; also after a
    /// password or a CA has changed.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn add_access(&self, namespace: &str) -> Result<()> {
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})];
        for (registry, host, login_name, ca_name) in [
            (&self.source, &self.source_host, SOURCE_LOGIN, SOURCE_CA),
            (&self.target, &self.target_host, TARGET_LOGIN, TARGET_CA),
        ] {
            objects.extend(registry.login().map(|login| logins(namespace, login_name, &[(host, login)])));
            objects.extend(registry.ca_pem().map(|ca| config_map(namespace, ca_name, CA_KEY, &ca)));
        }
        self.cluster.apply_all(&objects).await
    }

    /// Makes a namespace whose objects an operator may work for if `--watch-namespace` names it: access as in
    /// [`World::add_access`], and the `RoleBinding` that such a namespace needs.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn add_watched_namespace(&self, namespace: &str) -> Result<()> {
        self.add_access(namespace).await?;
        let role = "imageset-mirror-watched";
        let account = json!({
            "kind": "ServiceAccount",
            "name": self.deployment.service_account,
            "namespace": self.deployment.namespace,
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [account],
        });
        self.apply(&binding).await
    }

    /// Starts an operator and waits until it is ready.
    ///
    /// # Errors
    /// When it is not.
    pub async fn operator(&self) -> Result<Operator> {
        self.operator_with(&Overrides::default()).await
    }

    /// Starts an operator with other flags or environment and waits until it is ready.
    ///
    /// # Errors
    /// When it is not.
    pub async fn operator_with(&self, overrides: &Overrides) -> Result<Operator> {
        let mut operator = Operator::start(&self.cluster, &self.deployment, overrides).await?;
        operator.until_ready(LONG).await?;
        Ok(operator)
    }

    /// The operator's own namespace, which may write cluster objects.
    pub fn namespace(&self) -> &str {
        &self.deployment.namespace
    }

    /// The harness's access to the source.
    ///
    /// # Errors
    /// When its CA is not a certificate.
    pub fn source(&self) -> Result<Remote> {
        self.source.remote()
    }

    /// The harness's access to the target.
    ///
    /// # Errors
    /// When its CA is not a certificate.
    pub fn target(&self) -> Result<Remote> {
        self.target.remote()
    }

    /// An `ImageSetMirror` with these additional images, given as `repository:tag` or `repository@digest` of the source
    /// registry, or with a host of their own. Logins and CAs are those of [`World::add_access`].
    pub fn image_set_mirror(&self, namespace: &str, name: &str, images: &[&str]) -> Value {
        let entry = |image: &&str| {
            let first = image.split('/').next().unwrap_or_default();
            let has_host = image.contains('/') && (first.contains(':') || first.contains('.'));
            json!({"name": if has_host { (*image).to_owned() } else { format!("{}/{image}", self.source_host) }})
        };
        let access = |registry: &Registry, login: &str, ca: &str| {
            let mut fields = serde_json::Map::new();
            if registry.login().is_some() {
                fields.insert("credentials".to_owned(), json!({"name": login}));
            }
            if registry.ca_pem().is_some() {
                fields.insert("trustBundle".to_owned(), json!({"name": ca, "key": CA_KEY}));
            }
            fields
        };
        let mut source = access(&self.source, SOURCE_LOGIN, SOURCE_CA);
        let mut target = access(&self.target, TARGET_LOGIN, TARGET_CA);
        target.insert("registry".to_owned(), json!(self.target_host));
        if self.target.ca_pem().is_none() {
            target.insert("tls".to_owned(), json!("Plain"));
        }
        if self.source.ca_pem().is_none() {
            source.insert("hosts".to_owned(), json!([{"host": self.source_host, "tls": "Plain"}]));
        }
        json!({
            "apiVersion": "mirror.openshift.io/v1alpha1",
            "kind": "ImageSetMirror",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "mirror": {"additionalImages": images.iter().map(entry).collect::<Vec<_>>()},
                "source": source,
                "target": target,
            },
        })
    }

    /// Applies an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.cluster.apply(&object.to_string()).await.context("applying an object")?;
        Ok(())
    }

    /// The objects of a namespace.
    ///
    /// # Errors
    /// When there is no client.
    pub async fn mirrors(&self, namespace: &str) -> Result<Api<DynamicObject>> {
        Ok(image_set_mirrors(self.cluster.client().await?, namespace))
    }

    /// The host by which the operator finds a proxy.
    pub(crate) async fn host_for_pods(&self, proxy: &Proxy) -> Result<String> {
        match self.cluster.node() {
            Some(node) => node.publish(proxy.port()).await,
            None => Ok(proxy.host()),
        }
    }

    /// Before the operator is taken away, and its permissions with it.
    ///
    /// # Panics
    /// When a request of the operator was refused.
    pub fn assert_nothing_refused(&self) {
        let mut refused = self.operator_requests_since(self.since).unwrap_or_default();
        refused.retain(AuditEvent::is_refused);
        assert!(refused.is_empty(), "the API server refused {refused:#?}");
    }

    /// What was refused so far had its reason.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn forget_refusals(&mut self) -> Result<()> {
        self.since = self.cluster.audit_mark()?;
        Ok(())
    }

    /// What the operator's account asked of the API server after a mark.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn operator_requests_since(&self, mark: AuditMark) -> Result<Vec<AuditEvent>> {
        let mut events = self.cluster.audit_since(mark)?;
        events.retain(|event| event.is_by(&self.deployment.namespace, &self.deployment.service_account));
        Ok(events)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.refusals.is_none() && !std::thread::panicking() {
            self.assert_nothing_refused();
        }
    }
}

/// A Secret with registry logins, one per host or `host/path`.
pub fn logins(namespace: &str, name: &str, entries: &[(&str, &Login)]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": docker_config(entries)},
    })
}

/// A `ConfigMap` with one key: a trust bundle, for example.
pub fn config_map(namespace: &str, name: &str, key: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
        "data": {key: value},
    })
}

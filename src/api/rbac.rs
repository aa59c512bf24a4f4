//! What the operator may do, and the roles for people: the one source of `config/rbac` and of the chart's roles.
//!
//! Exactly what is used, and nothing more: an end-to-end test compares it with the API server's audit log. `create` cannot be
//! limited to names, and server-side apply needs `create` beside `patch`.

use serde_json::{Value, json};

use super::openshift::CONFIG_MANAGED;
use super::{GROUP, MANAGED_BY_LABEL, PLURAL};

/// Name of the `ServiceAccount`, of the Deployment and of the lease, and prefix of the roles.
pub const NAME: &str = "imageset-mirror";
/// Default namespace.
pub const NAMESPACE: &str = "imageset-mirror";

/// One rule of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is for.
    pub why: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Names it is limited to; empty for all.
    pub names: &'static [&'static str],
}

const fn rule(
    why: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule { why, group, resources, verbs, names: &[] }
}

const fn named(rule: Rule, names: &'static [&'static str]) -> Rule {
    Rule { names, ..rule }
}

/// In the whole cluster.
pub const CLUSTER: &[Rule] = &[
    rule(
        "Mirror sets are written, and all of them are read to find conflicts before that.",
        "config.openshift.io",
        &["imagedigestmirrorsets", "imagetagmirrorsets"],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    rule(
        "Their predecessor is read for the same reason.",
        "operator.openshift.io",
        &["imagecontentsourcepolicies"],
        &["list"],
    ),
    named(rule("Registries that nodes may not use.", "config.openshift.io", &["images"], &["get"]), &["cluster"]),
    rule("Pools that are busy or paused.", "machineconfiguration.openshift.io", &["machineconfigpools"], &["list"]),
    named(
        rule(
            "The UID of this namespace tells one cluster from another in a shared target.",
            "",
            &["namespaces"],
            &["get"],
        ),
        &["kube-system"],
    ),
];

/// In each namespace whose objects are watched.
pub const WATCHED: &[Rule] = &[
    rule("The objects; patch is for their finalizer.", GROUP, &[PLURAL], &["get", "list", "watch", "patch"]),
    rule("Their status.", GROUP, &["imagesetmirrors/status"], &["patch"]),
    rule(
        "Never used as such: OpenShift asks for it before an object may own another.",
        GROUP,
        &["imagesetmirrors/finalizers"],
        &["update"],
    ),
    rule(
        "Credentials, by the names that objects give. No list: nothing can be enumerated.",
        "",
        &["secrets"],
        &["get"],
    ),
    rule(
        "Certificates by name, and the manifests that are published.",
        "",
        &["configmaps"],
        &["get", "create", "patch", "delete"],
    ),
    rule("Events of the objects.", "events.k8s.io", &["events"], &["create", "patch"]),
];

/// In the operator's own namespace.
pub const OWN: &[Rule] = &[
    rule("The lease of the leader.", "coordination.k8s.io", &["leases"], &["create"]),
    named(rule("The same.", "coordination.k8s.io", &["leases"], &["get", "update"]), &[NAME]),
];

/// On OpenShift, in the namespace that release signatures are written to.
pub const SIGNATURES: &[Rule] = &[rule(
    "Release signatures are written where the cluster looks for them. By name: nothing can be enumerated.",
    "",
    &["configmaps"],
    &["get", "create", "patch", "delete"],
)];

/// In the whole cluster, if the update service is written.
pub const UPDATE_SERVICE: &[Rule] = &[rule(
    "The update service is written, in the namespace that the object names.",
    "updateservice.operator.openshift.io",
    &["updateservices"],
    &["get", "create", "patch", "delete"],
)];

/// In the whole cluster, if catalogs are written for the OLM that reads `CatalogSource`s.
pub const CATALOG_SOURCES: &[Rule] = &[rule(
    "Catalogs are written, in the namespace that the object names.",
    "operators.coreos.com",
    &["catalogsources"],
    &["get", "create", "patch", "delete"],
)];

/// In the whole cluster, if catalogs are written for the OLM that reads `ClusterCatalog`s.
pub const CLUSTER_CATALOGS: &[Rule] = &[rule(
    "Catalogs are written.",
    "olm.operatorframework.io",
    &["clustercatalogs"],
    &["get", "create", "patch", "delete"],
)];

/// A role that an installation has only if it writes an output.
#[derive(Clone, Copy, Debug)]
pub struct Optional {
    /// Name of the output, as `check` is told it.
    pub output: &'static str,
    /// Suffix of the role.
    pub role: &'static str,
    /// The namespace it is for; none for the whole cluster.
    pub namespace: Option<&'static str>,
    /// What it allows.
    pub rules: &'static [Rule],
}

/// All of them.
pub const OPTIONAL: &[Optional] = &[
    Optional { output: "releasesignatures", role: "signatures", namespace: Some(CONFIG_MANAGED), rules: SIGNATURES },
    Optional { output: "catalogsources", role: "catalog-source", namespace: None, rules: CATALOG_SOURCES },
    Optional { output: "clustercatalogs", role: "cluster-catalog", namespace: None, rules: CLUSTER_CATALOGS },
    Optional { output: "updateservices", role: "update-service", namespace: None, rules: UPDATE_SERVICE },
];

/// For people who look.
pub const VIEWER: &[Rule] =
    &[rule("The objects.", GROUP, &[PLURAL, "imagesetmirrors/status"], &["get", "list", "watch"])];

/// For people who write. Not part of `edit` and `admin`: through the operator an object reaches the whole cluster.
pub const EDITOR: &[Rule] = &[
    rule(
        "The objects.",
        GROUP,
        &[PLURAL],
        &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
    ),
    rule("Their status.", GROUP, &["imagesetmirrors/status"], &["get"]),
];

/// What the chart can leave out: a resource of [`CLUSTER`], and the value that says whether it is written.
pub const OUTPUTS: &[(&str, &str)] =
    &[("imagedigestmirrorsets", "imageDigestMirrorSet"), ("imagetagmirrorsets", "imageTagMirrorSet")];
/// What remains of the verbs on an output that is left out: foreign objects are still looked at.
pub const LOOKING: &[&str] = &["get", "list", "watch"];

/// The chart's templates of all rules, and their path.
pub fn chart_rules() -> (String, String) {
    let roles = [("cluster", CLUSTER), ("watched", WATCHED), ("own", OWN), ("viewer", VIEWER), ("editor", EDITOR)];
    let optional = OPTIONAL.iter().map(|optional| (optional.role, optional.rules));
    let templates = roles.into_iter().chain(optional).map(|(name, rules)| {
        let rules: Vec<String> = rules.iter().map(templated).collect();
        // The last line break is that of the line that includes it.
        let rules = rules.concat().trim_end().to_owned();
        format!("{{{{- define \"{NAME}.rules.{name}\" }}}}\n{rules}\n{{{{- end }}}}\n")
    });
    let templates: Vec<String> = templates.collect();
    let text = format!("{{{{/* Generated from src/api/rbac.rs; do not edit. */}}}}\n\n{}", templates.join("\n"));
    (format!("charts/{NAME}/templates/_rules.tpl"), text)
}

/// A rule as the chart has it: what depends on values is one.
fn templated(rule: &Rule) -> String {
    let switch = |resource: &str| OUTPUTS.iter().find(|(name, _)| *name == resource).map(|(_, value)| value);
    let (switched, fixed): (Vec<&str>, Vec<&str>) =
        rule.resources.iter().partition(|resource| rule.verbs.contains(&"create") && switch(resource).is_some());
    let mut text = String::new();
    for resource in &switched {
        let (value, all, some) = (switch(resource).unwrap_or(&""), rule.verbs.join(", "), LOOKING.join(", "));
        let verbs = format!("{{{{ ternary \"[{all}]\" \"[{some}]\" .Values.outputs.{value} }}}}");
        text += &entry(rule, resource, &names(rule), &verbs);
    }
    if !fixed.is_empty() {
        let names = match (rule.names, fixed.as_slice()) {
            // The lease is named like the Deployment.
            ([NAME], ["leases"]) => format!("  resourceNames: [{{{{ include \"{NAME}.fullname\" . }}}}]\n"),
            ([], ["secrets"]) => {
                "  {{- with .Values.rbac.secretNames }}\n  resourceNames: {{ toJson . }}\n  {{- end }}\n".to_owned()
            }
            _ => names(rule),
        };
        text += &entry(rule, &fixed.join(", "), &names, &format!("[{}]", rule.verbs.join(", ")));
    }
    text
}

/// The files of `config/rbac` and `config/openshift`, and their contents.
pub fn files() -> Vec<(String, String)> {
    let account = json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE});
    let view = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let name = |suffix: &str| format!("{NAME}-{suffix}");
    let documents = [
        (
            "service_account",
            format!(
                "{HEADER}{}",
                yaml(&json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels(&json!({}))},
                    // The pod says itself that it wants the token.
                    "automountServiceAccountToken": false,
                }))
            ),
        ),
        ("cluster_role", role("ClusterRole", &name("cluster"), None, &json!({}), CLUSTER)),
        ("cluster_role_binding", binding("ClusterRoleBinding", &name("cluster"), None, "ClusterRole", &account)),
        ("watched_role", role("ClusterRole", &name("watched"), None, &json!({}), WATCHED)),
        ("watched_role_binding", binding("RoleBinding", &name("watched"), Some(NAMESPACE), "ClusterRole", &account)),
        ("leader_election_role", role("Role", &name("leader-election"), Some(NAMESPACE), &json!({}), OWN)),
        (
            "leader_election_role_binding",
            binding("RoleBinding", &name("leader-election"), Some(NAMESPACE), "Role", &account),
        ),
        ("viewer_role", role("ClusterRole", &name("viewer"), None, &view, VIEWER)),
        ("editor_role", role("ClusterRole", &name("editor"), None, &json!({}), EDITOR)),
    ];
    let documents = documents.map(|(file, text)| (file.to_owned(), text));
    let optional = OPTIONAL.iter().flat_map(|Optional { role: suffix, namespace, rules, .. }| {
        let (file, name) = (suffix.replace('-', "_"), name(suffix));
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        [
            (format!("{file}_role"), role(kind, &name, *namespace, &json!({}), rules)),
            (format!("{file}_role_binding"), binding(&format!("{kind}Binding"), &name, *namespace, kind, &account)),
        ]
    });
    folder("config/rbac", documents.to_vec())
        .into_iter()
        .chain(folder("config/openshift", optional.collect()))
        .collect()
}

/// Files in a folder, by name without suffix, and what makes kustomize take them.
fn folder(path: &str, documents: Vec<(String, String)>) -> Vec<(String, String)> {
    let resources: Vec<String> = documents.iter().map(|(file, _)| format!("{file}.yaml")).collect();
    let kustomization =
        json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources});
    let mut files: Vec<_> = documents.into_iter().map(|(file, text)| (format!("{path}/{file}.yaml"), text)).collect();
    files.push((format!("{path}/kustomization.yaml"), format!("{HEADER}{}", yaml(&kustomization))));
    files
}

const HEADER: &str = "# Generated from src/api/rbac.rs; do not edit.\n";

fn yaml(value: &Value) -> String {
    serde_yaml::to_string(value).unwrap_or_default()
}

fn labels(more: &Value) -> Value {
    let mut labels = json!({"app.kubernetes.io/name": NAME, MANAGED_BY_LABEL: "kustomize"});
    if let (Some(labels), Some(more)) = (labels.as_object_mut(), more.as_object()) {
        labels.extend(more.clone());
    }
    labels
}

fn written(rule: &Rule) -> String {
    entry(rule, &rule.resources.join(", "), &names(rule), &format!("[{}]", rule.verbs.join(", ")))
}

fn names(rule: &Rule) -> String {
    match rule.names {
        [] => String::new(),
        names => format!("  resourceNames: [{}]\n", names.join(", ")),
    }
}

fn entry(rule: &Rule, resources: &str, names: &str, verbs: &str) -> String {
    let group = if rule.group.is_empty() { "\"\"" } else { rule.group };
    let why = rule.why;
    format!("# {why}\n- apiGroups: [{group}]\n  resources: [{resources}]\n{names}  verbs: {verbs}\n")
}

/// Roles are written by hand, so that each rule has its reason beside it.
fn role(kind: &str, name: &str, namespace: Option<&str>, more: &Value, rules: &[Rule]) -> String {
    let mut metadata = json!({"name": name, "labels": labels(more)});
    if let (Some(namespace), Some(metadata)) = (namespace, metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    let head = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata});
    let rules: Vec<String> = rules.iter().map(written).collect();
    format!("{HEADER}{}rules:\n{}", yaml(&head), rules.concat())
}

fn binding(kind: &str, name: &str, namespace: Option<&str>, role_kind: &str, account: &Value) -> String {
    let mut metadata = json!({"name": name, "labels": labels(&json!({}))});
    if let (Some(namespace), Some(metadata)) = (namespace, metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    let value = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": name},
        "subjects": [account],
    });
    format!("{HEADER}{}", yaml(&value))
}

//! From the spec to a [`Request`], collecting faults.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use url::Url;

use super::content::{self, Read};
use super::operators;
use super::{
    CATALOG_SOURCE_NAMESPACE, CatalogOutput, ClusterOutputs, CopyOptions, Endpoints, Fault, Identity, Invalid,
    MirrorSetOutput, Override, PROGRESS_DEADLINE, Request, SHORTEST, SIGNATURE_KEYS_KEY, Source, TRUST_BUNDLE_KEY,
    Target, UPDATE_SERVICE_NAMESPACE, UPDATE_SERVICE_REPLICAS, UpdateServiceOutput, units,
};
use crate::api::schema::{self, Lists};
use crate::api::{self, ImageSetMirror, MirrorSourcePolicy, OutputPolicy, Removal, Tls};
use crate::oci::{NameError, Registry, Repository, RepositoryPath};

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    /// Notes a mistake.
    pub(super) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { field: field.into(), message: message.into() });
    }

    /// Parses `text`, noting the error as a mistake in `field`.
    pub(super) fn parse<T: FromStr<Err = NameError>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.invalid(field, error.to_string());
                None
            }
        }
    }

    /// The mistakes of single fields first, then what the schema's bounds add for fields not named yet.
    fn finish(mut self, object: &ImageSetMirror, lists: Lists) -> Vec<Fault> {
        let mut found = Vec::new();
        let spec = serde_json::to_value(&object.spec).unwrap_or_default();
        if let Some(schema) = schema::SCHEMA.pointer("/properties/spec") {
            schema::bounds(schema, &spec, "spec", lists, &mut found);
        }
        let named: BTreeSet<String> = self.0.iter().map(|fault| fault.field.clone()).collect();
        for (field, message) in found {
            if !named.contains(&field) {
                self.invalid(field, message);
            }
        }
        self.0
    }
}

impl Request {
    /// Checks the whole object and lists every fault found.
    pub fn try_new(object: &ImageSetMirror) -> Result<Self, Invalid> {
        Self::check(object, Lists::Capped)
    }

    /// The same for what was read from a file. Its lists may have any length: the caps keep the API server's work small.
    pub fn of_file(object: &ImageSetMirror) -> Result<Self, Invalid> {
        Self::check(object, Lists::Open)
    }

    fn check(object: &ImageSetMirror, lists: Lists) -> Result<Self, Invalid> {
        let mut faults = Faults::default();
        let spec = &object.spec;
        let identity = identity(object, &mut faults);
        let mut warnings = Vec::new();
        let target = target(&spec.target, &mut faults);
        let Read { releases, catalogs, helm, additional, blocked } =
            content::read(&spec.mirror, spec.copy.charts, target.as_ref(), &mut faults, &mut warnings);
        let source = source(&spec.source, &mut faults);
        let interval = duration("spec.interval", spec.interval.as_deref(), &mut faults);
        let progress_deadline = duration("spec.progressDeadline", spec.progress_deadline.as_deref(), &mut faults);
        let copy = copy(&spec.copy, &mut faults);
        let mut cluster = cluster(&spec.cluster_resources, &mut faults);
        operators::check_names(&catalogs, &spec.cluster_resources, &mut cluster, &mut faults, &mut warnings);
        let faults = faults.finish(object, lists);
        match target {
            Some(target) if faults.is_empty() => Ok(Self {
                identity,
                generation: object.metadata.generation.unwrap_or_default(),
                releases,
                catalogs,
                helm,
                additional,
                blocked,
                target,
                source,
                interval,
                suspend: spec.suspend,
                mode: spec.mode,
                progress_deadline: progress_deadline.unwrap_or(PROGRESS_DEADLINE),
                copy,
                release_signatures: spec.verification.release_signatures,
                cluster,
                request_token: request_token(object),
                warnings,
            }),
            _ => Err(Invalid { faults }),
        }
    }
}

/// The value of the annotation that asks for a sync now; both of its names together if both are there, since either may be the
/// one that changes.
pub fn request_token(object: &ImageSetMirror) -> Option<String> {
    let annotations = object.metadata.annotations.as_ref()?;
    let value = |key| annotations.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let token = match (value(api::REQUESTED_AT_ANNOTATION), value(api::FLUX_REQUESTED_AT_ANNOTATION)) {
        (Some(ours), Some(flux)) => format!("{ours},{flux}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => return None,
    };
    Some(crate::failure::cut(&token, api::limits::TEXT))
}

/// True if the sync that is asked for now is to rely on nothing that earlier ones found.
pub fn is_forced(object: &ImageSetMirror) -> bool {
    let Some(annotations) = &object.metadata.annotations else { return false };
    let forced = annotations.get(api::FORCE_AT_ANNOTATION).filter(|value| !value.is_empty());
    forced.is_some() && forced == annotations.get(api::REQUESTED_AT_ANNOTATION)
}

fn identity(object: &ImageSetMirror, faults: &mut Faults) -> Identity {
    let metadata = &object.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        faults.invalid("metadata.name", "is missing: give the object a name");
    } else if name.len() > api::MAX_NAME {
        let (length, most) = (name.len(), api::MAX_NAME);
        faults.invalid(
            "metadata.name",
            format!(
                "has {length} characters; at most {most} are allowed, since names of other objects are made from it"
            ),
        );
    } else if !name.split('.').all(is_label) {
        faults.invalid(
            "metadata.name",
            format!(
                "`{name}` is not a name: write lower-case letters, digits, `-` and `.`, with a letter or digit at both ends and \
                 beside each `.`"
            ),
        );
    }
    let given = metadata.namespace.clone().filter(|namespace| !namespace.is_empty());
    let namespace = given.unwrap_or_else(|| "default".to_owned());
    if !is_label(&namespace) {
        faults.invalid(
            "metadata.namespace",
            format!(
                "`{namespace}` is not a namespace: write at most 63 lower-case letters, digits and `-`, with a letter or digit at \
                 both ends"
            ),
        );
    }
    Identity { namespace, name, uid: metadata.uid.clone().unwrap_or_default() }
}

/// True for a label of DNS as RFC 1123 has it.
fn is_label(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    inner && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

fn target(spec: &api::Target, faults: &mut Faults) -> Option<Target> {
    let field = "spec.target.registry";
    let text = spec.registry.as_str();
    let registry = if let Some((host, path)) = text.split_once("://").map_or(text, |(_, rest)| rest).split_once('/') {
        let path = path.trim_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!(" and `pathPrefix: {path}`") };
        faults.invalid(field, format!("`{text}` is more than a registry: write `registry: {host}`{prefix}"));
        None
    } else if let Some((_, host)) = text.split_once("://") {
        faults.invalid(
            field,
            format!("`{text}` has a scheme: write `registry: {host}`, and `tls: Plain` for plain HTTP"),
        );
        None
    } else if text.starts_with('[') || text.matches(':').count() > 1 {
        faults
            .invalid(field, format!("`{text}` is an IPv6 address, which mirror sets cannot express: use a host name"));
        None
    } else {
        faults.parse::<Registry>(field, text)
    };
    let prefix = match spec.path_prefix.as_deref() {
        None | Some("") => None,
        Some(text) => faults.parse::<RepositoryPath>("spec.target.pathPrefix", text),
    };
    let prefix = match prefix {
        Some(prefix) if content::holds_records(prefix.as_str()) => {
            let message =
                format!("`{prefix}` is where records of what was mirrored are kept: set another `pathPrefix`");
            faults.invalid("spec.target.pathPrefix", message);
            None
        }
        prefix => prefix,
    };
    if spec.tls == Tls::Plain && spec.trust_bundle.is_some() {
        faults.invalid(
            "spec.target.trustBundle",
            "has no meaning with `tls: Plain`, which uses no certificates: leave it out, or use `tls: Verify`",
        );
    }
    Some(Target {
        credentials: secret("spec.target.credentials", spec.credentials.as_ref(), faults),
        trust_bundle: bundle("spec.target.trustBundle", spec.trust_bundle.as_ref(), faults),
        tls: spec.tls,
        registry: registry?,
        prefix,
    })
}

fn source(spec: &api::Source, faults: &mut Faults) -> Source {
    let mut hosts = BTreeMap::new();
    for (index, host) in spec.hosts.iter().enumerate() {
        let field = format!("spec.source.hosts[{index}].host");
        if let Some(registry) = faults.parse::<Registry>(&field, &host.host) {
            if registry.is_ipv6() {
                faults.invalid(field, format!("`{}` is an IPv6 address: use a host name", host.host));
            }
            hosts.insert(registry, host.tls);
        }
    }
    let mut overrides = Vec::new();
    for (index, entry) in spec.overrides.iter().enumerate() {
        let field = format!("spec.source.overrides[{index}]");
        place(&format!("{field}.source"), &entry.source, faults);
        for (index, mirror) in entry.mirrors.iter().enumerate() {
            place(&format!("{field}.mirrors[{index}]"), mirror, faults);
        }
        if !entry.mirrors.is_empty() && entry.mirrors.iter().all(|mirror| *mirror == entry.source) {
            faults.invalid(
                format!("{field}.mirrors"),
                format!(
                    "name only the source itself, `{}`: give another place, or leave the override out",
                    entry.source
                ),
            );
        }
        overrides.push(Override { source: entry.source.clone(), mirrors: entry.mirrors.clone() });
    }
    overrides.sort_by(|a, b| a.source.cmp(&b.source));
    let update_service =
        spec.update_service.as_deref().and_then(|text| endpoint("spec.source.updateService", text, faults));
    let stores = spec.signature_stores.iter().enumerate();
    let signature_stores = stores
        .filter_map(|(index, text)| endpoint(&format!("spec.source.signatureStores[{index}]"), text, faults))
        .collect();
    let keys =
        spec.signature_keys.as_ref().map(|found| (&found.name, found.key.as_deref().unwrap_or(SIGNATURE_KEYS_KEY)));
    let graph_data = spec.graph_data.as_deref().and_then(|text| endpoint("spec.source.graphData", text, faults));
    let base = spec.graph_base_image.as_deref();
    let graph_base_image = base.and_then(|text| content::image("spec.source.graphBaseImage", text, faults));
    Source {
        credentials: secret("spec.source.credentials", spec.credentials.as_ref(), faults),
        trust_bundle: bundle("spec.source.trustBundle", spec.trust_bundle.as_ref(), faults),
        hosts,
        overrides,
        update_service,
        signature_stores,
        signature_keys: keys.map(|(name, key)| config_key("spec.source.signatureKeys", name, key, faults)),
        graph_data,
        graph_base_image,
    }
}

impl Endpoints {
    /// Reads what the operator was started with; what is empty was not given.
    ///
    /// # Errors
    /// What is no address, with the flag it is in.
    pub fn try_new(update_service: Option<&str>, signature_stores: &[String]) -> Result<Self, Invalid> {
        let mut faults = Faults::default();
        let service = update_service.filter(|text| !text.is_empty());
        let update_service = service.and_then(|text| endpoint("--update-service", text, &mut faults));
        let stores = signature_stores.iter().filter(|text| !text.is_empty());
        let signature_stores = stores.filter_map(|text| endpoint("--signature-store", text, &mut faults)).collect();
        if faults.0.is_empty() {
            Ok(Self { update_service, signature_stores })
        } else {
            Err(Invalid { faults: faults.0 })
        }
    }
}

impl Source {
    /// Fills in what the object does not say.
    pub fn complete(&mut self, endpoints: &Endpoints) {
        if self.update_service.is_none() {
            self.update_service.clone_from(&endpoints.update_service);
        }
        if self.signature_stores.is_empty() {
            self.signature_stores.clone_from(&endpoints.signature_stores);
        }
    }
}

/// An address that something below its path is asked for.
fn endpoint(field: &str, text: &str, faults: &mut Faults) -> Option<Url> {
    let plain = |url: &Url| {
        let bare =
            url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        matches!(url.scheme(), "http" | "https") && url.host().is_some() && bare
    };
    let found = Url::parse(text).ok().filter(plain);
    if found.is_none() {
        faults.invalid(
            field,
            format!(
                "`{text}` is not an address: write `http://` or `https://`, a host and a path, without credentials, query and \
                 fragment"
            ),
        );
    }
    found
}

/// Checks a registry, or a registry and the beginning of a path.
fn place(field: &str, text: &str, faults: &mut Faults) {
    let valid = match text.split_once('/') {
        // `Repository` would take a first component without a dot for a part of Docker Hub.
        Some((host, path)) => host
            .parse::<Registry>()
            .and_then(|host| Ok(Repository::new(host, path.parse()?)))
            .map(|repository| repository.registry().clone()),
        None => text.parse::<Registry>(),
    };
    if !valid.is_ok_and(|registry| !registry.is_ipv6()) {
        faults.invalid(
            field,
            format!(
                "`{text}` is not a place in a registry: write HOST[:PORT] or HOST[:PORT]/PATH in lower case, without scheme, tag \
                 and digest"
            ),
        );
    }
}

fn object_name(field: &str, name: &str, faults: &mut Faults) {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    if !(edge(bytes.first()) && edge(bytes.last()) && inner) {
        faults.invalid(
            field,
            format!("`{name}` is not the name of an object: write lower-case letters, digits, `-` and `.`, without a namespace"),
        );
    }
}

fn secret(field: &str, reference: Option<&api::NameReference>, faults: &mut Faults) -> Option<String> {
    let reference = reference?;
    object_name(&format!("{field}.name"), &reference.name, faults);
    Some(reference.name.clone())
}

fn bundle(field: &str, reference: Option<&api::KeyReference>, faults: &mut Faults) -> Option<(String, String)> {
    let reference = reference?;
    Some(config_key(field, &reference.name, reference.key.as_deref().unwrap_or(TRUST_BUNDLE_KEY), faults))
}

/// The name of a `ConfigMap`, and a key in it.
fn config_key(field: &str, name: &str, key: &str, faults: &mut Faults) -> (String, String) {
    object_name(&format!("{field}.name"), name, faults);
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        faults.invalid(
            format!("{field}.key"),
            format!("`{key}` is not a key of a ConfigMap: write letters, digits, `.`, `_` and `-`"),
        );
    }
    (name.to_owned(), key.to_owned())
}

fn duration(field: &str, text: Option<&str>, faults: &mut Faults) -> Option<Duration> {
    let text = text?;
    match units::duration(text) {
        None => {
            faults.invalid(
                field,
                format!("`{text}` is not a duration: write hours, minutes and seconds such as `6h`, `90m` or `1h30m`"),
            );
            None
        }
        Some(value) if value < SHORTEST => {
            faults.invalid(field, format!("`{text}` is too short: write at least `5m`"));
            None
        }
        value => value,
    }
}

fn copy(spec: &api::CopyOptions, faults: &mut Faults) -> CopyOptions {
    let field = "spec.copy.maxBytesPerSecond";
    let max_bytes_per_second = match &spec.max_bytes_per_second {
        None => None,
        Some(api::ByteRate::Number(number)) => {
            let value = u64::try_from(*number).ok().and_then(NonZeroU64::new);
            if value.is_none() {
                faults.invalid(field, format!("`{number}` must be at least 1; leave it out for no limit"));
            }
            value
        }
        Some(api::ByteRate::Text(text)) => {
            let value = units::bytes(text);
            if value.is_none() {
                faults.invalid(
                    field,
                    format!(
                        "`{text}` is not a number of bytes: write a whole number above 0, alone or with k, M, G, T, Ki, Mi, Gi or \
                         Ti, such as `200Mi`"
                    ),
                );
            }
            value
        }
    };
    let concurrency = spec.concurrency.and_then(|number| {
        let value = usize::try_from(number).ok().filter(|number| *number <= 64).and_then(NonZeroUsize::new);
        if value.is_none() {
            faults.invalid("spec.copy.concurrency", format!("`{number}` is out of range: write 1 to 64"));
        }
        value
    });
    CopyOptions { concurrency, max_bytes_per_second, attachments: spec.attachments }
}

fn names(field: &str, list: &[api::CatalogName], faults: &mut Faults) -> BTreeMap<String, String> {
    for (index, entry) in list.iter().enumerate().filter(|(_, entry)| !is_label(&entry.name)) {
        let name = &entry.name;
        let message = format!("`{name}` is not a name: write at most 63 lower-case letters, digits and `-`");
        faults.invalid(format!("spec.clusterResources.{field}.names[{index}].name"), message);
    }
    list.iter().map(|entry| (entry.catalog.clone(), entry.name.clone())).collect()
}

fn catalog_namespace(spec: &api::CatalogSourceOutput, faults: &mut Faults) -> String {
    let namespace = spec.namespace.clone().unwrap_or_else(|| CATALOG_SOURCE_NAMESPACE.to_owned());
    if !is_label(&namespace) {
        faults.invalid("spec.clusterResources.catalogSource.namespace", format!("`{namespace}` is not a namespace"));
    }
    namespace
}

fn cluster(spec: &api::ClusterResources, faults: &mut Faults) -> ClusterOutputs {
    let mut output = |field: &str, output: &api::MirrorSetOutput, default| {
        let policy = output.policy.unwrap_or(default);
        let never = output.mirror_source_policy == MirrorSourcePolicy::NeverContactSource;
        if never && (policy == OutputPolicy::Disabled || spec.removal == Removal::Remove) {
            faults.invalid(
                format!("spec.clusterResources.{field}.mirrorSourcePolicy"),
                "`NeverContactSource` needs `policy: Apply` or `Publish` and `removal: Retain`, or pulls of what was removed would \
                 fail",
            );
        }
        MirrorSetOutput { policy, source_policy: output.mirror_source_policy }
    };
    let idms = output("imageDigestMirrorSet", &spec.image_digest_mirror_set, OutputPolicy::Apply);
    let itms = output("imageTagMirrorSet", &spec.image_tag_mirror_set, OutputPolicy::Publish);
    ClusterOutputs {
        idms,
        itms,
        containerd_hosts: spec.containerd_hosts.policy,
        catalog_source: CatalogOutput {
            policy: spec.catalog_source.policy.unwrap_or(OutputPolicy::Publish),
            namespace: Some(catalog_namespace(&spec.catalog_source, faults)),
            prefix: "cs-",
            names: names("catalogSource", &spec.catalog_source.names, faults),
            contested: BTreeSet::new(),
        },
        cluster_catalog: CatalogOutput {
            policy: spec.cluster_catalog.policy.unwrap_or(OutputPolicy::Publish),
            namespace: None,
            prefix: "cc-",
            names: names("clusterCatalog", &spec.cluster_catalog.names, faults),
            contested: BTreeSet::new(),
        },
        update_service: update_service(&spec.update_service, faults),
        release_signatures: spec.release_signatures.policy.unwrap_or(OutputPolicy::Apply),
        disruption: spec.disruption,
        removal: spec.removal,
        conflict_policy: spec.conflict_policy,
    }
}

fn update_service(spec: &api::UpdateServiceOutput, faults: &mut Faults) -> UpdateServiceOutput {
    let field = "spec.clusterResources.updateService";
    let namespace = spec.namespace.clone().unwrap_or_else(|| UPDATE_SERVICE_NAMESPACE.to_owned());
    if !is_label(&namespace) {
        faults.invalid(format!("{field}.namespace"), format!("`{namespace}` is not a namespace"));
    }
    let replicas = spec.replicas.unwrap_or(UPDATE_SERVICE_REPLICAS);
    if !(1..=100).contains(&replicas) {
        faults.invalid(format!("{field}.replicas"), format!("`{replicas}` is out of range: write 1 to 100"));
    }
    UpdateServiceOutput { policy: spec.policy.unwrap_or(OutputPolicy::Publish), namespace, replicas }
}

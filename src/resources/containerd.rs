//! `hosts.toml` files for nodes with containerd, which do there what mirror sets do on OpenShift.
//!
//! containerd reads `certs.d/<host>/hosts.toml` ([`docs/hosts.md`]) at every pull. What differs from mirror sets:
//!
//! - A file is for a whole host, and what follows the host in an image's name is appended to the mirror's path. So an image
//!   can be found through a file only if its path in the target ends in its whole path at the source; others are named in a
//!   note and left out.
//! - What a mirror does not have is asked for at the next one and then at the host itself, so a mirror is listed as soon as one
//!   repository behind it is complete. A host that is not to be contacted has its last mirror as `server` in place of
//!   itself, and gets that only when all that is planned of it is there, since everything else of it can then not be pulled.
//! - The capability `pull` is for digests, where nothing wrong can be found. `resolve`, for tags, is given if the mirror set
//!   for tags is to be applied, and never where one repository of the target is filled from two hosts.
//! - The mirror is given `?ns=<host>`, which registries ignore.
//!
//! Files that were published before stay, with their mirrors behind the present ones, until `removal: Remove` meets a complete
//! plan. The same input gives the same bytes.
//!
//! [`docs/hosts.md`]: https://github.com/containerd/containerd/blob/main/docs/hosts.md

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::preflight::policy_waits;
use super::{Note, NoteReason};
use crate::api::{MirrorSourcePolicy, OutputPolicy, Removal, Tls};
use crate::oci::{Reference, Registry, RepositoryPath};
use crate::plan::Plan;
use crate::request::{ClusterOutputs, Identity, Target};

/// Key of the target's certificates, and the name that the files look for them under, each in its own folder.
pub const CA_KEY: &str = "ca.crt";
/// Name of a file on the node.
pub const HOSTS_FILE: &str = "hosts.toml";
/// What the key of a file has behind the name of its folder.
const SUFFIX: &str = ".hosts.toml";
/// How each file begins.
const MARK: &str = "# ImageSetMirror ";
/// What containerd makes a name a path with.
const API: &str = "/v2";

/// All that files are made from.
#[derive(Clone, Copy, Debug)]
pub struct HostsInputs<'a> {
    /// The object.
    pub identity: &'a Identity,
    /// Where its images are.
    pub target: &'a Target,
    /// The certificates that its target is trusted by, if it names any.
    pub trust_bundle: Option<&'a str>,
    /// What it wants written.
    pub outputs: &'a ClusterOutputs,
    /// What it wants mirrored.
    pub plan: &'a Plan,
    /// Indexes of the plan's items that are in the target.
    pub verified: &'a BTreeSet<usize>,
    /// What was published before.
    pub before: &'a BTreeMap<String, String>,
}

/// Files for containerd.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerdHosts {
    /// Data of the `ConfigMap` `<name>-containerd-hosts`: `<folder>.hosts.toml`, and [`CA_KEY`]; empty without files.
    pub data: BTreeMap<String, String>,
    /// What to know.
    pub notes: Vec<Note>,
}

/// The folder below `certs.d` whose `hosts.toml` is under a key; what is under [`CA_KEY`] goes into each folder.
pub fn folder_of(key: &str) -> Option<&str> {
    host_of(key)?;
    key.strip_suffix(SUFFIX)
}

/// The key of the `hosts.toml` in a folder.
pub fn key_in(folder: &str) -> String {
    format!("{folder}{SUFFIX}")
}

/// The object, as `namespace/name`, that a `hosts.toml` was written for.
pub fn owner_of(text: &str) -> Option<&str> {
    text.lines().next()?.strip_prefix(MARK)
}

/// The `ConfigMap` that the files of an object are published in.
pub fn config_map(object: &str) -> String {
    format!("{object}-containerd-hosts")
}

/// The key of a host. containerd knows the folder of `host:port` as `host_port_`, too, which a key may be.
fn key_of(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) => format!("{name}_{port}_{SUFFIX}"),
        None => format!("{host}{SUFFIX}"),
    }
}

/// The host of a key.
fn host_of(key: &str) -> Option<String> {
    let folder = key.strip_suffix(SUFFIX)?;
    let port = folder.strip_suffix('_').and_then(|folder| folder.rsplit_once('_'));
    let host = port.map_or_else(|| folder.to_owned(), |(name, port)| format!("{name}:{port}"));
    host.parse::<Registry>().is_ok().then_some(host)
}

/// A place to look for images of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mirror {
    url: String,
    /// Whether tags are looked for there, too.
    resolve: bool,
    /// Whether it is trusted by what is under [`CA_KEY`].
    ca: bool,
    skip_verify: bool,
}

impl Mirror {
    fn new(target: &Target, base: &str, ca: bool) -> Self {
        let scheme = if target.tls == Tls::Plain { "http" } else { "https" };
        let path = if base.is_empty() { String::new() } else { format!("{API}/{base}") };
        Self {
            url: format!("{scheme}://{}{path}", target.registry),
            resolve: false,
            // containerd tries HTTPS first if anything is said of certificates.
            ca: ca && target.tls == Tls::Verify,
            skip_verify: target.tls == Tls::SkipVerify,
        }
    }

    /// The place, however it is reached.
    fn place(&self) -> &str {
        self.url.split_once("://").map_or(&self.url, |(_, place)| place)
    }

    fn fields(&self) -> String {
        let capabilities = if self.resolve { "[\"pull\", \"resolve\"]" } else { "[\"pull\"]" };
        let mut text = format!("capabilities = {capabilities}\n");
        for (field, value) in [
            ("override_path = true\n".to_owned(), self.place().contains('/')),
            (format!("ca = \"{CA_KEY}\"\n"), self.ca),
            ("skip_verify = true\n".to_owned(), self.skip_verify),
        ] {
            text.push_str(if value { &field } else { "" });
        }
        text
    }

    /// Takes over a line of [`Self::fields`].
    fn read(&mut self, line: &str) {
        match line.split_once(" = ") {
            Some(("capabilities", value)) => self.resolve = value.contains("resolve"),
            Some(("ca", _)) => self.ca = true,
            Some(("skip_verify", _)) => self.skip_verify = true,
            _ => {}
        }
    }
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostsFile {
    /// In the order in which they are tried, at least one.
    mirrors: Vec<Mirror>,
    /// Whether the host itself is not contacted.
    closed: bool,
}

impl HostsFile {
    fn render(&self, identity: &Identity) -> String {
        let mut text = format!("{MARK}{}/{}\n", identity.namespace, identity.name);
        let (server, mirrors) = match self.mirrors.split_last() {
            Some((last, rest)) if self.closed => (Some(last), rest),
            _ => (None, self.mirrors.as_slice()),
        };
        // Writing to a String cannot fail.
        if let Some(server) = server {
            write!(text, "server = \"{}\"\n{}", server.url, server.fields()).ok();
        }
        for mirror in mirrors {
            write!(text, "\n[host.\"{}\"]\n{}", mirror.url, mirror.fields()).ok();
        }
        text
    }

    /// Reads what [`Self::render`] wrote; nothing of anything else.
    fn read(text: &str) -> Self {
        let (mut server, mut mirrors): (Option<Mirror>, Vec<Mirror>) = (None, Vec::new());
        let mirror = |url: &str| Mirror { url: url.to_owned(), ..Mirror::default() };
        for line in text.lines() {
            if let Some(url) = line.strip_prefix("server = \"").and_then(|rest| rest.strip_suffix('"')) {
                server = Some(mirror(url));
            } else if let Some(url) = line.strip_prefix("[host.\"").and_then(|rest| rest.strip_suffix("\"]")) {
                mirrors.push(mirror(url));
            } else if let Some(current) = mirrors.last_mut().or(server.as_mut()) {
                current.read(line);
            }
        }
        let closed = server.is_some();
        mirrors.extend(server);
        Self { mirrors, closed }
    }
}

/// What is planned of a host below one place of the target.
#[derive(Default)]
struct Base<'a> {
    /// By repository: how many images are not known to be in the target.
    missing: BTreeMap<&'a str, usize>,
    /// Whether images are named by tag, and all that are so are in the target.
    tags: Option<bool>,
    /// A repository of the target that is filled from another host, too, and that host.
    shared: Option<(String, String)>,
}

/// What is planned of a host.
#[derive(Default)]
struct Host<'a> {
    bases: BTreeMap<&'a str, Base<'a>>,
    /// Something of it cannot be found through a file, was not resolved, or is not in the target.
    unfinished: bool,
    /// A tag of it was not resolved.
    tag_lost: bool,
}

/// Makes the files.
pub fn containerd_hosts(inputs: &HostsInputs<'_>) -> ContainerdHosts {
    let outputs = inputs.outputs;
    let by_tag = outputs.itms.policy == OutputPolicy::Apply;
    let closing = |policy: MirrorSourcePolicy| policy == MirrorSourcePolicy::NeverContactSource;
    let never = outputs.removal == Removal::Retain
        && (closing(outputs.idms.source_policy) || by_tag && closing(outputs.itms.source_policy));
    let mut files = before(inputs, by_tag, never);
    let (hosts, inexpressible) = hosts(inputs);
    let (mut waiting, mut open, mut shared) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (name, host) in &hosts {
        let mut file = files.remove(name).unwrap_or_default();
        let mut mirrors = Vec::new();
        for (path, base) in &host.bases {
            let mut mirror = Mirror::new(inputs.target, path, inputs.trust_bundle.is_some());
            let known = file.mirrors.iter().position(|known| known.place() == mirror.place());
            let known = known.map(|at| file.mirrors.remove(at));
            if known.is_none() && base.missing.values().all(|missing| *missing > 0) {
                let missing: usize = base.missing.values().sum();
                let registry = &inputs.target.registry;
                waiting.insert(format!(
                    "`{name}` is not looked for in `{registry}/{path}`: images missing there: {missing}"
                ));
                continue;
            }
            let ready = base.tags == Some(true) && !host.tag_lost;
            mirror.resolve = by_tag && (ready || known.is_some_and(|known| known.resolve));
            if let (true, Some((repository, other))) = (by_tag && base.tags.is_some(), &base.shared) {
                mirror.resolve = false;
                shared.insert(format!(
                    "tags of `{name}` are not looked for in the mirror: `{repository}` has images of `{other}`, too"
                ));
            }
            mirrors.push(mirror);
        }
        mirrors.append(&mut file.mirrors);
        if mirrors.is_empty() {
            continue;
        }
        let closed = never && (file.closed || !host.unfinished);
        if never && !closed {
            open.insert(policy_waits(name));
        }
        files.insert(name.clone(), HostsFile { mirrors, closed });
    }
    let sums = [
        (NoteReason::RuleWaits, waiting),
        (NoteReason::PolicyWaits, open),
        (NoteReason::NotExpressible, inexpressible),
        (NoteReason::TagsShared, shared),
    ];
    let notes = sums.into_iter().filter_map(|(reason, cases)| Note::summed(reason, cases)).collect();
    let trusts = files.values().flat_map(|file| &file.mirrors).any(|mirror| mirror.ca);
    let bundle = inputs.trust_bundle.or_else(|| inputs.before.get(CA_KEY).map(String::as_str));
    let bundle = bundle.filter(|_| trusts).map(|bundle| (CA_KEY.to_owned(), bundle.to_owned()));
    let files = files.iter().map(|(name, file)| (key_of(name), file.render(inputs.identity)));
    ContainerdHosts { data: files.chain(bundle).collect(), notes }
}

/// What stays of what was published before, by host.
fn before(inputs: &HostsInputs<'_>, by_tag: bool, never: bool) -> BTreeMap<String, HostsFile> {
    if inputs.outputs.removal == Removal::Remove && inputs.plan.complete(inputs.verified) {
        return BTreeMap::new();
    }
    let stays = |(key, text): (&String, &String)| {
        let mut file = HostsFile::read(text);
        file.closed &= never;
        for mirror in &mut file.mirrors {
            mirror.resolve &= by_tag;
        }
        host_of(key).filter(|_| !file.mirrors.is_empty()).map(|host| (host, file))
    };
    inputs.before.iter().filter_map(stays).collect()
}

/// The plan by hosts, and the images that cannot be found through files.
fn hosts<'a>(inputs: &HostsInputs<'a>) -> (BTreeMap<String, Host<'a>>, BTreeSet<String>) {
    let mut inexpressible = BTreeSet::new();
    let mut hosts: BTreeMap<String, Host<'_>> = BTreeMap::new();
    let mut fillers: BTreeMap<&str, BTreeSet<&Registry>> = BTreeMap::new();
    for (index, item) in inputs.plan.items.iter().enumerate() {
        let mirror = item.destination.repository();
        let missing = !inputs.verified.contains(&index);
        for asked in &item.asked {
            let source = asked.named.repository();
            let from = source.registry();
            fillers.entry(mirror.path().as_str()).or_default().insert(from);
            if source == mirror {
                continue;
            }
            let host = hosts.entry(from.to_string()).or_default();
            host.unfinished |= missing;
            let base = base(source.path(), mirror.path());
            let Some(path) = base.filter(|_| from != mirror.registry() && !from.is_ipv6()) else {
                host.unfinished = true;
                let name = &asked.origin.name;
                inexpressible.insert(format!("containerd cannot be told that `{name}` is in `{mirror}`"));
                continue;
            };
            let base = host.bases.entry(path).or_default();
            *base.missing.entry(mirror.path().as_str()).or_default() += usize::from(missing);
            if asked.named.tag().is_some() {
                base.tags = Some(base.tags.unwrap_or(true) && !missing);
            }
        }
    }
    for (name, host) in &mut hosts {
        for base in host.bases.values_mut() {
            let other = |repository: &&str| {
                let other = fillers.get(repository)?.iter().map(ToString::to_string).find(|other| other != name)?;
                Some((format!("{}/{repository}", inputs.target.registry), other))
            };
            base.shared = base.missing.keys().find_map(other);
        }
    }
    for (origin, _) in &inputs.plan.failures {
        let Ok(named) = origin.name.parse::<Reference>() else { continue };
        if let Some(host) = hosts.get_mut(named.repository().registry().as_str()) {
            host.unfinished = true;
            host.tag_lost |= named.tag().is_some();
        }
    }
    (hosts, inexpressible)
}

/// What stands before the whole of `path` in `mirror`; none if that does not end in it.
fn base<'a>(path: &RepositoryPath, mirror: &'a RepositoryPath) -> Option<&'a str> {
    let rest = mirror.as_str().strip_suffix(path.as_str())?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('/') }
}

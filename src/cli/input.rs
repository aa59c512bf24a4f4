//! From a file and flags to a request and the clients of both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{AttachmentsArg, ChartsArg, ContentKind, FileArgs};
use crate::api::{Attachments, Charts, HostSettings, ImageSetMirror, Override, Tls};
use crate::copy::Trust;
use crate::failure::chain;
use crate::file::{self, Destination, Loaded, To};
use crate::oci::Registry;
use crate::plan::PlanError;
use crate::registry::{Client, Credentials, Limits, Prefix, Side, Throttle};
use crate::request::Request;
use crate::state::{Memory, Place};
use crate::sync::{Copy, Helm, Resolved, Sides, client_settings, resolve, tls};

/// State that is kept from the command line, beside that of clusters.
const NO_CLUSTER: &str = "command-line";

/// Everything a command with a FILE works with.
pub(super) struct Prepared {
    pub(super) request: Request,
    pub(super) sides: Sides,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) place: Place,
    /// What is known of what earlier runs have left in the target: nothing so far.
    pub(super) memory: Memory,
    /// What is worth saying before anything is done.
    pub(super) warnings: Vec<String>,
    /// Some of the content of the file is not looked at.
    pub(super) partial: bool,
}

impl Prepared {
    /// Finds out what the request means now; with trust also from what earlier runs have left in the target, which is asked
    /// for that.
    pub(super) async fn resolve(&self, trust: Trust) -> Result<Resolved, PlanError> {
        let cache = Arc::default();
        let mut resolved = resolve(&self.request, &self.sides, &cache, &self.memory, &self.place, trust).await?;
        Arc::make_mut(&mut resolved.plan).partial = self.partial;
        Ok(resolved)
    }

    /// A copy; `now` gives the time that completed images are noted with.
    pub(super) fn copy<'a>(&'a self, resolved: &Resolved, now: &'a (dyn Fn() -> String + Sync)) -> Copy<'a> {
        let Self { request, sides, place, memory, .. } = self;
        Copy {
            request,
            sides,
            made: Arc::clone(&resolved.made),
            catalogs: Arc::clone(&resolved.catalogs),
            documents: Arc::clone(&resolved.documents),
            throttle: self.throttle.clone(),
            place,
            memory,
            trust: Trust::Remembered,
            now,
        }
    }
}

/// Lines that tell what is wrong with the input.
pub(super) type Wrong = Vec<String>;

/// Reads the file, puts the flags on top, checks everything, and makes clients.
pub(super) fn prepare(args: &FileArgs) -> Result<Prepared, Wrong> {
    let mut wrong = Vec::new();
    let to = match args.to.as_deref().map(str::parse::<Destination>).transpose() {
        Ok(to) => to.ok_or(To::Absent),
        Err(error) => {
            wrong.push(format!("--to: {error}"));
            Err(To::Wrong)
        }
    };
    let mut warnings = Vec::new();
    let mut loaded = match file::read(&args.file, to.as_ref().map_or_else(|missing| *missing, To::Given)) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            wrong.push(chain(&error));
            None
        }
    };
    // Flags are checked in any case, so that everything wrong is said at once.
    let hosts = tls_flags(&args.tls, &mut wrong);
    let overrides = override_flags(&args.overrides, &mut wrong);
    let stores = Stores::new(args, environment);
    let partial = loaded.as_mut().is_some_and(|loaded| narrow(&args.only, &mut loaded.object, &mut wrong));
    if partial {
        warnings.push("--only: the rest of the file is not looked at, so nothing is removed or narrowed".to_owned());
    }
    let request = loaded.as_mut().and_then(|loaded| {
        warnings.extend(loaded.warnings.iter().map(|warning| format!("{}:{warning}", args.file.display())));
        warnings.extend(not_looked_up(&loaded.object));
        let flagged = Flagged::put(args, &hosts, &overrides, &stores, &mut loaded.object);
        checked(&args.file, loaded, &flagged, &mut wrong)
    });
    let credentials = credentials(args.authfile.as_deref(), environment, &mut warnings).unwrap_or_else(|text| {
        wrong.push(text);
        Credentials::none()
    });
    let bundle = args.ca.as_ref().and_then(|path| match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            wrong.push(format!("--ca {}: {error}", path.display()));
            None
        }
    });
    let signature_keys = stores.keys(&mut wrong);
    let Some(request) = request.filter(|_| wrong.is_empty()) else { return Err(wrong) };
    warnings.extend(request.warnings.iter().cloned());
    let limits = Arc::new(Limits::default());
    let side = |side| {
        let mut settings = client_settings(&request, side);
        // Also of hosts that a registry sends us to, such as the one that gives its tokens.
        settings.tls.extend(hosts.iter().map(|(host, mode)| (host.clone(), tls(*mode))));
        settings.credentials = credentials.clone();
        settings.trust_bundle.clone_from(&bundle);
        Client::new(settings, Arc::clone(&limits))
            .map(Arc::new)
            .map_err(|error| vec![format!("--ca: {}", chain(&error))])
    };
    let sides = Sides {
        source: side(Side::Source)?,
        target: side(Side::Target)?,
        signature_keys,
        helm: Helm::named(args.helm.clone()),
    };
    let (target, identity) = (&request.target, &request.identity);
    let place = Place::new(&target.registry, target.prefix.as_ref(), NO_CLUSTER, &identity.namespace, &identity.name)
        .map_err(|error| vec![format!("the target is too long for the records kept there: {error}")])?;
    let throttle = args.max_bytes_per_second.map(|rate| Arc::new(Throttle::new(rate.get())));
    let memory = Memory::default();
    Ok(Prepared { request, sides, throttle, place, memory, warnings, partial })
}

/// Leaves of an object only the kinds of content that are asked for; true if something went.
fn narrow(only: &[ContentKind], object: &mut ImageSetMirror, wrong: &mut Wrong) -> bool {
    if only.is_empty() {
        return false;
    }
    let content = &mut object.spec.mirror;
    let mut partial = false;
    let kinds = [
        (ContentKind::Release, "release", "platform", content.platform.is_some()),
        (ContentKind::Operators, "operators", "operators", !content.operators.is_empty()),
        (ContentKind::Additional, "additional", "additionalImages", !content.additional_images.is_empty()),
        (ContentKind::Helm, "helm", "helm", content.helm.is_some()),
    ];
    for (kind, flag, key, there) in kinds {
        if only.contains(&kind) {
            if !there {
                wrong.push(format!("--only {flag}: the file has no `{key}`: leave it out"));
            }
            continue;
        }
        partial |= there;
        match kind {
            ContentKind::Release => content.platform = None,
            ContentKind::Operators => {
                content.operators.clear();
                let resources = &mut object.spec.cluster_resources;
                resources.catalog_source.names.clear();
                resources.cluster_catalog.names.clear();
            }
            ContentKind::Additional => content.additional_images.clear(),
            ContentKind::Helm => content.helm = None,
        }
    }
    partial
}

/// Names of Secrets and `ConfigMap`s mean nothing outside a cluster; that is said, not ignored.
fn not_looked_up(object: &ImageSetMirror) -> Vec<String> {
    let (target, source) = (&object.spec.target, &object.spec.source);
    let secrets = [
        ("spec.target.credentials", target.credentials.as_ref().map(|reference| &reference.name)),
        ("spec.source.credentials", source.credentials.as_ref().map(|reference| &reference.name)),
    ];
    let bundles = [
        ("spec.target.trustBundle", target.trust_bundle.as_ref().map(|reference| &reference.name)),
        ("spec.source.trustBundle", source.trust_bundle.as_ref().map(|reference| &reference.name)),
    ];
    let keys = source.signature_keys.as_ref().map(|reference| &reference.name);
    let line = |field: &str, kind: &str, name: &str, flag: &str| {
        format!("{field}: {kind} `{name}` is not looked up outside a cluster; {flag}")
    };
    let secrets = secrets.iter().filter_map(|(field, name)| {
        Some(line(field, "Secret", name.as_ref()?, "credentials come from --authfile or the usual auth files"))
    });
    let bundles = bundles
        .iter()
        .filter_map(|(field, name)| Some(line(field, "ConfigMap", name.as_ref()?, "certificates come from --ca")));
    let keys = keys.map(|name| line("spec.source.signatureKeys", "ConfigMap", name, "keys come from --signature-key"));
    secrets.chain(bundles).chain(keys).collect()
}

/// The hosts of `--tls`, and how they are reached.
fn tls_flags(texts: &[String], wrong: &mut Wrong) -> Vec<(Registry, Tls)> {
    let mut found = Vec::new();
    for text in texts {
        let parsed = text.rsplit_once('=').and_then(|(host, mode)| {
            let mode = match mode {
                "verify" => Tls::Verify,
                "skip-verify" => Tls::SkipVerify,
                "plain" => Tls::Plain,
                _ => return None,
            };
            Some((host.parse::<Registry>().ok()?, mode))
        });
        match parsed {
            Some(parsed) => found.push(parsed),
            None => wrong.push(format!("--tls {text}: write HOST=verify, HOST=skip-verify or HOST=plain")),
        }
    }
    found
}

/// Sources and mirrors of `--override`.
fn override_flags(texts: &[String], wrong: &mut Wrong) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for text in texts {
        let parts = text
            .split_once('=')
            .filter(|(source, mirror)| source.parse::<Prefix>().is_ok() && mirror.parse::<Prefix>().is_ok());
        match parts {
            Some((source, mirror)) => found.push((source.to_owned(), mirror.to_owned())),
            None => wrong.push(format!("--override {text}: write SOURCE=MIRROR, each HOST[:PORT][/PATH]")),
        }
    }
    found
}

/// What flags, and where they say nothing variables of oc-mirror, say about releases; each with its name.
#[derive(Default)]
struct Stores {
    update_service: Option<(String, &'static str)>,
    signatures: Vec<(String, &'static str)>,
    key: Option<(PathBuf, &'static str)>,
}

impl Stores {
    fn new(args: &FileArgs, environment: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let path = |name: &'static str| environment(name).map(|value| (value, name));
        let text = |name| path(name).map(|(value, name)| (value.to_string_lossy().into_owned(), name));
        let flags = args.signature_stores.iter().map(|url| (url.clone(), "--signature-store"));
        let mut signatures: Vec<_> = flags.collect();
        if signatures.is_empty() {
            signatures.extend(text("OCP_SIGNATURE_URL"));
        }
        Self {
            update_service: args
                .update_service
                .clone()
                .map(|url| (url, "--update-service"))
                .or_else(|| text("UPDATE_URL_OVERRIDE")),
            signatures,
            key: args
                .signature_key
                .clone()
                .map(|file| (file, "--signature-key"))
                .or_else(|| path("OCP_SIGNATURE_VERIFICATION_PK")),
        }
    }

    /// The content of the file with keys, unless it is empty.
    fn keys(&self, wrong: &mut Wrong) -> Option<Vec<u8>> {
        let (file, name) = self.key.as_ref()?;
        match std::fs::read(file) {
            Ok(bytes) => (!bytes.trim_ascii().is_empty()).then_some(bytes),
            Err(error) => {
                wrong.push(format!("{name} {}: {error}", file.display()));
                None
            }
        }
    }
}

/// The request, or everything that is wrong with file and flags, each where the user wrote it.
fn checked(path: &Path, loaded: &Loaded, flagged: &Flagged, wrong: &mut Wrong) -> Option<Request> {
    let (request, faults) = match Request::of_file(&loaded.object) {
        Ok(request) => (Some(request), Vec::new()),
        Err(invalid) => (None, invalid.faults),
    };
    let (of_flags, of_file): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|fault| flagged.flag(&fault.field).is_some());
    for fault in &of_flags {
        wrong.extend(flagged.flag(&fault.field).map(|flag| format!("{flag}: {}", fault.message)));
    }
    let problems = loaded.problems(&of_file);
    if !problems.is_empty() {
        wrong.push(file::lines(path, &problems));
    }
    request.filter(|_| problems.is_empty())
}

/// Which fields of the object come from flags.
struct Flagged(Vec<(String, &'static str)>);

impl Flagged {
    /// Puts flags into the object, where the same checks apply to them as to the file.
    fn put(
        args: &FileArgs,
        hosts: &[(Registry, Tls)],
        overrides: &[(String, String)],
        stores: &Stores,
        object: &mut ImageSetMirror,
    ) -> Self {
        let mut fields = Vec::new();
        let spec = &mut object.spec;
        if args.to.as_deref().is_some_and(|to| to.parse::<Destination>().is_ok()) {
            fields.extend(["registry", "pathPrefix"].map(|field| (format!("spec.target.{field}"), "--to")));
        }
        for (host, mode) in hosts {
            let host = host.to_string();
            if spec.target.registry == host {
                spec.target.tls = *mode;
                if *mode == Tls::Plain {
                    // Without TLS it has no meaning, and nobody looks it up here anyway.
                    spec.target.trust_bundle = None;
                }
            }
            if let Some(known) = spec.source.hosts.iter_mut().find(|known| known.host == host) {
                known.tls = *mode;
            } else {
                fields.push((format!("spec.source.hosts[{}]", spec.source.hosts.len()), "--tls"));
                spec.source.hosts.push(HostSettings { host, tls: *mode });
            }
        }
        for (source, mirror) in overrides {
            let count = spec.source.overrides.len();
            if let Some(index) = spec.source.overrides.iter().position(|known| known.source == *source) {
                if let Some(known) = spec.source.overrides.get_mut(index) {
                    known.mirrors.push(mirror.clone());
                }
                fields.push((format!("spec.source.overrides[{index}].mirrors"), "--override"));
            } else {
                let (source, mirrors) = (source.clone(), vec![mirror.clone()]);
                spec.source.overrides.push(Override { source, mirrors });
                fields.push((format!("spec.source.overrides[{count}]"), "--override"));
            }
        }
        if let Some(concurrency) = args.concurrency {
            spec.copy.concurrency = Some(i32::try_from(concurrency.get()).unwrap_or(i32::MAX));
            fields.push(("spec.copy.concurrency".to_owned(), "--concurrency"));
        }
        match args.attachments {
            Some(AttachmentsArg::Copy) => spec.copy.attachments = Attachments::Copy,
            Some(AttachmentsArg::Skip) => spec.copy.attachments = Attachments::Skip,
            None => {}
        }
        match args.charts {
            Some(ChartsArg::Copy) => spec.copy.charts = Charts::Copy,
            Some(ChartsArg::Skip) => spec.copy.charts = Charts::Skip,
            None => {}
        }
        if let Some((url, name)) = &stores.update_service {
            spec.source.update_service = Some(url.clone());
            fields.push(("spec.source.updateService".to_owned(), name));
        }
        if let Some((_, name)) = stores.signatures.first() {
            spec.source.signature_stores = stores.signatures.iter().map(|(url, _)| url.clone()).collect();
            fields.push(("spec.source.signatureStores".to_owned(), name));
        }
        if stores.key.is_some() {
            spec.source.signature_keys = None;
        }
        Self(fields)
    }

    /// The flag that a field comes from.
    fn flag(&self, field: &str) -> Option<&'static str> {
        let below =
            |known: &str| field.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.0.iter().find(|(known, _)| below(known)).map(|(_, flag)| *flag)
    }
}

/// A variable of the environment that is not empty.
fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Reads the auth file named, or else the usual ones that are there: each place is looked up in one after the other.
///
/// The order is that of containers-auth.json(5): `REGISTRY_AUTH_FILE`, which excludes the others, then the run-time directory,
/// the configuration directory, Docker's file.
fn credentials(
    named: Option<&Path>,
    environment: impl Fn(&str) -> Option<PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<Credentials, String> {
    let mut read = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|error| format!("auth file {}: {error}", path.display()))?;
        // Unlike a Secret, such a file may hold nothing, or only the names of programs that hold the credentials.
        let content: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(&bytes).ok();
        if let Some(content) = content {
            if ["credsStore", "credHelpers"].iter().any(|key| content.contains_key(*key)) {
                warnings.push(format!("auth file {}: credential helpers are not asked", path.display()));
            }
            if !content.contains_key("auths") {
                return Ok(Credentials::none());
            }
        }
        Credentials::parse(&bytes).map_err(|error| format!("auth file {}: {}", path.display(), chain(&error)))
    };
    if let Some(path) = named.map(Path::to_owned).or_else(|| environment("REGISTRY_AUTH_FILE")) {
        return read(&path);
    }
    let home = environment("HOME");
    let usual = [
        environment("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        environment("XDG_CONFIG_HOME")
            .or_else(|| home.as_ref().map(|home| home.join(".config")))
            .map(|dir| dir.join("containers/auth.json")),
        environment("DOCKER_CONFIG")
            .or_else(|| home.as_ref().map(|home| home.join(".docker")))
            .map(|dir| dir.join("config.json")),
    ];
    let there = usual.into_iter().flatten().filter(|path| path.is_file());
    there.map(|path| read(&path)).try_fold(Credentials::none(), |before, file| Ok(before.or(file?)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Args, Command};

    /// What is wrong with an object whose spec ends in `spec`, under these flags.
    fn wrong(spec: &str, flags: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let (file, auth) = (dir.path().join("a.yaml"), dir.path().join("auth.json"));
        let head = "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nmetadata: {name: a}\nspec:\n  mirror: \
                    {additionalImages: [{name: 'quay.io/a:1'}]}\n";
        std::fs::write(&file, format!("{head}{spec}")).unwrap();
        std::fs::write(&auth, "{}").unwrap();
        let line = ["imageset-mirror", "plan", "-f", file.to_str().unwrap(), "--authfile", auth.to_str().unwrap()];
        let Command::Plan(args) = Args::parse_from(line.iter().chain(flags)).command else { panic!() };
        prepare(&args.file).err().unwrap_or_default()
    }

    #[test]
    fn faults_of_flags_name_the_flag_and_not_a_place_in_the_file() {
        let target = "  target: {registry: h.io, trustBundle: {name: ca}}\n  copy: {concurrency: 2}\n";
        assert_eq!(wrong(target, &[]), [""; 0]);
        assert_eq!(wrong(target, &["--tls", "h.io=plain"]), [""; 0]);
        assert_eq!(wrong(target, &["--concurrency", "100"]), ["--concurrency: `100` is out of range: write 1 to 64"]);
        let found = wrong(target, &["--override", "quay.io=quay.io", "--to", "docker://h.io"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("--to: `docker://h.io` has a scheme"), "{found:?}");
        assert!(found[1].starts_with("--override: name only the source itself"), "{found:?}");
        assert_eq!(wrong("", &["--to", "docker://h.io"]).len(), 1);
        let found = wrong(
            target,
            &["--update-service", "h.io", "--signature-store", "ftp://h.io", "--signature-key", "/no/file"],
        );
        assert_eq!(found.len(), 3, "{found:?}");
        for flag in
            ["--update-service: `h.io` is not", "--signature-store: `ftp://h.io` is not", "--signature-key /no/file: "]
        {
            assert!(found.iter().any(|text| text.starts_with(flag)), "{found:?}");
        }
        let found = wrong("  target: {registry: H.io, tls: Plain, trustBundle: {name: ca}}\n", &["--to", "m.io"]);
        assert!(found.len() == 1 && found[0].contains(":6:40: spec.target.trustBundle"), "{found:?}");
    }

    #[test]
    fn variables_of_oc_mirror_count_where_flags_say_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "\n").unwrap();
        let environment = |name: &str| match name {
            "UPDATE_URL_OVERRIDE" => Some("https://graph.io".into()),
            "OCP_SIGNATURE_URL" => Some("https://store.io/".into()),
            "OCP_SIGNATURE_VERIFICATION_PK" => Some(key.clone()),
            _ => None,
        };
        let stores = |flags: &[&str]| {
            let line = ["imageset-mirror", "plan", "-f", "a.yaml"];
            let Command::Plan(args) = Args::parse_from(line.iter().chain(flags)).command else { panic!() };
            Stores::new(&args.file, environment)
        };
        let found = stores(&[]);
        assert_eq!(found.update_service, Some(("https://graph.io".to_owned(), "UPDATE_URL_OVERRIDE")));
        assert_eq!(found.signatures, [("https://store.io/".to_owned(), "OCP_SIGNATURE_URL")]);
        assert_eq!(found.keys(&mut Vec::new()), None, "an empty file means the built-in keys");
        std::fs::write(&key, "armor").unwrap();
        assert_eq!(found.keys(&mut Vec::new()).as_deref(), Some(b"armor".as_slice()));
        let found =
            stores(&["--update-service=https://a.io", "--signature-store=https://b.io", "--signature-key=/no/file"]);
        assert_eq!(found.update_service, Some(("https://a.io".to_owned(), "--update-service")));
        assert_eq!(found.signatures, [("https://b.io".to_owned(), "--signature-store")]);
        let mut wrong = Vec::new();
        assert_eq!((found.keys(&mut wrong), wrong.len()), (None, 1));
    }

    #[test]
    fn all_usual_auth_files_are_looked_at_unless_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str, host: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!(r#"{{"auths":{{"{host}":{{"auth":"dTpw"}}}}}}"#)).unwrap();
            path
        };
        file("run/containers/auth.json", "run.io");
        file("home/.config/containers/auth.json", "config.io");
        file("home/.docker/config.json", "docker.io");
        let named = file("named.json", "named.io");
        let usual = |name: &str| match name {
            "HOME" => Some(dir.path().join("home")),
            "XDG_RUNTIME_DIR" => Some(dir.path().join("run")),
            _ => None,
        };
        let known = |credentials: Credentials| {
            let hosts = ["run.io", "config.io", "docker.io", "named.io"];
            hosts.map(|host| credentials.lookup(&format!("{host}/a/b").parse().unwrap()).is_some())
        };
        let mut warnings = Vec::new();
        let found = credentials(None, usual, &mut warnings).unwrap();
        assert_eq!(known(found), [true, true, true, false]);
        let found = credentials(Some(&named), usual, &mut warnings).unwrap();
        assert_eq!(known(found), [false, false, false, true]);
        let environment = |name: &str| if name == "REGISTRY_AUTH_FILE" { Some(named.clone()) } else { usual(name) };
        let found = credentials(None, environment, &mut warnings).unwrap();
        assert_eq!(known(found), [false, false, false, true]);
        assert!(warnings.is_empty());
    }
}

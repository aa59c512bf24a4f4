//! Catalogs of operators as their makers have them: bundles whose images exist, and the image with the catalog itself, made as Red
//! Hat makes its own: the file-based catalog below `/configs`, the real `opm` to serve it, and the cache of that.
//!
//! The catalog is spread over layers. What a lower one has of packages [`WITHDRAWN`] and [`LEFTOVER`] is hidden by a whiteout and
//! by an opaque folder of an upper one: whoever sees either has not honoured it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::container::{self, Blob, Tree};
use crate::image::{Flavour, ImageSpec, Manifest, Remote};
use crate::tools::{self, Tool};

/// The registry that catalogs and their images name.
pub const HOST: &str = "registry.redhat.io";
/// The label that says where the catalog is.
pub const LABEL: &str = "operators.operatorframework.io.index.configs.v1";
/// The package that a whiteout removes.
pub const WITHDRAWN: &str = "withdrawn";
/// The package that an opaque folder hides.
pub const LEFTOVER: &str = "leftover";

/// The label of catalogs that are a database.
const DATABASE: &str = "operators.operatorframework.io.index.database.v1";
/// An image that bundles of all packages need.
const SHARED: &str = "openshift4/kube-rbac-proxy";

/// An entry of a channel.
#[derive(Clone, Debug)]
pub struct Entry {
    version: String,
    replaces: Option<String>,
    skips: Vec<String>,
    skip_range: Option<String>,
}

/// An entry that replaces nothing.
pub fn entry(version: &str) -> Entry {
    Entry { version: version.to_owned(), replaces: None, skips: Vec::new(), skip_range: None }
}

/// Entries of which each replaces the one before.
pub fn chain(versions: &[&str]) -> Vec<Entry> {
    let older = std::iter::once(None).chain(versions.iter().map(Some));
    versions
        .iter()
        .zip(older)
        .map(|(version, older)| older.iter().fold(entry(version), |it, old| it.replaces(old)))
        .collect()
}

impl Entry {
    /// The version that it replaces.
    #[must_use]
    pub fn replaces(self, version: &str) -> Self {
        Self { replaces: Some(version.to_owned()), ..self }
    }

    /// A version that it skips.
    #[must_use]
    pub fn skips(mut self, version: &str) -> Self {
        self.skips.push(version.to_owned());
        self
    }

    /// The versions from which one can come straight to it.
    #[must_use]
    pub fn skip_range(self, range: &str) -> Self {
        Self { skip_range: Some(range.to_owned()), ..self }
    }

    fn document(&self, package: &str) -> Value {
        let mut document = json!({"name": bundle_name(package, &self.version)});
        if let Some(replaces) = &self.replaces {
            set(&mut document, "replaces", json!(bundle_name(package, replaces)));
        }
        if !self.skips.is_empty() {
            let names: Vec<_> = self.skips.iter().map(|version| bundle_name(package, version)).collect();
            set(&mut document, "skips", json!(names));
        }
        if let Some(range) = &self.skip_range {
            set(&mut document, "skipRange", json!(range));
        }
        document
    }
}

/// A package, whose first channel is its default. Each version in a channel is a bundle.
#[derive(Clone, Debug)]
pub struct Package {
    name: String,
    channels: Vec<(String, Vec<Entry>)>,
    deprecations: Vec<Value>,
    yaml: bool,
}

impl Package {
    /// One without channels, in one JSON file.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), channels: Vec::new(), deprecations: Vec::new(), yaml: false }
    }

    /// With a channel.
    #[must_use]
    pub fn channel(mut self, name: &str, entries: impl IntoIterator<Item = Entry>) -> Self {
        self.channels.push((name.to_owned(), entries.into_iter().collect()));
        self
    }

    /// With a word about a channel that is not to be used any more.
    #[must_use]
    pub fn deprecates_channel(mut self, name: &str, message: &str) -> Self {
        let reference = json!({"schema": "olm.channel", "name": name});
        self.deprecations.push(json!({"reference": reference, "message": message}));
        self
    }

    /// The same about a version.
    #[must_use]
    pub fn deprecates(mut self, version: &str, message: &str) -> Self {
        let reference = json!({"schema": "olm.bundle", "name": bundle_name(&self.name, version)});
        self.deprecations.push(json!({"reference": reference, "message": message}));
        self
    }

    /// In several YAML files, beside one that is not part of the catalog.
    #[must_use]
    pub fn yaml(self) -> Self {
        Self { yaml: true, ..self }
    }

    fn versions(&self) -> BTreeSet<&str> {
        self.channels.iter().flat_map(|(_, entries)| entries).map(|entry| entry.version.as_str()).collect()
    }
}

/// The name of the bundle of a version.
pub fn bundle_name(package: &str, version: &str) -> String {
    format!("{package}.v{version}")
}

/// What is wrong with a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// Its image has no label.
    NoLabel,
    /// It is a database.
    Database,
    /// A layer has a name that leads out of the image.
    Traversal,
    /// A file of the first package is a link to one outside of the catalog.
    Link,
    /// A file of this package ends in the middle.
    Unparsable(&'static str),
    /// The first channel of the first package has two heads.
    TwoHeads,
    /// Its entries replace each other in a circle.
    Cycle,
    /// The bundles of the first package are there twice.
    Twice,
    /// The bundles of the first package have no image.
    NoImage,
    /// A layer of this architecture is not what it says.
    BrokenPlatform(&'static str),
}

/// A catalog to be made.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Its packages, at least one.
    pub packages: Vec<Package>,
    /// The architectures of its image: an index of images, or an image if it is one.
    pub architectures: Vec<&'static str>,
    /// The media types of its image.
    pub flavour: Flavour,
    /// What is wrong with it, if so.
    pub twist: Option<Twist>,
}

impl Catalog {
    /// A good one for three architectures, in Docker's media types, as Red Hat's are.
    pub fn of(packages: impl IntoIterator<Item = Package>) -> Self {
        let architectures = vec!["amd64", "arm64", "s390x"];
        Self { packages: packages.into_iter().collect(), architectures, flavour: Flavour::Docker, twist: None }
    }

    /// With something wrong.
    #[must_use]
    pub fn twisted(self, twist: Twist) -> Self {
        Self { twist: Some(twist), ..self }
    }
}

/// A catalog that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The digest of its image.
    pub digest: String,
    /// The images of each bundle as they are listed, the bundle's own first.
    pub bundles: BTreeMap<String, Vec<String>>,
}

impl Catalog {
    /// Pushes the images of its bundles, and its own under a tag.
    ///
    /// # Errors
    /// When the registry refuses something, or `opm` cannot be had or makes no cache.
    pub async fn push(&self, registry: &Remote, repository: &str, tag: &str) -> Result<Made> {
        let bundles = self.push_images(registry).await?;
        let files = self.files(&bundles)?;
        // What opm does not take has no cache.
        let good = self.twist.is_none_or(|twist| matches!(twist, Twist::BrokenPlatform(_)));
        let (configs, work) = (files.clone(), self.clone());
        let layers = tokio::task::spawn_blocking(move || work.layers(&configs, good)).await??;
        let mut images = Vec::new();
        for &architecture in &self.architectures {
            let alone = if self.architectures.len() == 1 { tag } else { "" };
            images.push((architecture, self.push_image(registry, repository, alone, architecture, &layers).await?));
        }
        let digest = match images.as_slice() {
            [(_, image)] => image.digest.clone(),
            _ => {
                let listed = images.iter().map(|(architecture, image)| {
                    let mut listed = image.descriptor();
                    set(&mut listed, "platform", json!({"architecture": architecture, "os": "linux"}));
                    listed
                });
                let media_type = self.flavour.index();
                let index =
                    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": listed.collect::<Vec<_>>()});
                registry.put_manifest(repository, tag, media_type, &index).await?.0.digest
            }
        };
        Ok(Made { digest, bundles })
    }

    /// The images of all bundles: its own and its operator's by digest, one that all share, and one by its tag.
    async fn push_images(&self, registry: &Remote) -> Result<BTreeMap<String, Vec<String>>> {
        let shared = registry.push_image(SHARED, "", ImageSpec::named(SHARED)).await?.digest;
        let mut made = BTreeMap::new();
        for package in &self.packages {
            for version in package.versions() {
                let name = bundle_name(&package.name, version);
                let mut images = Vec::new();
                for part in ["bundle", "operator"] {
                    let repository = format!("operators/{}-{part}", package.name);
                    let image =
                        registry.push_image(&repository, "", ImageSpec::named(&format!("{part}{name}"))).await?;
                    images.push(format!("{HOST}/{repository}@{}", image.digest));
                }
                images.push(format!("{HOST}/{SHARED}@{shared}"));
                let (repository, tag) = (format!("operators/{}-tools", package.name), format!("v{version}"));
                registry.push_image(&repository, &tag, ImageSpec::named(&format!("tools{name}"))).await?;
                images.push(format!("{HOST}/{repository}:{tag}"));
                made.insert(name, images);
            }
        }
        Ok(made)
    }

    /// The files of the catalog, by their names below its folder.
    fn files(&self, images: &BTreeMap<String, Vec<String>>) -> Result<BTreeMap<String, String>> {
        let other = json!({"schema": "example.com.notes", "name": "about", "text": "of no package"});
        let mut files = BTreeMap::from([
            (".indexignore".to_owned(), "*.md\n".to_owned()),
            ("notes.json".to_owned(), other.to_string()),
        ]);
        for (number, package) in self.packages.iter().enumerate() {
            let name = &package.name;
            let [head, channels, mut bundles] = package.documents(images, self.twist.filter(|_| number == 0));
            match self.twist.filter(|_| number == 0) {
                Some(Twist::Twice) => bundles.extend_from_within(..),
                Some(Twist::NoImage) => bundles.iter_mut().for_each(|bundle| set(bundle, "image", json!(""))),
                _ => {}
            }
            let mut add = |file: &str, text: String| files.insert(format!("{name}/{file}"), text);
            if package.yaml {
                for (file, documents) in [("package", head), ("channels", channels), ("bundles", bundles)] {
                    let texts: Vec<_> = documents.iter().map(serde_yaml::to_string).collect::<Result<_, _>>()?;
                    add(&format!("{file}.yaml"), texts.join("---\n"));
                }
                add("README.md", "{ neither JSON nor YAML".to_owned());
            } else {
                let documents = [head, channels, bundles].concat();
                let texts: Vec<_> = documents.iter().map(serde_json::to_string_pretty).collect::<Result<_, _>>()?;
                add("catalog.json", texts.join("\n"));
            }
            if matches!(self.twist, Some(Twist::Unparsable(broken)) if broken == name) {
                add("more.json", format!("{{\"schema\": \"olm.bundle\", \"package\": \"{name}\","));
            }
        }
        Ok(files)
    }

    /// The layers of its image above that with `opm`, lowest first.
    fn layers(&self, files: &BTreeMap<String, String>, cached: bool) -> Result<Vec<Packed>> {
        let (mut lower, mut upper) = (Tree::default(), Tree::default());
        let first = self.packages.first().map(|package| package.name.as_str()).context("a catalog without packages")?;
        for (folder, package) in [(WITHDRAWN, WITHDRAWN), (first, LEFTOVER)] {
            let hidden = json!({"schema": "olm.package", "name": package, "defaultChannel": ""});
            lower.file(&format!("configs/{folder}/{package}.json"), 0o644, hidden.to_string());
        }
        lower.file("configs/notes.json", 0o644, json!({"schema": "example.com.notes", "name": "older"}).to_string());
        upper.file(&format!("configs/.wh.{WITHDRAWN}"), 0o644, "");
        upper.file(&format!("configs/{first}/.wh..wh..opq"), 0o644, "");
        for (name, text) in files {
            upper.file(&format!("configs/{name}"), 0o644, text.as_str());
        }
        if self.twist == Some(Twist::Link) {
            upper.link(&format!("configs/{first}/link.json"), "../../etc/os-release");
        }
        let mut layers = vec![lower.pack(0)?, upper.pack(0)?];
        if self.twist == Some(Twist::Traversal) {
            layers.push(traversal()?);
        }
        let mut cache = Tree::default();
        cache.folder("tmp", 0o1777);
        if cached {
            add_cache(&mut cache, files)?;
        }
        layers.push(cache.pack(0)?);
        Ok(layers)
    }

    async fn push_image(
        &self,
        registry: &Remote,
        repository: &str,
        tag: &str,
        architecture: &str,
        layers: &[Packed],
    ) -> Result<Manifest> {
        let flavour = self.flavour;
        let system = tokio::task::spawn_blocking({
            let real = architecture == "amd64";
            move || if real { system() } else { other_system() }
        });
        let system = system.await??;
        let mut listed = Vec::new();
        let mut unpacked = Vec::new();
        for (number, (blob, diff_id)) in std::iter::once(&system).chain(layers).enumerate() {
            let broken = number == 2 && self.twist.is_some_and(|twist| twist.breaks(architecture));
            let bytes = if broken { b"neither gzip nor tar".as_slice() } else { &blob.bytes };
            let digest = registry.push_blob(repository, bytes).await?;
            listed.push(json!({"mediaType": flavour.layer(), "digest": digest, "size": bytes.len()}));
            unpacked.push(diff_id);
        }
        let labels = match self.twist {
            Some(Twist::NoLabel) => json!({}),
            Some(Twist::Database) => json!({DATABASE: "/database/index.db"}),
            _ => json!({LABEL: "/configs"}),
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": "1001",
                "Env": ["PATH=/usr/bin:/bin"],
                "Entrypoint": ["/bin/opm"],
                "Cmd": ["serve", "/configs", "--cache-dir=/tmp/cache"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": unpacked},
        });
        let config = serde_json::to_vec(&config)?;
        let digest = registry.push_blob(repository, &config).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": flavour.manifest(),
            "config": {"mediaType": flavour.config(), "digest": digest, "size": config.len()},
            "layers": listed,
        });
        Ok(registry.put_manifest(repository, tag, flavour.manifest(), &manifest).await?.0)
    }
}

impl Twist {
    fn breaks(self, architecture: &str) -> bool {
        matches!(self, Self::BrokenPlatform(broken) if broken == architecture)
    }
}

impl Package {
    /// Its documents: of itself, of its channels, of its bundles.
    fn documents(&self, images: &BTreeMap<String, Vec<String>>, twist: Option<Twist>) -> [Vec<Value>; 3] {
        let package = self.name.as_str();
        let default = self.channels.first().map(|(name, _)| name);
        let mut head = vec![json!({
            "schema": "olm.package", "name": package, "defaultChannel": default, "description": format!("All about {package}."),
        })];
        if !self.deprecations.is_empty() {
            head.push(json!({"schema": "olm.deprecations", "package": package, "entries": self.deprecations}));
        }
        let channels = self.channels.iter().enumerate().map(|(number, (name, entries))| {
            let mut entries: Vec<_> = entries.iter().map(|entry| entry.document(package)).collect();
            let newest = entries.last().and_then(|entry| entry.get("name")).cloned();
            match (twist.filter(|_| number == 0), entries.as_mut_slice()) {
                (Some(Twist::TwoHeads), [.., head]) => *head = json!({"name": newest}),
                (Some(Twist::Cycle), [first, ..]) => set(first, "replaces", json!(newest)),
                _ => {}
            }
            json!({"schema": "olm.channel", "package": package, "name": name, "entries": entries})
        });
        let bundles = self.versions().into_iter().map(|version| {
            let name = bundle_name(package, version);
            let images = images.get(&name).map(Vec::as_slice).unwrap_or_default();
            let related: Vec<_> = images.iter().map(|image| json!({"name": "", "image": image})).collect();
            json!({
                "schema": "olm.bundle", "package": package, "name": name, "image": images.first(),
                "properties": [
                    {"type": "olm.package", "value": {"packageName": package, "version": version}},
                    {"type": "olm.gvk", "value": {"group": format!("{package}.example.com"), "kind": "Thing", "version": "v1"}},
                    {"type": "olm.csv.metadata", "value": {"displayName": package, "description": format!("{package} {version}")}},
                ],
                "relatedImages": related,
            })
        });
        [head, channels.collect(), bundles.collect()]
    }
}

/// A layer, and the digest of what it unpacks to.
type Packed = (Blob, String);

fn set(value: &mut Value, key: &str, to: Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(key.to_owned(), to);
    }
}

/// The layer with the real `opm`, which is packed once.
fn system() -> Result<Packed> {
    static MADE: OnceLock<Packed> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let opm = tools::ensure(Tool::Opm)?;
    let mut tree = other_tree();
    tree.file("bin/opm", 0o755, fs::read(&opm).with_context(|| format!("reading {}", opm.display()))?);
    let packed = tree.pack(0)?;
    Ok(MADE.get_or_init(|| packed).clone())
}

/// The same for a machine that is not this one.
fn other_system() -> Result<Packed> {
    let mut tree = other_tree();
    tree.file("bin/opm", 0o755, "for another machine");
    tree.pack(0)
}

fn other_tree() -> Tree {
    let mut tree = Tree::default();
    tree.file("etc/os-release", 0o644, "ID=rhel\n");
    tree.folder("tmp", 0o1777);
    tree
}

/// A layer with a file that leads out of wherever it is unpacked.
fn traversal() -> Result<Packed> {
    let text = b"{}";
    let mut header = tar::Header::new_ustar();
    // No library writes such a name.
    let name = b"configs/../../outside.json";
    header.as_old_mut().name.iter_mut().zip(name).for_each(|(place, byte)| *place = *byte);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, text.as_slice())?;
    container::compress(&archive.into_inner()?)
}

/// Adds what `opm` keeps of a catalog beside it.
fn add_cache(tree: &mut Tree, files: &BTreeMap<String, String>) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let [configs, cache] = ["configs", "cache"].map(|name| scratch.path().join(name));
    for (name, text) in files {
        let path = configs.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&configs))?;
        fs::write(path, text)?;
    }
    let mut command = Command::new(tools::ensure(Tool::Opm)?);
    command.arg("serve").arg(&configs).arg("--cache-dir").arg(&cache).args(["--cache-only", "--pprof-addr="]);
    // Its word about a file of a container.
    command.arg("--termination-log").arg(scratch.path().join("log")).stdin(Stdio::null());
    let output = command.output().context("running opm")?;
    ensure!(output.status.success(), "opm makes no cache: {}", String::from_utf8_lossy(&output.stderr));
    add_folder(tree, &cache, "tmp/cache")
}

/// Adds a folder with all that is in it, with the modes that it has.
fn add_folder(tree: &mut Tree, folder: &Path, name: &str) -> Result<()> {
    tree.folder(name, fs::metadata(folder)?.permissions().mode() & 0o777);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            add_folder(tree, &entry.path(), &name)?;
        } else {
            tree.file(&name, entry.metadata()?.permissions().mode() & 0o777, fs::read(entry.path())?);
        }
    }
    Ok(())
}

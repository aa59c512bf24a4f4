//! The real programs of the suite: pinned, built once, cached outside the tree.
//!
//! Each folder of `e2e/tools/` is a Go module that pins one program and, in its `go.sum`, everything that goes into it.
//! The cache is `${IMAGESET_MIRROR_CACHE:-${XDG_CACHE_HOME:-~/.cache}/imageset-mirror}/tools/`; a module's folder there
//! is named after the hash of what it is built from. Once built, neither Go nor a network is needed. Programs of
//! Kubernetes' test kit are taken from `KUBEBUILDER_ASSETS` or `PATH` where they have the pinned version.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The Kubernetes version that the suite runs against.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// The etcd version that this Kubernetes names.
pub const ETCD_VERSION: &str = "3.6.8";

/// The version of the container runtime.
const CONTAINERD_VERSION: &str = "v2.4.2";

/// The helm version.
pub const HELM_VERSION: &str = "v3.22.0";

/// The version of Argo CD.
pub const ARGO_CD_VERSION: &str = "v3.1.9";

/// A program of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The API server.
    KubeApiserver,
    /// The controller manager: garbage collection, namespaces, service accounts, deployments.
    KubeControllerManager,
    /// The command line of Kubernetes, kustomize included.
    Kubectl,
    /// The store of the API server.
    Etcd,
    /// CNCF distribution.
    Registry,
    /// olareg, another registry implementation.
    Olareg,
    /// Our judge of mirror sets, on OpenShift's merge and the container runtime's lookup.
    Mirrorconf,
    /// Our judge of release signatures, on the code of OpenShift's version operator.
    Relverify,
    /// The server of operator catalogs.
    Opm,
    /// Our client of that server, which also unpacks and reads catalogs as nodes and catalogd do.
    CatalogClient,
    /// Renders and installs the chart.
    Helm,
    /// Its successor, which leaves it to the API server to merge.
    Helm4,
    /// Runs the unit tests of the alerts.
    Promtool,
    /// Runs scripts for Argo CD as Argo CD does.
    Lua,
    /// Argo CD's controller, repo server and command line, in one.
    ArgoCd,
    /// Runs the pods of a node.
    Kubelet,
    /// Gives pods a node.
    KubeScheduler,
    /// The container runtime of a node.
    Containerd,
    /// What containerd keeps a pod with.
    ContainerdShim,
    /// The command line of containerd.
    Ctr,
    /// Starts containers.
    Runc,
    /// Connects pods with the bridge of a node.
    CniBridge,
    /// Gives pods addresses.
    CniHostLocal,
    /// Our own helper of the node.
    Node,
    /// A peer of the benchmark.
    Crane,
    /// A peer of the benchmark.
    Regsync,
    /// A peer of the benchmark.
    Oras,
    /// A peer of the benchmark: the library that oc-mirror copies with.
    ImageCopy,
}

/// How a program is built.
struct Recipe {
    /// The folder below `e2e/tools/`, and the first part of the cache folder's name.
    module: &'static str,
    /// The file that is built.
    binary: &'static str,
    package: &'static str,
    version: &'static str,
    tags: &'static str,
    /// Linked with C, statically.
    cgo: bool,
    /// What to tell somebody who waits for the first build.
    estimate: &'static str,
    /// Arguments and expected output of a copy found elsewhere, if one may be taken.
    elsewhere: Option<(&'static [&'static str], &'static str)>,
}

impl Tool {
    /// The programs of the scenarios that every machine can run, the slowest build first. Argo CD has a suite of its own.
    pub const SCENARIOS: [Tool; 14] = [
        Tool::KubeApiserver,
        Tool::Promtool,
        Tool::KubeControllerManager,
        Tool::Opm,
        Tool::CatalogClient,
        Tool::Helm,
        Tool::Helm4,
        Tool::Kubectl,
        Tool::Registry,
        Tool::Etcd,
        Tool::Mirrorconf,
        Tool::Relverify,
        Tool::Lua,
        Tool::Olareg,
    ];

    /// What a node needs besides; only where one can run.
    pub const NODE: [Tool; 9] = [
        Tool::Containerd,
        Tool::Kubelet,
        Tool::Runc,
        Tool::KubeScheduler,
        Tool::Ctr,
        Tool::ContainerdShim,
        Tool::CniBridge,
        Tool::CniHostLocal,
        Tool::Node,
    ];

    const fn recipe(self) -> Recipe {
        match self {
            Tool::KubeApiserver => Recipe {
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                elsewhere: Some((&["--version"], "Kubernetes v1.36.3")),
                ..kubernetes("kube-apiserver", "about 6 minutes")
            },
            Tool::KubeControllerManager => Recipe {
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                elsewhere: Some((&["--version"], "Kubernetes v1.36.3")),
                ..kubernetes("kube-controller-manager", "about 2 minutes")
            },
            Tool::Kubectl => Recipe {
                package: "k8s.io/kubernetes/cmd/kubectl",
                elsewhere: Some((&["version", "--client"], "Client Version: v1.36.3")),
                ..kubernetes("kubectl", "about half a minute")
            },
            Tool::Etcd => Recipe {
                elsewhere: Some((&["--version"], "etcd Version: 3.6.8")),
                ..plain("etcd", "go.etcd.io/etcd/server/v3", ETCD_VERSION, "about half a minute")
            },
            Tool::Registry => {
                plain("registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2", "about 2 minutes")
            }
            Tool::Olareg => plain("olareg", "github.com/olareg/olareg/cmd/olareg", "v0.1.2", "some seconds"),
            Tool::Mirrorconf => Recipe {
                // Pure Go OpenPGP: with cgo two versions of containers/storage meet in one program.
                tags: "containers_image_openpgp",
                ..plain("mirrorconf", ".", "of this tree", "about 2 minutes")
            },
            Tool::Relverify => plain("relverify", ".", "of this tree", "about half a minute"),
            Tool::Opm => opm("opm", "github.com/operator-framework/operator-registry/cmd/opm", "about 2 minutes"),
            Tool::CatalogClient => opm("catalogclient", ".", "some seconds"),
            Tool::Helm => plain("helm", "helm.sh/helm/v3/cmd/helm", HELM_VERSION, "about a minute"),
            Tool::Helm4 => plain("helm4", "helm.sh/helm/v4/cmd/helm", "v4.3.1", "about a minute"),
            Tool::Promtool => {
                plain("promtool", "github.com/prometheus/prometheus/cmd/promtool", "v0.307.0", "about 3 minutes")
            }
            Tool::Kubelet => {
                Recipe { package: "k8s.io/kubernetes/cmd/kubelet", ..kubernetes("kubelet", "about 2 minutes") }
            }
            Tool::KubeScheduler => Recipe {
                package: "k8s.io/kubernetes/cmd/kube-scheduler",
                ..kubernetes("kube-scheduler", "about half a minute")
            },
            Tool::Containerd => {
                containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd", "about 3 minutes")
            }
            Tool::ContainerdShim => containerd(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "some seconds",
            ),
            Tool::Ctr => containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr", "some seconds"),
            Tool::Runc => Recipe {
                tags: "netgo,osusergo,seccomp",
                cgo: true,
                ..plain("runc", "github.com/opencontainers/runc", "v1.5.2", "about half a minute")
            },
            Tool::Lua => plain("lua", ".", "of this tree", "some seconds"),
            Tool::ArgoCd => plain("argocd", "github.com/argoproj/argo-cd/v3/cmd", ARGO_CD_VERSION, "about 5 minutes"),
            Tool::CniBridge => cni("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            Tool::CniHostLocal => cni("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            Tool::Node => plain("node", ".", "of this tree", "some seconds"),
            Tool::Crane => {
                plain("crane", "github.com/google/go-containerregistry/cmd/crane", "v0.22.1", "about half a minute")
            }
            Tool::Regsync => {
                plain("regsync", "github.com/regclient/regclient/cmd/regsync", "v0.11.7", "about half a minute")
            }
            Tool::Oras => plain("oras", "oras.land/oras/cmd/oras", "v1.3.6", "about half a minute"),
            Tool::ImageCopy => Recipe {
                tags: "containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper",
                // Its cache is a database in C.
                cgo: true,
                ..plain("imagecopy", ".", "v5.42.0", "about 2 minutes")
            },
        }
    }

    /// Its pinned version.
    pub fn version(self) -> &'static str {
        self.recipe().version
    }
}

/// A program that is named after its module.
const fn plain(module: &'static str, package: &'static str, version: &'static str, estimate: &'static str) -> Recipe {
    Recipe { module, binary: module, package, version, tags: "", cgo: false, estimate, elsewhere: None }
}

const fn kubernetes(binary: &'static str, estimate: &'static str) -> Recipe {
    Recipe { binary, ..plain("kubernetes", "", KUBERNETES_VERSION, estimate) }
}

const fn containerd(binary: &'static str, package: &'static str, estimate: &'static str) -> Recipe {
    Recipe {
        binary,
        // Without what would need C, or kernel parts that a node of tests does not use.
        tags: "netgo,osusergo,static_build,no_btrfs,no_devmapper,no_zfs",
        ..plain("containerd", package, CONTAINERD_VERSION, estimate)
    }
}

const fn cni(binary: &'static str, package: &'static str) -> Recipe {
    Recipe { binary, ..plain("cni", package, "v1.9.1", "some seconds") }
}

const fn opm(binary: &'static str, package: &'static str, estimate: &'static str) -> Recipe {
    Recipe {
        binary,
        // OpenPGP in Go instead of gpgme, which is C.
        tags: "containers_image_openpgp",
        ..plain("opm", package, "v1.73.0", estimate)
    }
}

/// Without a stamped version the server calls itself v0.0.0-master, and kubectl refuses to talk to it; helm renders for
/// Kubernetes 1.20.
fn link_flags(module: &str) -> String {
    let stamps: &[(&str, &str)] = match module {
        "kubernetes" => &[
            ("k8s.io/component-base/version.gitVersion", KUBERNETES_VERSION),
            ("k8s.io/component-base/version.gitMajor", "1"),
            ("k8s.io/component-base/version.gitMinor", "36"),
            ("k8s.io/component-base/version.gitCommit", "unknown"),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
            ("k8s.io/component-base/version.buildDate", "1970-01-01T00:00:00Z"),
        ],
        "helm" => &[
            ("helm.sh/helm/v3/internal/version.version", HELM_VERSION),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "36"),
        ],
        "containerd" => &[("github.com/containerd/containerd/v2/version.Version", CONTAINERD_VERSION)],
        _ => &[],
    };
    let mut flags = "-s -w".to_owned();
    for (name, value) in stamps {
        // Writing into a string does not fail.
        write!(flags, " -X {name}={value}").ok();
    }
    flags
}

/// The path of a program, which is built first if nothing of the pinned version is there.
///
/// # Errors
/// When it has to be built and Go is missing, too old, or cannot get the modules.
pub fn ensure(tool: Tool) -> Result<PathBuf> {
    let recipe = tool.recipe();
    let folder = module_folder(recipe.module)?;
    let binary = folder.join(recipe.binary);
    if binary.exists() {
        return Ok(binary);
    }
    if let Some(found) = elsewhere(&recipe) {
        return Ok(found);
    }
    let _lock = lock(&folder, recipe.binary)?;
    if binary.exists() {
        return Ok(binary);
    }
    build(&recipe, &folder).with_context(|| format!("building {} {}", recipe.binary, recipe.version))?;
    Ok(binary)
}

/// Makes sure of what a node needs besides.
///
/// # Errors
/// As [`ensure()`].
pub fn ensure_node() -> Result<()> {
    for tool in Tool::NODE {
        ensure(tool)?;
    }
    Ok(())
}

/// Makes sure of every program of [`Tool::SCENARIOS`] and of the foreign CRDs.
///
/// # Errors
/// As [`ensure()`].
pub fn ensure_all() -> Result<()> {
    for tool in Tool::SCENARIOS {
        ensure(tool)?;
    }
    openshift_crds()?;
    olm_crds()?;
    prometheus_crds()?;
    Ok(())
}

/// The folder with the CRD files that OpenShift ships, copied out of the Go module cache.
///
/// # Errors
/// When they have to be fetched and Go is missing or cannot get the module.
pub fn openshift_crds() -> Result<PathBuf> {
    let parts = ["config/v1", "operator/v1alpha1", "machineconfiguration/v1"];
    let folders = parts.map(|part| format!("{part}/zz_generated.crd-manifests"));
    crds("openshift-crds", "github.com/openshift/api", &folders, ".crd.yaml")
}

/// The folders with the CRD files of both OLMs, taken like OpenShift's.
///
/// # Errors
/// As [`openshift_crds`].
pub fn olm_crds() -> Result<[PathBuf; 2]> {
    let folder = "config/base/crd/bases".to_owned();
    Ok([
        crds("olm-crds", "github.com/operator-framework/api", &["crds".to_owned()], ".yaml")?,
        crds("catalogd-crds", "github.com/operator-framework/catalogd", &[folder], ".yaml")?,
    ])
}

/// The folder with the CRD files of the Prometheus operator, taken like OpenShift's.
///
/// # Errors
/// As [`openshift_crds`].
pub fn prometheus_crds() -> Result<PathBuf> {
    let folder = "example/prometheus-operator-crd".to_owned();
    crds("prometheus-crds", "github.com/prometheus-operator/prometheus-operator", &[folder], ".yaml")
}

/// The folder with the CRD files of Argo CD, taken like OpenShift's.
///
/// # Errors
/// As [`openshift_crds`].
pub fn argo_cd_crds() -> Result<PathBuf> {
    crds("argocd", "github.com/argoproj/argo-cd/v3", &["manifests/crds".to_owned()], "-crd.yaml")
}

fn crds(module: &str, path: &str, folders: &[String], suffix: &str) -> Result<PathBuf> {
    let folder = module_folder(module)?;
    let crds = folder.join("crds");
    if crds.exists() {
        return Ok(crds);
    }
    let _lock = lock(&folder, module)?;
    if crds.exists() {
        return Ok(crds);
    }
    say(&format!("fetching the CRDs of {path}"));
    let output = go(module)?
        .args(["mod", "download", "-json", path])
        .stderr(Stdio::inherit())
        .output()
        .context("running go mod download")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "go mod download: {text}");
    let module: Download = serde_json::from_str(&text).context("reading what go mod download prints")?;
    let staging = tempfile::tempdir_in(&folder)?;
    for manifests in folders {
        let manifests = module.dir.join(manifests);
        for entry in fs::read_dir(&manifests).with_context(|| format!("reading {}", manifests.display()))? {
            let file = entry?;
            if file.file_name().to_string_lossy().ends_with(suffix) {
                // Read and write rather than copy: the module cache is read-only, and so would the copies be.
                fs::write(staging.path().join(file.file_name()), fs::read(file.path())?)?;
            }
        }
    }
    fs::rename(staging.keep(), &crds)?;
    Ok(crds)
}

/// What `go mod download -json` prints.
#[derive(Deserialize)]
struct Download {
    #[serde(rename = "Dir")]
    dir: PathBuf,
}

/// The named cache: the only place outside the repository that the suite writes to.
///
/// # Errors
/// When no home directory is known.
pub fn cache() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = named("IMAGESET_MIRROR_CACHE") {
        return Ok(std::path::absolute(path)?);
    }
    let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    let base = base.context("set IMAGESET_MIRROR_CACHE or HOME: there is no place for the built tools")?;
    Ok(std::path::absolute(base)?.join("imageset-mirror"))
}

/// The sources of the tools.
fn sources(module: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module)
}

/// The cache folder of a module, named after all that decides about its content.
fn module_folder(module: &str) -> Result<PathBuf> {
    let source = sources(module);
    let mut files: Vec<PathBuf> = fs::read_dir(&source)
        .with_context(|| format!("reading {}", source.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "go.mod" || name == "go.sum" || name.ends_with(".go")
    });
    files.sort();
    let mut hash = Sha256::new();
    hash.update(link_flags(module));
    hash.update(std::env::consts::OS);
    hash.update(std::env::consts::ARCH);
    for path in files {
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        hash.update(Sha256::digest(content));
    }
    let mut hex = String::new();
    for byte in hash.finalize().iter().take(6) {
        write!(hex, "{byte:02x}")?;
    }
    let folder = cache()?.join("tools").join(format!("{module}-{hex}"));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Keeps others from building in this folder until it is dropped.
fn lock(folder: &Path, what: &str) -> Result<File> {
    let file = File::create(folder.join(".lock"))?;
    if file.try_lock().is_err() {
        say(&format!("waiting for {what}, which another process is building"));
        file.lock()?;
    }
    Ok(file)
}

/// A copy of the pinned version in `KUBEBUILDER_ASSETS` or `PATH`.
fn elsewhere(recipe: &Recipe) -> Option<PathBuf> {
    let (args, expected) = recipe.elsewhere?;
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    assets.into_iter().chain(std::env::split_paths(&path)).find_map(|folder| {
        let binary = std::path::absolute(folder.join(recipe.binary)).ok()?;
        let output = Command::new(&binary).args(args).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        (output.status.success() && text.lines().any(|line| line.trim() == expected)).then_some(binary)
    })
}

fn build(recipe: &Recipe, folder: &Path) -> Result<()> {
    say(&format!("building {} {}, {} the first time", recipe.binary, recipe.version, recipe.estimate));
    let staging = tempfile::tempdir_in(folder)?;
    let made = staging.path().join(recipe.binary);
    let mut command = go(recipe.module)?;
    let mut flags = link_flags(recipe.module);
    if recipe.cgo {
        flags.push_str(" -linkmode external -extldflags -static");
        command.env("CGO_ENABLED", "1");
        if recipe.module == Tool::Runc.recipe().module {
            with_libseccomp(&mut command)?;
        }
    }
    command.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"]);
    command.args(["-tags", recipe.tags, "-ldflags", &flags, "-o"]);
    command.arg(&made).arg(recipe.package);
    let output = command.output().context("running go build")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("go: downloading")).collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        bail!("go build failed ({}):\n{tail}", output.status);
    }
    fs::rename(&made, folder.join(recipe.binary))?;
    Ok(())
}

/// Whether runc can be built here, or what is missing.
pub(crate) fn libseccomp_in_reach() -> Result<(), String> {
    let built = Tool::Runc.recipe();
    let there = module_folder(built.module).is_ok_and(|folder| folder.join(built.binary).exists());
    if there || Path::new(SECCOMP_HEADER).exists() {
        return Ok(());
    }
    if !found("apt-get") || !found("dpkg-deb") {
        return Err(
            "runc needs libseccomp with its headers, and there is no apt-get to fetch libseccomp-dev".to_owned()
        );
    }
    libseccomp().map(|_folder| ()).map_err(|error| format!("runc needs libseccomp: {error:#}"))
}

const SECCOMP_HEADER: &str = "/usr/include/seccomp.h";

/// Lets a build find libseccomp: the installed one, else Debian's package, unpacked into the cache.
fn with_libseccomp(command: &mut Command) -> Result<()> {
    // The flags below say it all, so that pkg-config need not be there.
    command.env("PKG_CONFIG", "true");
    if Path::new(SECCOMP_HEADER).exists() {
        command.env("CGO_LDFLAGS", "-lseccomp");
        return Ok(());
    }
    let folder = libseccomp()?;
    let include = folder.join("usr/include");
    let library = folder.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    command.env("CGO_CFLAGS", format!("-I{}", include.display()));
    command.env("CGO_LDFLAGS", format!("-L{} -lseccomp", library.display()));
    Ok(())
}

/// libseccomp with its headers, unpacked into the cache.
fn libseccomp() -> Result<PathBuf> {
    debian("libseccomp", &["libseccomp-dev"], "to build runc with")
}

/// `redis-server` and the folder of its libraries if that is none of the system's: the installed one, else Debian's package,
/// unpacked into the cache.
///
/// # Errors
/// When it is neither there nor to be had.
pub fn redis() -> Result<(PathBuf, Option<PathBuf>)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|file| file.is_file());
    if let Some(installed) = installed {
        return Ok((installed, None));
    }
    // The first is a link into the second; what else the program needs is there wherever apt-get is.
    let packages = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"];
    let folder = debian("redis", &packages, "for Argo CD").context(
        "redis-server is not there, and Argo CD cannot do without it: install it (Debian, Ubuntu: `apt-get install redis-server`; it \
         need not run as a service)",
    )?;
    let libraries = folder.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    Ok((folder.join("usr/bin/redis-server"), Some(libraries)))
}

/// Debian's docker-registry: distribution 2.8. It comes as a package, because its sources are from before Go modules.
///
/// # Errors
/// When Debian's packages are not to be had here.
pub fn debian_registry() -> Result<PathBuf> {
    // Tests run at the same time: one of them fetches it.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(debian("docker-registry", &["docker-registry"], "to run scenarios against")?.join("usr/bin/docker-registry"))
}

/// What `skopeo` runs with that a plain system lacks.
const SKOPEO: [&str; 5] = ["skopeo", "libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1"];

/// Debian's skopeo, or the installed one, and the folders of the libraries that it needs besides the system's.
///
/// # Errors
/// When it is not installed, and there is no apt-get to fetch it.
pub fn skopeo() -> Result<(PathBuf, Option<String>)> {
    if found("skopeo") {
        return Ok((PathBuf::from("skopeo"), None));
    }
    ensure!(found("apt-get") && found("dpkg-deb"), "skopeo is not installed, and there is no apt-get to fetch it");
    let folder = debian("skopeo", &SKOPEO, "to compare with")?;
    let libraries = ["usr/lib", "lib"]
        .map(|lib| folder.join(lib).join(format!("{}-linux-gnu", std::env::consts::ARCH)).display().to_string());
    Ok((folder.join("usr/bin/skopeo"), Some(libraries.join(":"))))
}

/// What skopeo says of its version.
///
/// # Errors
/// When it does not run.
pub fn skopeo_version() -> Result<String> {
    let (program, libraries) = skopeo()?;
    let mut command = Command::new(program);
    command.arg("--version").envs(libraries.map(|libraries| ("LD_LIBRARY_PATH", libraries)));
    let output = command.output().context("running skopeo")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace("skopeo version ", ""))
}

/// Debian's packages, unpacked into a folder of the cache.
fn debian(name: &str, packages: &[&str], purpose: &str) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    if !folder.exists() {
        say(&format!("fetching {}, {purpose}", packages.join(", ")));
        let parent = folder.parent().context("the cache is a root folder")?;
        fs::create_dir_all(parent)?;
        let staging = tempfile::tempdir_in(parent)?;
        let mut download = Command::new("apt-get");
        download.args(["download", "--quiet", "-o", "APT::Sandbox::User=root"]).args(packages);
        run(download.current_dir(staging.path()))
            .with_context(|| format!("`apt-get update` may help, or `apt-get install {}`", packages.join(" ")))?;
        for entry in fs::read_dir(staging.path())? {
            run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(staging.path().join("root")))?;
        }
        // Somebody else may have been faster.
        let moved = fs::rename(staging.path().join("root"), &folder);
        if !folder.exists() {
            moved?;
        }
    }
    Ok(folder)
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether a program is on the `PATH`.
pub(crate) fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// `go` in the folder of a module, with settings of the user that would change the result switched off.
fn go(module: &str) -> Result<Command> {
    let found = Command::new("go").arg("version").stdin(Stdio::null()).output();
    if !found.is_ok_and(|output| output.status.success()) {
        bail!(
            "`go` is not there: the programs of the end-to-end suite are built with Go 1.26 or newer; \
             install it and put it on PATH (once they are built it is not needed any more)"
        );
    }
    let mut command = Command::new("go");
    command.current_dir(sources(module)).stdin(Stdio::null());
    // The installed Go or none: a build must not fetch another compiler.
    command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GOWORK", "off");
    // What Go keeps is kept in the named cache too, so that removing that folder removes everything.
    let cache = cache()?;
    command
        .env("GOMODCACHE", cache.join("go/mod"))
        .env("GOCACHE", cache.join("go/build"))
        .env("GOFLAGS", "-modcacherw");
    Ok(command)
}

/// Tells the person who waits, also from tests, whose output is captured.
pub fn say(text: &str) {
    // Nobody to tell it to: then it is not told.
    drop(writeln!(std::io::stderr(), "e2e: {text}"));
}

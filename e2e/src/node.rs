//! A real node: kubelet, containerd, runc and a bridge, in namespaces of its own on this machine.
//!
//! The node's first process makes mounts and a network ([`init.sh`](../../node/init.sh)); everything else is started into
//! its namespaces and cgroups, the control plane of [`crate::cluster`] included. When the first process ends, the kernel
//! ends the others, and mounts and interfaces go with them; the cgroups are removed then. The watchdog of
//! [`crate::process`] does the same if the harness is killed.
//!
//! What listens on 127.0.0.1 of this machine is made known to pods with [`Node::publish`]. Every image name in the world
//! is looked up in one registry, [`Node::images`], so that no pod ever pulls from elsewhere.
//!
//! It needs root and the cgroups of version 1: see [`Node::available`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};

use crate::container::{self, Image, Tree};
use crate::operator::repository;
use crate::pki::{self, Authority};
use crate::process::{Process, Program, RunFolder, target_folder, watch_cgroup};
use crate::registry::{Options, Registry};
use crate::tools::{self, Tool};
use crate::wait::LONG;

/// The address of the node, at which pods find what is published.
pub const ADDRESS: &str = "10.90.0.1";

/// The address of the API server's Service.
pub(crate) const SERVICE_ADDRESS: &str = "10.96.0.1";

/// The name of the node.
pub const NAME: &str = "node1";

/// An image that does nothing until it is asked to end.
pub const PAUSE_IMAGE: &str = "localhost/node/pause:1";

/// Where the registry of images listens in the node.
const IMAGES: &str = "127.0.0.1:5000";

/// The folder of `hosts.toml` files below that of the run.
const HOSTS: &str = "hosts";

/// How long the kernel may take to end what is left of a node.
const END: Duration = Duration::from_secs(30);

/// A node. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Node {
    // Before the first process, and that before the folder.
    kubelet: Option<Process>,
    containerd: Option<Process>,
    ways: Mutex<Vec<Process>>,
    first: Process,
    init: u32,
    cgroups: Vec<PathBuf>,
    cgroup_list: PathBuf,
    helper: PathBuf,
    images: Registry,
    run: RunFolder,
}

impl Node {
    /// Whether a node can run on this machine.
    ///
    /// # Errors
    /// The reason, for people, if it cannot.
    pub fn available() -> Result<(), String> {
        if std::env::consts::OS != "linux" {
            return Err(format!("a node needs Linux, and this is {}", std::env::consts::OS));
        }
        if !geteuid().is_root() {
            return Err("a node needs root".to_owned());
        }
        let folders = cgroup_folders("none").map_err(|error| format!("{error:#}"))?;
        let memory = folders.iter().any(|folder| folder.components().any(|part| part.as_os_str() == "memory"));
        if !memory {
            return Err("a node needs the cgroups of version 1, and this machine has only version 2".to_owned());
        }
        for folder in folders.iter().filter_map(|folder| folder.parent()) {
            if !folder.join("cgroup.procs").exists() {
                return Err(format!("our own cgroup is not at {}", folder.display()));
            }
        }
        let missing: Vec<_> =
            ["unshare", "nsenter", "mount", "ip", "ldd"].into_iter().filter(|program| !tools::found(program)).collect();
        if !missing.is_empty() {
            return Err(format!("a node needs {} on the PATH", missing.join(", ")));
        }
        // These are covered by mounts of the node's own.
        let target = target_folder();
        if let Some(covered) = ["/run", "/var/lib", "/var/log", "/sys"].iter().find(|path| target.starts_with(path)) {
            return Err(format!("the target folder lies below {covered}: set CARGO_TARGET_DIR to another place"));
        }
        tools::libseccomp_in_reach()?;
        let mut probe = Command::new("unshare");
        probe.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork"]);
        probe.args(["mount", "-t", "overlay", "-o", "lowerdir=/var/lib:/var/log", "overlay", "/mnt"]);
        match probe.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                Err(format!("namespaces or overlays are not allowed: {}", String::from_utf8_lossy(&output.stderr)))
            }
            Err(error) => Err(format!("unshare: {error}")),
        }
    }

    /// Makes the namespaces, and a registry for its images. Nothing runs in it yet.
    ///
    /// # Errors
    /// When no node can run here, or something of it cannot be made.
    pub async fn create() -> Result<Self> {
        let helper = tokio::task::spawn_blocking(|| -> Result<_> {
            Self::available().map_err(anyhow::Error::msg)?;
            tools::ensure_node()?;
            tools::ensure(Tool::Node)
        });
        let helper = helper.await??;
        let images = Options::distribution("images").start().await?;
        let run = RunFolder::create("node")?;
        let name = run.path().file_name().context("the folder has no name")?.to_string_lossy().into_owned();
        let cgroups = cgroup_folders(&name)?;
        for folder in &cgroups {
            watch_cgroup(folder);
            make_cgroup(folder)?;
        }
        let lines: Vec<String> = cgroups.iter().map(|folder| format!("{}\n", folder.display())).collect();
        let cgroup_list = run.write("cgroups", lines.concat())?;
        let program = Program::new("node", "/bin/sh")
            .arg(script("join.sh"))
            .arg(&cgroup_list)
            .args(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork"])
            .args(["--kill-child=KILL", "--mount-proc", "/bin/sh"])
            .arg(script("init.sh"))
            .arg(run.path())
            .arg(&helper)
            .args([ADDRESS, SERVICE_ADDRESS]);
        let mut first = match Process::spawn(&program, &run.logs()) {
            Ok(process) => process,
            Err(error) => {
                remove_cgroups(&cgroups);
                return Err(error);
            }
        };
        let made = run.path().join("made");
        let ready = first.ready(LONG, || {
            let there = made.exists();
            async move { Ok(there.then_some(())) }
        });
        let init = match ready.await.and_then(|()| only_child(first.id())) {
            Ok(init) => init,
            Err(error) => {
                first.kill();
                remove_cgroups(&cgroups);
                return Err(error);
            }
        };
        let node = Self {
            kubelet: None,
            containerd: None,
            ways: Mutex::default(),
            first,
            init,
            cgroups,
            cgroup_list,
            helper,
            images,
            run,
        };
        let registry = format!("127.0.0.1:{}", node.images.port());
        node.way(&node.network(), &ours(), IMAGES, &registry).await?;
        // The helper keeps a pod open when it is told nothing.
        node.push(&image_of(&node.helper)?, PAUSE_IMAGE).await?;
        Ok(node)
    }

    /// The same program, started inside.
    pub(crate) fn inside(&self, program: &Program) -> Program {
        let mut inside = Program::new(&program.name, "/bin/sh")
            .arg(script("join.sh"))
            .arg(&self.cgroup_list)
            .args(["nsenter", "--target"])
            .arg(self.init.to_string())
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--"])
            .arg(&program.path)
            .args(&program.args);
        inside.env.clone_from(&program.env);
        inside
    }

    /// A way to what listens inside: `127.0.0.1:<port>` of this machine.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn reach(&self, target: &str) -> Result<String> {
        self.way(&ours(), &self.network(), "127.0.0.1:0", target).await
    }

    /// Makes a port of 127.0.0.1 of this machine known to pods, as the same port of [`ADDRESS`]; returns the host that
    /// they use.
    ///
    /// # Errors
    /// When the port is taken inside.
    pub async fn publish(&self, port: u16) -> Result<String> {
        self.way(&self.network(), &ours(), &format!("{ADDRESS}:{port}"), &format!("127.0.0.1:{port}")).await
    }

    /// Lets pods find these names, each with an IPv4 address, in place of those told before.
    ///
    /// # Errors
    /// When the file cannot be written or nothing answers at the deadline.
    pub async fn names(&self, names: &[(&str, &str)]) -> Result<()> {
        let text: String = names.iter().fold(String::new(), |text, (name, address)| text + name + " " + address + "\n");
        let served = self.run.path().join("names").exists();
        let file = self.run.write("names", text)?;
        if served {
            return Ok(());
        }
        let program = Program::new("names", &self.helper).arg("names").arg(format!("{ADDRESS}:53")).arg(&file);
        let mut process = Process::spawn(&self.inside(&program), &self.run.logs())?;
        // In the kernel's table of UDP sockets of the node; 35 is port 53.
        let sockets = format!("/proc/{}/net/udp", self.init);
        process
            .ready(LONG, || {
                let bound = fs::read_to_string(&sockets).is_ok_and(|text| text.contains(":0035 "));
                async move { Ok(bound.then_some(())) }
            })
            .await?;
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        Ok(())
    }

    /// The folder of this run, after which its cgroups are named.
    pub fn run(&self) -> &RunFolder {
        &self.run
    }

    /// The registry of all images; `ghcr.io/a/b:c` is its `a/b:c`.
    pub fn images(&self) -> &Registry {
        &self.images
    }

    /// The folder in which containerd finds out where to pull from: at every pull, so that nothing has to be restarted.
    pub fn hosts(&self) -> PathBuf {
        self.run.path().join(HOSTS)
    }

    /// An image that does nothing until it is asked to end, and has a layer of its own for each mark.
    ///
    /// # Errors
    /// When it cannot be put together.
    pub fn waiting_image(&self, mark: &str) -> Result<Image> {
        let mut tree = Tree::default();
        tree.file("mark", 0o644, mark);
        container::assemble(&[("program", tree_of(&self.helper)?), ("mark", tree)], 0, "of this tree")
    }

    /// Makes an image known to the node under a name with a tag, whatever its host.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn push(&self, image: &Image, name: &str) -> Result<()> {
        let (name, tag) = name.rsplit_once(':').context("an image has a tag")?;
        let (_, repository) = name.split_once('/').context("an image has a host")?;
        image.push(&self.images.remote()?, repository, tag).await
    }

    /// Makes the operator known under a name, in an image with the libraries that it is linked to and nothing else.
    ///
    /// # Errors
    /// When the binary is not there, or the registry refuses it.
    pub async fn push_operator(&self, name: &str) -> Result<()> {
        let image = tokio::task::spawn_blocking(|| image_of(&crate::operator::binary()?)).await??;
        self.push(&image, name).await
    }

    /// Starts containerd and kubelet, which reports to the API server under an identity that `authority` vouches for.
    pub(crate) async fn boot(&mut self, authority: &Authority, ca_file: &Path, server: &str) -> Result<()> {
        let tools = tokio::task::spawn_blocking(|| -> Result<_> {
            Ok((
                tools::ensure(Tool::Containerd)?,
                tools::ensure(Tool::Ctr)?,
                tools::ensure(Tool::Runc)?,
                tools::ensure(Tool::CniBridge)?,
                tools::ensure(Tool::Kubelet)?,
            ))
        });
        let (containerd, ctr, runc, bridge, kubelet) = tools.await??;
        let plugins = bridge.parent().context("a plugin has a folder")?;
        self.run.write("cni/10-node.conflist", network_config().to_string())?;
        self.run.write(&format!("{HOSTS}/_default/hosts.toml"), hosts_toml(&format!("http://{IMAGES}")))?;
        let config = self.run.write("containerd.toml", containerd_config(self.run.path(), plugins, &runc))?;
        let program = Program::new("containerd", containerd).arg("--config").arg(config);
        let mut containerd = Process::spawn(&self.inside(&program), &self.run.logs())?;
        let probe = self.inside(&Program::new("ctr", ctr).args(["--address", CONTAINERD_SOCKET, "version"]));
        containerd.ready(LONG, || run_quietly(&probe)).await?;
        self.containerd = Some(containerd);

        let serving = authority.server(&self.run, "kubelet-server", &[ADDRESS, NAME])?;
        let client = authority.client(&self.run, "kubelet", &format!("system:node:{NAME}"), Some("system:nodes"))?;
        let fields = [("client-certificate", client.cert_file.as_path()), ("client-key", client.key_file.as_path())];
        let kubeconfig = self.run.write("kubelet.kubeconfig", pki::kubeconfig(server, ca_file, "kubelet", &fields))?;
        let config = self.run.write("kubelet.yaml", kubelet_config(&serving, ca_file).to_string())?;
        let program = Program::new("kubelet", "unshare")
            .args(["--mount", "--propagation", "shared", "/bin/sh"])
            .arg(script("kubelet.sh"))
            .arg(kubelet)
            .arg(format!("--config={}", config.display()))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--root-dir={}", self.run.folder("kubelet")?.display()))
            .args([format!("--hostname-override={NAME}"), format!("--node-ip={ADDRESS}")]);
        self.kubelet = Some(Process::spawn(&self.inside(&program), &self.run.logs())?);
        Ok(())
    }

    /// kubelet, for its log if the node does not get ready.
    pub(crate) fn kubelet(&mut self) -> Option<&mut Process> {
        self.kubelet.as_mut()
    }

    /// The processes of a pod by id, with their names, as this machine sees them.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn processes(&self, pod_uid: &str) -> Result<BTreeMap<u32, String>> {
        let mark = format!("/pod{pod_uid}/");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            // It may be gone by now.
            let (Ok(cgroup), Ok(name)) =
                (fs::read_to_string(path.join("cgroup")), fs::read_to_string(path.join("comm")))
            else {
                continue;
            };
            if cgroup.contains(&mark) {
                found.insert(id, name.trim().to_owned());
            }
        }
        Ok(found)
    }

    /// Listens in one network and dials in another; returns where it listens.
    async fn way(&self, listen_in: &str, dial_in: &str, listen: &str, target: &str) -> Result<String> {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("way-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let program = Program::new(&name, &self.helper).arg("forward").args([listen_in, dial_in, listen, target]);
        let mut process = Process::spawn(&program, &self.run.logs())?;
        let printed = process.stdout().to_owned();
        let address = process.ready(LONG, || {
            let text = fs::read_to_string(&printed).unwrap_or_default();
            async move { Ok(text.strip_suffix('\n').map(ToOwned::to_owned)) }
        });
        let address = address.await?;
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        Ok(address)
    }

    /// The file of the node's network namespace.
    fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.init)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kubelet = None;
        self.containerd = None;
        // The first process only: unshare waits for its end, and so for the end of all others.
        if let Some(init) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            kill_process(init, Signal::KILL).ok();
        }
        let start = Instant::now();
        while start.elapsed() < END && matches!(self.first.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.first.kill();
        remove_cgroups(&self.cgroups);
    }
}

/// The network namespace of the harness.
fn ours() -> String {
    format!("/proc/{}/ns/net", std::process::id())
}

fn script(name: &str) -> PathBuf {
    repository().join("e2e/node").join(name)
}

/// The only child of a process.
pub(crate) fn only_child(parent: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let children: Vec<&str> = children.split_whitespace().collect();
    let [child] = children.as_slice() else { bail!("{} children instead of one", children.len()) };
    Ok(child.parse()?)
}

async fn run_quietly(program: &Program) -> Result<Option<()>> {
    let mut command = Command::new(&program.path);
    command.args(&program.args).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{}: {}", program.name, String::from_utf8_lossy(&output.stderr));
    Ok(Some(()))
}

/// The folders of a cgroup of that name below our own, one in each hierarchy of version 1.
fn cgroup_folders(name: &str) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/cgroup").context("reading our own cgroups")?;
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(hierarchy), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("/proc/self/cgroup has the line {line}");
        };
        // Version 2 has no name.
        if !hierarchy.is_empty() {
            let mount = Path::new("/sys/fs/cgroup").join(hierarchy.trim_start_matches("name="));
            folders.push(mount.join(path.trim_start_matches('/')).join(name));
        }
    }
    Ok(folders)
}

fn make_cgroup(folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("making the cgroup {}", folder.display()))?;
    // A new cpuset is empty, and takes no process before it has both.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = folder.parent().context("a cgroup has a parent")?.join(file);
        if parent.exists() {
            fs::write(folder.join(file), fs::read(parent)?)?;
        }
    }
    Ok(())
}

/// Removes cgroups and those below them, as soon as nothing is in them.
fn remove_cgroups(folders: &[PathBuf]) {
    let start = Instant::now();
    let mut left: Vec<&PathBuf> = folders.iter().collect();
    loop {
        left.retain(|folder| !remove_cgroup(folder));
        if left.is_empty() {
            return;
        }
        if start.elapsed() > END {
            tools::say(&format!("these cgroups cannot be removed: {left:?}"));
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_cgroup(folder: &Path) -> bool {
    // Its files are the kernel's: only folders are removed, the innermost first.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where containerd looks for images instead of anywhere else: with `server` set it never falls back to the name's host.
fn hosts_toml(url: &str) -> String {
    format!("server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

fn containerd_config(run: &Path, plugins: &Path, runc: &Path) -> String {
    let (run, plugins, runc) = (run.display(), plugins.display(), runc.display());
    format!(
        r#"version = 3
root = "{run}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{run}/{HOSTS}"

[plugins."io.containerd.cri.v1.runtime"]
  # Root without the right to lower it starts no container otherwise.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{run}/cni"
  use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"#
    )
}

fn network_config() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "node",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet_config(serving: &pki::Pair, ca_file: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "address": ADDRESS,
        "port": 10250,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "tlsCertFile": serving.cert_file,
        "tlsPrivateKeyFile": serving.key_file,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": ca_file},
        },
        "authorization": {"mode": "Webhook"},
        "enforceNodeAllocatable": [],
        // A full disk of the machine is not what is tested here.
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "resolvConf": "",
        "clusterDomain": "cluster.local",
        "clusterDNS": [ADDRESS],
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "maxPods": 60,
        "podLogsDir": "/var/log/pods",
        "oomScoreAdj": 0,
    })
}

/// An image with a program in the operator's place, the libraries that it is linked to, and nothing else.
fn image_of(program: &Path) -> Result<Image> {
    container::assemble(&[("program", tree_of(program)?)], 0, "of this tree")
}

/// A program in the operator's place, and the libraries that it is linked to.
fn tree_of(program: &Path) -> Result<Tree> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut tree = Tree::default();
    tree.folder("tmp", 0o1777);
    tree.file(container::BINARY, 0o755, read(program)?);
    for library in libraries(program)? {
        tree.file(library.trim_start_matches('/'), 0o755, read(Path::new(&library))?);
    }
    Ok(tree)
}

/// The shared libraries of a program; none if it is linked statically.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("not found"), "{} misses libraries:\n{text}", program.display());
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(ToOwned::to_owned).collect())
}

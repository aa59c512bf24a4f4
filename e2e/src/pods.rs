//! The operator's pods on a real node, as the API server and the kernel see them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::cluster::Cluster;
use crate::interruption::lease_holder;
use crate::node::Node;
use crate::wait::{LONG, eventually};
use crate::world::World;

/// The label of the operator's pods.
const LABEL: &str = "app.kubernetes.io/name=imageset-mirror,app.kubernetes.io/component=controller";

/// The node of a cluster that has one.
///
/// # Errors
/// When it has none.
pub fn node(cluster: &Cluster) -> Result<&Node> {
    cluster.node().context("the cluster has no node")
}

/// The operator's pods, those on their way out included.
///
/// # Errors
/// When the API server does not say.
pub async fn list(world: &World) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(world.cluster.client().await?, world.namespace());
    Ok(pods.list(&ListParams::default().labels(LABEL)).await?.items)
}

/// The pod of that name.
///
/// # Errors
/// When there is none.
pub async fn named(world: &World, name: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(world.cluster.client().await?, world.namespace());
    Ok(pods.get(name).await?)
}

/// The name of a pod.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True")
}

/// Waits until all pods of the Deployment are of its present template and available, and the others are gone.
///
/// # Errors
/// When they are not at the deadline.
pub async fn until_available(world: &World) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(world.cluster.client().await?, world.namespace());
    let (deployments, name) = (&deployments, &world.deployment.name);
    eventually(LONG, "all pods to be available", || async move {
        let deployment = deployments.get(name).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        let current = status.observed_generation == deployment.metadata.generation;
        let available = status.available_replicas == wanted && status.updated_replicas == wanted;
        Ok((current && available && Some(list(world).await?.len()) == wanted.and_then(|it| it.try_into().ok()))
            .then_some(()))
    })
    .await
}

/// The pod that holds the lease.
///
/// # Errors
/// When there is no lease, or nobody holds it.
pub async fn leader(world: &World) -> Result<String> {
    let holder = lease_holder(world).await?;
    let (pod, _) = holder.split_once('_').context("nobody leads")?;
    Ok(pod.to_owned())
}

/// The operator's process in a pod.
///
/// # Errors
/// When there is none.
pub fn process(world: &World, pod: &Pod) -> Result<u32> {
    let processes = node(&world.cluster)?.processes(pod.metadata.uid.as_deref().context("a pod has a uid")?)?;
    let operator = |id: &u32| {
        let program = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        program.starts_with(b"/usr/bin/imageset-mirror\0controller\0")
    };
    processes.keys().copied().find(operator).with_context(|| format!("no operator among {processes:?}"))
}

/// Checks that a process is confined as the restricted profile and a root that cannot be written say: by what the kernel
/// says of it, whatever the manifest says.
///
/// # Errors
/// When it is not.
pub fn confined(id: u32) -> Result<()> {
    for (field, wanted) in [
        ("Uid", "65532\t65532\t65532\t65532"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        // A filter is in force.
        ("Seccomp", "2"),
    ] {
        let found = status(id, field)?;
        ensure!(found == wanted, "{field} is {found}");
    }
    let mounts = fs::read_to_string(format!("/proc/{id}/mounts"))?;
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).context("no root")?;
    let options = root.split(' ').nth(3).unwrap_or_default();
    ensure!(options.split(',').any(|option| option == "ro"), "the root can be written: {root}");
    Ok(())
}

/// A field of `/proc/<id>/status`.
///
/// # Errors
/// When the process is gone.
pub fn status(id: u32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim_start_matches(':').trim().to_owned())
}

/// A number of the memory cgroup of a process: of its container.
///
/// # Errors
/// When the process is gone.
pub fn memory(id: u32, file: &str) -> Result<u64> {
    let path = memory_cgroup(id)?.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().parse()?)
}

/// Takes as much of a container's memory as can be had: what it asks for next is too much. A container that is started again
/// has its own limit again.
///
/// # Errors
/// When the process is gone.
pub fn starve(id: u32) -> Result<()> {
    let limit = memory_cgroup(id)?.join("memory.limit_in_bytes");
    let mut wanted = memory(id, "memory.usage_in_bytes")?;
    // The kernel gives back what is only cached, and refuses less than the rest.
    while fs::write(&limit, wanted.to_string()).is_ok() {
        wanted = wanted.checked_sub(64 * 1024).context("nothing is left")?;
    }
    Ok(())
}

/// The folder of the memory cgroup of a process.
///
/// # Errors
/// When the process is gone.
pub fn memory_cgroup(id: u32) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{id}/cgroup"))?;
    let path = text.lines().find_map(|line| line.split_once(":memory:")).context("no memory cgroup")?.1;
    Ok(Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')))
}

/// A line about each pod, for people.
///
/// # Errors
/// When one of them does not run, or is not ready.
pub async fn figures(world: &World) -> Result<Vec<String>> {
    let line = |pod: &Pod| {
        let id = process(world, pod)?;
        let (ready, resident) = (seconds_to_ready(pod)?, status(id, "VmRSS")?);
        let used = memory(id, "memory.usage_in_bytes")? / 1024;
        Ok(format!("{}: ready after {ready} s, resident {resident}, with what is cached {used} kB", name(pod)))
    };
    list(world).await?.iter().map(line).collect()
}

/// Seconds from the start of the container to a ready pod, in whole ones as Kubernetes counts.
///
/// # Errors
/// When it is not ready.
pub fn seconds_to_ready(pod: &Pod) -> Result<i64> {
    let status = pod.status.as_ref().context("no status")?;
    let container = status.container_statuses.iter().flatten().next().context("no container")?;
    let running = container.state.as_ref().and_then(|state| state.running.as_ref()).context("it does not run")?;
    let ready = status.conditions.iter().flatten().find(|found| found.type_ == "Ready").context("no condition")?;
    let (Some(from), Some(to)) = (&running.started_at, &ready.last_transition_time) else { bail!("no times") };
    Ok(to.0.duration_since(from.0).as_secs())
}

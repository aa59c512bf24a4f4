//! What scenarios need that catch a copy in the middle: images that take a while, a held connection, and questions about
//! what was uploaded and what is left behind.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::Value;

use crate::image::{ImageSpec, Remote};
use crate::operator::Overrides;
use crate::proxy::Proxy;
use crate::registry::LoggedRequest;
use crate::wait::{LONG, SHORT, condition, eventually};
use crate::world::World;

/// Layers of [`big`].
pub const LAYERS: usize = 4;
/// Bytes of each layer of [`big`].
pub const LAYER: u64 = 1_000_000;

/// Where operators keep their record in a target.
const STATE: &str = "imageset-mirror/state";

/// An image of four layers, a megabyte each.
pub fn big(seed: u64) -> ImageSpec {
    ImageSpec::seeded(seed).layers(LAYERS, LAYER)
}

/// Times of leader election that let a successor take over soon, and yet forgive a machine that is busy.
pub fn quick_lease() -> Overrides {
    Overrides::default().flag("--lease-duration", "10s").flag("--renew-deadline", "8s").flag("--retry-period", "2s")
}

/// Puts a proxy before the source: what objects are made from now on goes through it.
///
/// # Errors
/// When the proxy does not start, or the API server refuses the new logins.
pub async fn proxy_before_source(world: &mut World) -> Result<Proxy> {
    let proxy = Proxy::start(&world.source.host())?;
    world.source_host = world.host_for_pods(&proxy).await?;
    world.add_access(world.namespace()).await?;
    Ok(proxy)
}

/// Puts a proxy before the target: what objects are made from now on goes through it.
///
/// # Errors
/// When the proxy does not start, or the API server refuses the new logins.
pub async fn proxy_before_target(world: &mut World) -> Result<Proxy> {
    let proxy = Proxy::start(&world.target.host())?;
    world.target_host = world.host_for_pods(&proxy).await?;
    world.add_access(world.namespace()).await?;
    Ok(proxy)
}

/// Holds a proxy before the target once about this many more bytes have been uploaded. Call it before the upload starts.
///
/// # Errors
/// When they have not been at the deadline.
pub async fn hold_upload(proxy: &Proxy, bytes: u64) -> Result<()> {
    let wanted = proxy.bytes_to_server() + bytes;
    eventually(LONG, "an upload to be under way", || async { Ok((proxy.bytes_to_server() >= wanted).then_some(())) })
        .await?;
    proxy.hold_after(0);
    proxy.throttle(None);
    Ok(())
}

/// Merges `patch` into an object.
///
/// # Errors
/// When the API server refuses it.
pub async fn patch(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<DynamicObject> {
    let params = PatchParams::default();
    api.patch(name, &params, &Patch::Merge(patch)).await.with_context(|| format!("patching `{name}` with {patch}"))
}

/// Whether the object's status speaks of its present generation, and says that it is at this stage.
pub fn is_at(object: &DynamicObject, stage: &str) -> bool {
    let observed = object.data.pointer("/status/observedGeneration").and_then(Value::as_i64);
    observed == object.metadata.generation
        && condition(object, "Reconciling").is_some_and(|found| found.status == "True" && found.reason == stage)
}

/// The digest of the plan that the status names.
pub fn plan_digest(object: &DynamicObject) -> String {
    object.data.pointer("/status/plan/digest").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Finished uploads of blobs of images, by repository and digest. The operator's own record is not counted: its config is
/// always the same two bytes, which are sent without asking.
pub fn uploads(requests: &[LoggedRequest]) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for request in requests.iter().filter(|request| request.status == 201 && request.is_write()) {
        let Some((repository, rest)) =
            request.path.strip_prefix("/v2/").and_then(|path| path.split_once("/blobs/uploads/"))
        else {
            continue;
        };
        if repository == STATE {
            continue;
        }
        let digest = rest.split(['?', '&']).find_map(|field| field.strip_prefix("digest="));
        if let Some(digest) = digest {
            let digest = digest.replace("%3A", ":").replace("%3a", ":");
            *found.entry((repository.to_owned(), digest)).or_default() += 1;
        }
    }
    found
}

/// How many uploads of blobs of a repository were begun.
pub fn begun(requests: &[LoggedRequest], repository: &str) -> usize {
    let prefix = format!("/v2/{repository}/blobs/uploads/");
    requests.iter().filter(|request| request.method == "POST" && request.path.starts_with(&prefix)).count()
}

/// Requests that change something in a repository.
pub fn writes<'a>(requests: &'a [LoggedRequest], repository: &str) -> Vec<&'a LoggedRequest> {
    let prefix = format!("/v2/{repository}/");
    requests.iter().filter(|request| request.is_write() && request.path.starts_with(&prefix)).collect()
}

/// Fetches everything behind every tag of a registry and checks every byte; returns how many tags there are.
///
/// # Errors
/// When something that a tag leads to is missing or wrong.
pub async fn walk_every_tag(remote: &Remote) -> Result<usize> {
    let mut count = 0;
    for repository in remote.repositories().await? {
        count += walk_tags(remote, &repository).await?;
    }
    Ok(count)
}

/// The same for the tags of one repository.
///
/// # Errors
/// As [`walk_every_tag`].
pub async fn walk_tags(remote: &Remote, repository: &str) -> Result<usize> {
    let mut count = 0;
    for tag in remote.tags(repository).await? {
        // A registry lists a tag a little before it names something, if it was just being put.
        if remote.digest(repository, &tag).await?.is_none() {
            continue;
        }
        remote.walk(repository, &tag).await.with_context(|| format!("behind {repository}:{tag}"))?;
        count += 1;
    }
    Ok(count)
}

/// Who holds the lease of the operator; empty if nobody does.
///
/// # Errors
/// When there is no lease.
pub async fn lease_holder(world: &World) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(world.cluster.client().await?, world.namespace());
    let lease = leases.get("imageset-mirror").await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// Waits until the process that believes to be this pod holds the lease.
///
/// # Errors
/// When it does not at the deadline.
pub async fn until_leader(world: &World, pod: &str) -> Result<()> {
    eventually(SHORT, &format!("{pod} to lead"), || async {
        let holder = lease_holder(world).await?;
        ensure!(holder.starts_with(&format!("{pod}_")), "`{holder}` leads");
        Ok(Some(()))
    })
    .await
}

//! The `UpdateService`, which answers clusters that ask for updates out of the mirrored graph and releases.

use super::releases::Releases;
use super::set::mark;
use crate::api::openshift::{UpdateService, UpdateServiceSpec};
use crate::oci::Repository;
use crate::request::{Identity, UpdateServiceOutput};

/// The object, if the graph image is in the target and a release with it, of which `repository` is the repository; otherwise
/// what there is, so that clusters are not left without an answer.
pub(super) fn update_service(
    identity: &Identity,
    output: &UpdateServiceOutput,
    releases: &Releases,
    repository: Option<&Repository>,
    before: Option<&UpdateService>,
) -> Option<UpdateService> {
    let spec = match (&releases.graph, repository) {
        (Some(graph), Some(repository)) => UpdateServiceSpec {
            graph_data_image: graph.to_string(),
            releases: repository.to_string(),
            replicas: output.replicas,
        },
        _ => UpdateServiceSpec { replicas: output.replicas, ..before?.spec.clone() },
    };
    let mut service = UpdateService::new(&identity.name, spec);
    service.metadata.namespace = Some(output.namespace.clone());
    mark(&mut service.metadata, identity);
    Some(service)
}

//! The cluster: what is read of it, what is written to it, each call with a time limit.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::params::ValidationDirective;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::extra_outputs::ExtraName;
use crate::api::openshift::{
    CatalogSource, ClusterCatalog, Image, ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet,
    MachineConfigPool, UpdateService,
};
use crate::api::{
    API_VERSION, ClusterResources, FIELD_MANAGER, FINALIZER, ImageSetMirror, ImageSetMirrorStatus, KIND,
    OWNER_REF_ANNOTATION,
};
use crate::resources::{Access, CatalogKind, ClusterSnapshot, Extra, MirrorKind, MirrorSet, ObjectName, signatures};

/// Longest wait for one answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No answer in time.
    #[error("{doing}: the API server did not answer for {} s", TIMEOUT.as_secs())]
    Timeout {
        /// What was being done.
        doing: String,
    },
    /// The API server refused or failed.
    #[error("{doing}: {text}")]
    Api {
        /// What was being done.
        doing: String,
        /// The API server's own words.
        text: String,
        /// HTTP status; 0 if there was no answer.
        code: u16,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// A defect of the operator.
    #[error("a defect ended the reconcile; the log says where")]
    Panicked,
    /// We may not be the leader any more.
    #[error("{doing}: given up, because another replica may have become leader")]
    Fenced {
        /// What was being done.
        doing: String,
    },
}

impl Error {
    /// The HTTP status, if the API server answered.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Api { code, .. } => *code,
            Self::Timeout { .. } | Self::Fenced { .. } | Self::Panicked => 0,
        }
    }
}

/// An error of the API server in its own words, without the dump that `Display` makes of it.
pub(super) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("status {} {}", status.code, status.reason),
        other => crate::failure::chain(other),
    }
}

pub(super) async fn timed<T>(
    doing: impl Fn() -> String,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
            Err(Error::Api { doing: doing(), text: describe(&error), code, source: Box::new(error) })
        }
        Err(_elapsed) => Err(Error::Timeout { doing: doing() }),
    }
}

/// Kinds of the cluster that may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "eight independent facts, each with a name")]
pub(super) struct Served {
    pub(super) idms: bool,
    pub(super) itms: bool,
    pub(super) icsp: bool,
    pub(super) images: bool,
    pub(super) pools: bool,
    pub(super) update_services: bool,
    pub(super) catalog_sources: bool,
    pub(super) cluster_catalogs: bool,
}

impl Served {
    /// True if the cluster has this kind of mirror set or of object beside them, for which the only `ConfigMap`s that may be
    /// held back are those with signatures.
    pub(super) fn has(self, kind: &str) -> bool {
        match kind {
            "UpdateService" => self.update_services,
            "CatalogSource" => self.catalog_sources,
            "ClusterCatalog" => self.cluster_catalogs,
            "ConfigMap" => self.idms,
            _ => self.idms && kind == MirrorKind::Digest.kind() || self.itms && kind == MirrorKind::Tag.kind(),
        }
    }
}

/// What is under the name of a `ConfigMap` that an object publishes in.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing.
    Free,
    /// One that was written for the object.
    Own(Box<ConfigMap>),
    /// One that was not.
    Foreign,
}

impl Slot {
    /// What was published in it.
    pub(super) fn data(&self) -> BTreeMap<String, String> {
        match self {
            Self::Own(map) => map.data.clone().unwrap_or_default(),
            Self::Free | Self::Foreign => BTreeMap::new(),
        }
    }
}

/// Reads and writes the cluster.
pub(super) struct Cluster {
    client: Client,
    fence: crate::lease::Fence,
    /// How long an answer to "which kinds are there" is good for.
    kinds_for: Duration,
    served: Mutex<Option<(Instant, Served)>>,
}

impl Cluster {
    pub(super) fn new(client: Client, fence: crate::lease::Fence, kinds_for: Duration) -> Self {
        Self { client, fence, kinds_for, served: Mutex::default() }
    }

    /// Sends a write, unless it could arrive when another replica leads.
    async fn send<T>(
        &self,
        doing: impl Fn() -> String,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.fence.holds() {
            return Err(Error::Fenced { doing: doing() });
        }
        let Some(until) = self.fence.until() else { return timed(doing, call).await };
        let sent = tokio::time::timeout_at(until, timed(&doing, call)).await;
        sent.unwrap_or_else(|_elapsed| Err(Error::Fenced { doing: doing() }))
    }

    async fn kinds(&self, group_version: &str) -> Result<Vec<String>, Error> {
        let doing = || format!("asking which kinds {group_version} has");
        match timed(doing, self.client.list_api_group_resources(group_version)).await {
            Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
            // The answer for an unserved group is plain text, so only the code tells.
            Err(error) if error.code() == 404 => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The kinds that the cluster has; an answer is good for a while.
    pub(super) async fn served(&self) -> Result<Served, Error> {
        let kept = *self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, served)) = kept
            && at.elapsed() < self.kinds_for
        {
            return Ok(served);
        }
        self.ask_served().await
    }

    /// The kinds that the cluster has now.
    pub(super) async fn ask_served(&self) -> Result<Served, Error> {
        let config = self.kinds("config.openshift.io/v1").await?;
        let operator = self.kinds("operator.openshift.io/v1alpha1").await?;
        let machines = self.kinds("machineconfiguration.openshift.io/v1").await?;
        let updates = self.kinds("updateservice.operator.openshift.io/v1").await?;
        let olm = self.kinds("operators.coreos.com/v1alpha1").await?;
        let olm1 = self.kinds("olm.operatorframework.io/v1").await?;
        let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
        let served = Served {
            idms: has(&config, "imagedigestmirrorsets"),
            itms: has(&config, "imagetagmirrorsets"),
            images: has(&config, "images"),
            icsp: has(&operator, "imagecontentsourcepolicies"),
            pools: has(&machines, "machineconfigpools"),
            update_services: has(&updates, "updateservices"),
            catalog_sources: has(&olm, "catalogsources"),
            cluster_catalogs: has(&olm1, "clustercatalogs"),
        };
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), served));
        Ok(served)
    }

    async fn list<K>(&self, served: bool) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        if !served {
            return Ok(Vec::new());
        }
        let api: Api<K> = Api::all(self.client.clone());
        let doing = || format!("listing {}", K::kind(&()));
        Ok(timed(doing, api.list(&ListParams::default())).await?.items)
    }

    /// Everything that decides about mirror sets. `allowed`: whether the object's namespace may write to the cluster.
    pub(super) async fn snapshot(&self, allowed: bool) -> Result<ClusterSnapshot, Error> {
        let served = self.served().await?;
        let access = |served: bool| match (served, allowed) {
            (false, _) => Access::NotServed,
            (true, false) => Access::NamespaceNotAllowed,
            (true, true) => Access::Writable,
        };
        let images = if served.images {
            let api: Api<Image> = Api::all(self.client.clone());
            timed(|| "reading Image `cluster`".to_owned(), api.get_opt("cluster")).await?
        } else {
            None
        };
        Ok(ClusterSnapshot {
            idms: self.list::<ImageDigestMirrorSet>(served.idms).await?,
            itms: self.list::<ImageTagMirrorSet>(served.itms).await?,
            icsp: self.list::<ImageContentSourcePolicy>(served.icsp).await?,
            images,
            pools: self.list::<MachineConfigPool>(served.pools).await?,
            idms_access: access(served.idms),
            itms_access: access(served.itms),
        })
    }

    async fn patch<K, P>(&self, api: &Api<K>, name: &str, kind: &str, object: &P) -> Result<K, Error>
    where
        K: Clone + DeserializeOwned + Debug,
        P: Serialize + Debug,
    {
        let doing = || format!("applying {kind} `{name}`");
        self.send(doing, api.patch(name, &apply_params(), &Patch::Apply(object))).await
    }

    /// Applies one mirror set.
    pub(super) async fn apply(&self, set: &MirrorSet) -> Result<(), Error> {
        let (name, kind) = (set.name(), set.kind().kind());
        match set {
            MirrorSet::Digest(object) => {
                self.patch(&Api::<ImageDigestMirrorSet>::all(self.client.clone()), &name, kind, object).await?;
            }
            MirrorSet::Tag(object) => {
                self.patch(&Api::<ImageTagMirrorSet>::all(self.client.clone()), &name, kind, object).await?;
            }
        }
        Ok(())
    }

    /// Deletes a mirror set if it is the one that was seen and carries the mark of `owner` (`namespace/name`).
    pub(super) async fn delete(&self, object: &ObjectName, owner: &str) -> Result<bool, Error> {
        let name = &object.name;
        match object.kind {
            MirrorKind::Digest => {
                self.delete_of(Api::<ImageDigestMirrorSet>::all(self.client.clone()), name, owner).await
            }
            MirrorKind::Tag => self.delete_of(Api::<ImageTagMirrorSet>::all(self.client.clone()), name, owner).await,
        }
    }

    async fn delete_of<K>(&self, api: Api<K>, name: &str, owner: &str) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let doing = || format!("deleting {} `{name}`", K::kind(&()));
        let Some(found) = timed(doing, api.get_opt(name)).await? else { return Ok(false) };
        if found.annotations().get(OWNER_REF_ANNOTATION).map(String::as_str) != Some(owner) {
            return Ok(false);
        }
        match self.send(doing, api.delete(name, &if_unchanged(&found))).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn signatures(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), signatures::NAMESPACE)
    }

    fn update_services(&self, namespace: &str) -> Api<UpdateService> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The `ConfigMap` with signatures of that name, whoever wrote it.
    pub(super) async fn find_signatures(&self, name: &str) -> Result<Option<ConfigMap>, Error> {
        timed(|| format!("reading ConfigMap `{name}`"), self.signatures().get_opt(name)).await
    }

    /// The update service of that name, whoever wrote it.
    pub(super) async fn find_update_service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<UpdateService>, Error> {
        timed(|| format!("reading UpdateService `{name}`"), self.update_services(namespace).get_opt(name)).await
    }

    fn catalog_sources(&self, namespace: &str) -> Api<CatalogSource> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn cluster_catalogs(&self) -> Api<ClusterCatalog> {
        Api::all(self.client.clone())
    }

    /// The object of that name that shows a catalog to the cluster, whoever wrote it.
    pub(super) async fn find_catalog(
        &self,
        kind: CatalogKind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Extra>, Error> {
        let doing = || format!("reading {} `{name}`", kind.kind());
        Ok(match kind {
            CatalogKind::Source => {
                timed(doing, self.catalog_sources(namespace).get_opt(name)).await?.map(Extra::CatalogSource)
            }
            CatalogKind::Cluster => {
                timed(doing, self.cluster_catalogs().get_opt(name)).await?.map(Extra::ClusterCatalog)
            }
        })
    }

    /// What is under a key of a `ConfigMap`, whoever wrote it.
    pub(super) async fn text_of(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = timed(|| format!("reading ConfigMap `{name}`"), api.get_opt(name)).await?;
        Ok(found.and_then(|map| map.data).and_then(|mut data| data.remove(key)))
    }

    /// Applies an object beside the mirror sets.
    pub(super) async fn apply_extra(&self, object: &Extra) -> Result<(), Error> {
        let (name, kind) = (object.name(), object.kind());
        match object {
            Extra::Signatures(map) => {
                self.patch(&self.signatures(), &name, kind, map).await?;
            }
            Extra::UpdateService(service) => {
                let api = self.update_services(&service.namespace().unwrap_or_default());
                self.patch(&api, &name, kind, service).await?;
            }
            Extra::CatalogSource(source) => {
                self.patch(&self.catalog_sources(&object.namespace()), &name, kind, source).await?;
            }
            Extra::ClusterCatalog(catalog) => {
                self.patch(&self.cluster_catalogs(), &name, kind, catalog).await?;
            }
        }
        Ok(())
    }

    /// Deletes an object beside the mirror sets if it carries the mark of `owner` (`namespace/name`).
    pub(super) async fn delete_extra(&self, name: &ExtraName, namespace: &str, owner: &str) -> Result<bool, Error> {
        match name {
            ExtraName::Signatures(name) => self.delete_of(self.signatures(), name, owner).await,
            ExtraName::UpdateService(name) => self.delete_of(self.update_services(namespace), name, owner).await,
            ExtraName::Catalog(CatalogKind::Source, name) => {
                self.delete_of(self.catalog_sources(namespace), name, owner).await
            }
            ExtraName::Catalog(CatalogKind::Cluster, name) => {
                self.delete_of(self.cluster_catalogs(), name, owner).await
            }
        }
    }

    /// Deletes an object beside the mirror sets that was found, if it carries the mark of `owner` (`namespace/name`).
    pub(super) async fn withdraw_extra(&self, object: &Extra, owner: &str) -> Result<bool, Error> {
        let name = object.name();
        match object {
            Extra::Signatures(_) => self.delete_of(self.signatures(), &name, owner).await,
            Extra::UpdateService(service) => {
                let namespace = service.namespace().unwrap_or_default();
                self.delete_of(self.update_services(&namespace), &name, owner).await
            }
            Extra::CatalogSource(_) => self.delete_of(self.catalog_sources(&object.namespace()), &name, owner).await,
            Extra::ClusterCatalog(_) => self.delete_of(self.cluster_catalogs(), &name, owner).await,
        }
    }

    /// What is under a name that the object publishes under.
    pub(super) async fn config_map(&self, owner: &ImageSetMirror, name: &str) -> Result<Slot, Error> {
        let namespace = owner.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let Some(map) = timed(|| format!("reading ConfigMap `{name}`"), api.get_opt(name)).await? else {
            return Ok(Slot::Free);
        };
        let mark = crate::api::owner_hash(&namespace, &owner.name_any());
        let own = map.labels().get(crate::api::OWNER_LABEL) == Some(&mark);
        Ok(if own { Slot::Own(Box::new(map)) } else { Slot::Foreign })
    }

    /// What is under a key of a `ConfigMap`, whoever wrote it.
    pub(super) async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = timed(|| format!("reading ConfigMap `{name}`"), api.get_opt(name)).await?;
        Ok(map.and_then(|map| map.data?.remove(key)))
    }

    /// Makes a `ConfigMap` of the object hold `data`, or removes it if that is empty; no request if it is so already. One
    /// that is somebody else's stays as it is.
    pub(super) async fn publish(
        &self,
        owner: &ImageSetMirror,
        name: &str,
        data: BTreeMap<String, String>,
        slot: &Slot,
    ) -> Result<(), Error> {
        let namespace = owner.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let found = match (slot, data.is_empty()) {
            (Slot::Foreign, _) | (Slot::Free, true) => return Ok(()),
            (Slot::Own(found), true) => {
                let doing = || format!("deleting ConfigMap `{name}`");
                return match self.send(doing, api.delete(name, &if_unchanged(found.as_ref()))).await {
                    Ok(_) => Ok(()),
                    Err(error) if error.code() == 404 => Ok(()),
                    Err(error) => Err(error),
                };
            }
            (Slot::Free, false) => None,
            (Slot::Own(found), false) => Some(found),
        };
        let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        let reference = owner.controller_owner_ref(&());
        // A deletion in the foreground waits for what the object owns.
        let reference = reference.map(|found| OwnerReference { block_owner_deletion: Some(true), ..found });
        if found.is_some_and(|found| {
            found.data == map.data && reference.iter().all(|wanted| found.owner_references().contains(wanted))
        }) {
            return Ok(());
        }
        map.metadata.owner_references = reference.map(|reference| vec![reference]);
        map.metadata.name = Some(name.to_owned());
        map.metadata.namespace = Some(namespace.clone());
        // It may have become somebody else's since it was read.
        map.metadata.uid = found.and_then(|found| found.uid());
        map.metadata.resource_version = found.and_then(|found| found.resource_version());
        map.metadata.labels = Some(
            [
                (crate::api::MANAGED_BY_LABEL, crate::api::MANAGED_BY.to_owned()),
                (crate::api::OWNER_LABEL, crate::api::owner_hash(&namespace, &owner.name_any())),
            ]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        );
        self.patch(&api, name, "ConfigMap", &map).await?;
        Ok(())
    }

    /// Our objects, also those that do not fit our types.
    fn mirrors(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<ImageSetMirror>(&());
        Api::namespaced_with(self.client.clone(), namespace, &kind)
    }

    /// The status of an object whose spec cannot be read.
    pub(super) async fn read_status(&self, namespace: &str, name: &str) -> Result<Option<ImageSetMirrorStatus>, Error> {
        let found = timed(|| format!("reading `{namespace}/{name}`"), self.mirrors(namespace).get_opt(name)).await?;
        let status = found.and_then(|found| found.data.get("status").cloned());
        Ok(status.and_then(|status| serde_json::from_value(status).ok()))
    }

    /// What an object of which not everything can be read says about cluster objects, if that can be.
    pub(super) async fn read_cluster_resources(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ClusterResources>, Error> {
        let found = timed(|| format!("reading `{namespace}/{name}`"), self.mirrors(namespace).get_opt(name)).await?;
        Ok(found.and_then(|found| match found.data.pointer("/spec/clusterResources") {
            None => Some(ClusterResources::default()),
            Some(wanted) => serde_json::from_value(wanted.clone()).ok(),
        }))
    }

    /// Writes the status, all of it.
    pub(super) async fn status(&self, namespace: &str, name: &str, status: &ImageSetMirrorStatus) -> Result<(), Error> {
        #[derive(Debug, Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            api_version: &'static str,
            kind: &'static str,
            status: &'a ImageSetMirrorStatus,
        }
        let doing = || format!("writing the status of `{namespace}/{name}`");
        let written = Written { api_version: API_VERSION, kind: KIND, status };
        // The answer is not needed, and may not fit our types.
        let api = self.mirrors(namespace);
        self.send(doing, api.patch_status(name, &apply_params(), &Patch::Apply(&written))).await?;
        Ok(())
    }

    /// Whether a namespace is on its way out, with everything in it: nothing can be made in it any more.
    pub(super) async fn is_ending(&self, namespace: &str) -> bool {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let mut map = ConfigMap::default();
        map.metadata.generate_name = Some("imageset-mirror-".to_owned());
        // Nothing is made; and whoever may publish may ask, which to read a namespace is one more permission.
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let asked = timed(|| format!("asking whether `{namespace}` stays"), api.create(&params, &map)).await;
        let Err(Error::Api { source, .. }) = asked else { return false };
        let kube::Error::Api(status) = *source else { return false };
        status.details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// Drops our finalizer from what the object is now.
    pub(super) async fn let_go(&self, object: &ImageSetMirror) -> Result<(), Error> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match timed(|| format!("reading `{namespace}/{name}`"), self.mirrors(&namespace).get_opt(&name)).await? {
            Some(present) => self.finalizer(&present, false).await,
            None => Ok(()),
        }
    }

    /// Sets or drops our finalizer; no request if it is so already.
    pub(super) async fn finalizer(&self, object: &impl kube::ResourceExt, wanted: bool) -> Result<(), Error> {
        let mut finalizers = object.finalizers().to_vec();
        if finalizers.iter().any(|known| known == FINALIZER) == wanted {
            return Ok(());
        }
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        } else {
            finalizers.retain(|known| known != FINALIZER);
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let doing = || format!("changing the finalizers of `{namespace}/{name}`");
        // Others' finalizers are in the list too, so it must be the one that we read.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}
        });
        let api = self.mirrors(&namespace);
        match self.send(doing, api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Deletes what was found, and nothing that came in its place.
fn if_unchanged(found: &impl kube::ResourceExt) -> DeleteParams {
    let preconditions = Preconditions { resource_version: found.resource_version(), uid: found.uid() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// One field manager for ever, our fields are ours, and a key that the server does not know is an error.
fn apply_params() -> PatchParams {
    PatchParams {
        force: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    }
}

/// The id of the cluster that objects' state is kept under: the UID of `kube-system`, which outlives every installation.
pub(super) async fn cluster_id(client: &Client) -> Result<String, Error> {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let found = timed(|| "reading Namespace `kube-system`".to_owned(), api.get("kube-system")).await?;
    Ok(found.uid().unwrap_or_default())
}

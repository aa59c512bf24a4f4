//! What releases are made from, as their makers have it: an update service, a signature store, payloads and what they list.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::background::Background;
use crate::gpg::Signer;
use crate::image::{Flavour, ImageSpec, Remote};

/// The registry that releases name.
pub const HOST: &str = "quay.io";
/// Where payloads are.
pub const PAYLOADS: &str = "openshift-release-dev/ocp-release";
/// Where what they list is.
pub const COMPONENTS: &str = "openshift-release-dev/ocp-v4.0-art-dev";
/// What the graph image is built on.
pub const BASE: &str = "ubi9/ubi";

/// A running service; dropping it ends it.
#[derive(Debug)]
pub struct Upstream {
    address: String,
    known: Arc<Mutex<Known>>,
    signer: Signer,
    _server: Background,
}

#[derive(Debug, Default)]
struct Known {
    /// Graphs by channel.
    channels: BTreeMap<String, Value>,
    /// Signatures by `sha256=HEX`.
    signatures: BTreeMap<String, Vec<u8>>,
    graph_data: Vec<u8>,
}

/// A release that was made.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// The digest of its payload.
    pub digest: String,
}

type Shared = Arc<Mutex<Known>>;

impl Upstream {
    /// Starts one on a free port of 127.0.0.1, over plain HTTP, with signatures by `signer`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(signer: Signer) -> Result<Self> {
        let files = [("version", "1"), ("channels/stable-4.18.yaml", "name: stable-4.18"), ("raw/metadata.json", "{}")];
        let known = Known { graph_data: packed(&files)?, ..Known::default() };
        let known: Shared = Arc::new(Mutex::new(known));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .route("/graph", get(graph))
            .route("/graph-data", get(graph_data))
            .route("/signatures/{digest}/{number}", get(signature))
            .with_state(Arc::clone(&known));
        let server = Background::start("upstream", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                axum::serve(listener, router).await.ok();
            }
        })?;
        Ok(Self { address, known, signer, _server: server })
    }

    /// `spec.source` of an object that asks here, with what it says of the source registry.
    ///
    /// # Errors
    /// When the object has no source.
    pub fn named_in(&self, object: &mut Value, registry: &str) -> Result<()> {
        let source = object.pointer_mut("/spec/source").and_then(Value::as_object_mut);
        let source = source.ok_or_else(|| anyhow::anyhow!("the object has no source"))?;
        let mirrors = [HOST, "registry.access.redhat.com", crate::catalog::HOST]
            .map(|host| json!({"source": host, "mirrors": [registry]}));
        for (key, value) in [
            ("overrides", json!(mirrors)),
            ("updateService", json!(format!("{}/graph", self.address))),
            ("signatureStores", json!([format!("{}/signatures", self.address)])),
            ("graphData", json!(format!("{}/graph-data", self.address))),
        ] {
            source.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// The key that signs releases, in ASCII armor.
    ///
    /// # Errors
    /// When `GnuPG` fails.
    pub fn public_key(&self) -> Result<String> {
        Ok(String::from_utf8(self.signer.public_key()?)?)
    }

    /// Makes a release: what it consists of, its payload, and the signature of that. Components of one name are the same in all
    /// releases, but for `cluster-version-operator`.
    ///
    /// # Errors
    /// When the registry refuses something, or `GnuPG` fails.
    pub async fn release(&self, registry: &Remote, version: &str, components: &[&str]) -> Result<Release> {
        let mut tags = Vec::new();
        for name in [&["cluster-version-operator"], components].concat() {
            let own = if name == "cluster-version-operator" { version } else { "" };
            let image = registry.push_image(COMPONENTS, "", ImageSpec::named(&format!("{name}{own}"))).await?;
            let image = format!("{HOST}/{COMPONENTS}@{}", image.digest);
            tags.push(json!({"name": name, "from": {"kind": "DockerImage", "name": image}}));
        }
        let stream = json!({
            "kind": "ImageStream", "apiVersion": "image.openshift.io/v1", "metadata": {"name": version}, "spec": {"tags": tags},
        });
        let below = packed(&[("etc/os-release", "ID=rhcos")])?;
        let above = packed(&[("release-manifests/image-references", &stream.to_string())])?;
        let digest = push(registry, PAYLOADS, "", &[below, above]).await?;
        let name = format!("{HOST}/{PAYLOADS}:{version}-x86_64");
        let signature = self.signer.sign_release(&digest, &name)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.signatures.insert(digest.replace(':', "="), signature);
        Ok(Release { version: version.to_owned(), digest })
    }

    /// Pushes what the graph image is built on.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub async fn base(&self, registry: &Remote) -> Result<()> {
        push(registry, BASE, "latest", &[packed(&[("bin/bash", "not really")])?]).await.map(drop)
    }

    /// Takes the signature of a release away.
    pub fn unsign(&self, release: &Release) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.signatures.remove(&release.digest.replace(':', "="));
    }

    /// Makes a channel in which each release upgrades to the next.
    pub fn channel(&self, name: &str, releases: &[&Release]) {
        let node = |release: &&Release| {
            let payload = format!("{HOST}/{PAYLOADS}@{}", release.digest);
            json!({"version": release.version, "payload": payload, "metadata": {}})
        };
        let edges: Vec<_> = (1..releases.len()).map(|end| [end - 1, end]).collect();
        let graph = json!({"version": 1, "nodes": releases.iter().map(node).collect::<Vec<_>>(), "edges": edges});
        self.known.lock().unwrap_or_else(PoisonError::into_inner).channels.insert(name.to_owned(), graph);
    }
}

async fn push(registry: &Remote, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Result<String> {
    let flavour = Flavour::Oci;
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).to_string();
    let config_digest = registry.push_blob(repository, config.as_bytes()).await?;
    let mut listed = Vec::new();
    for layer in layers {
        let digest = registry.push_blob(repository, layer).await?;
        listed.push(json!({"mediaType": flavour.layer(), "digest": digest, "size": layer.len()}));
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": flavour.manifest(), "layers": listed,
        "config": {"mediaType": flavour.config(), "digest": config_digest, "size": config.len()},
    });
    Ok(registry.put_manifest(repository, tag, flavour.manifest(), &manifest).await?.0.digest)
}

/// Files as a compressed tar.
fn packed(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes())?;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&builder.into_inner()?)?;
    Ok(encoder.finish()?)
}

async fn graph(State(known): State<Shared>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let none = json!({"version": 1, "nodes": [], "edges": []});
    // As the real one does of channels that nobody knows.
    let graph = query.get("channel").and_then(|channel| known.channels.get(channel)).unwrap_or(&none);
    ([(header::CONTENT_TYPE, "application/json")], graph.to_string()).into_response()
}

async fn graph_data(State(known): State<Shared>) -> Response {
    known.lock().unwrap_or_else(PoisonError::into_inner).graph_data.clone().into_response()
}

async fn signature(State(known): State<Shared>, Path((digest, number)): Path<(String, String)>) -> Response {
    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
    match known.signatures.get(&digest).filter(|_| number == "signature-1") {
        Some(signature) => signature.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

//! Test content: pushing it, and reading back everything that hangs on a tag.
//!
//! Written on plain HTTP and independent of the operator's registry client, so that a mistake there cannot hide itself.
//! Content is made from a seed: the same seed gives the same digests. Layers are random bytes, which no registry minds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine as _;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Body, Certificate, Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};

use crate::pki;

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What the harness calls itself, so that access logs can leave its requests out.
pub const USER_AGENT: &str = "imageset-mirror-e2e";

/// Bytes per chunk of a streamed blob.
const CHUNK: usize = 64 * 1024;

/// The user and password of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Login {
    /// Both as they are sent and stored.
    pub fn basic(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.user, self.password))
    }
}

/// Docker or OCI media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `application/vnd.oci.…`
    Oci,
    /// `application/vnd.docker.…`
    Docker,
}

impl Flavour {
    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    pub(crate) fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_LIST,
        }
    }

    /// The type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The type of a layer.
    pub fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct ImageSpec {
    /// Decides every byte.
    pub seed: u64,
    /// How many layers.
    pub layers: usize,
    /// Bytes per layer.
    pub layer_size: u64,
    /// Media types.
    pub flavour: Flavour,
    /// The architecture that the config names.
    pub architecture: &'static str,
}

impl ImageSpec {
    /// Three OCI layers of 2 KiB for amd64.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, layers: 3, layer_size: 2048, flavour: Flavour::Oci, architecture: "amd64" }
    }

    /// The same, with a seed that follows from a name.
    pub fn named(name: &str) -> Self {
        Self::seeded(name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into())))
    }

    /// With this many layers of this size.
    #[must_use]
    pub fn layers(self, layers: usize, layer_size: u64) -> Self {
        Self { layers, layer_size, ..self }
    }

    /// With these media types.
    #[must_use]
    pub fn flavour(self, flavour: Flavour) -> Self {
        Self { flavour, ..self }
    }
}

/// A manifest as it lies in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// The `Content-Type` it was served with.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Vec<u8>,
}

impl Manifest {
    /// The bytes as JSON.
    ///
    /// # Errors
    /// When they are not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.bytes).with_context(|| format!("the manifest {}", self.digest))
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// Everything that is reachable from a tag: equal content has equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The digest that the tag names.
    pub root: String,
    /// Digest to media type and size, of manifests, configs, layers, signatures and referrers; each one was fetched, and
    /// its bytes have this digest.
    pub items: BTreeMap<String, (String, u64)>,
}

impl Content {
    /// The bytes of all items.
    pub fn size(&self) -> u64 {
        self.items.values().map(|(_, size)| size).sum()
    }
}

/// A registry, seen by the harness.
#[derive(Clone, Debug)]
pub struct Remote {
    base: String,
    http: reqwest::Client,
    login: Option<Login>,
    /// Bearer tokens by repository, for registries that want them.
    tokens: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Remote {
    /// A registry at `http(s)://host:port`, with the CA and the login that it wants.
    ///
    /// # Errors
    /// When the CA is not a certificate.
    pub fn new(base: &str, ca_pem: Option<&str>, login: Option<Login>) -> Result<Self> {
        pki::install_tls_provider();
        let mut http = reqwest::Client::builder().no_proxy().user_agent(USER_AGENT).connect_timeout(SECONDS_30);
        if let Some(pem) = ca_pem {
            http = http.tls_certs_only([Certificate::from_pem(pem.as_bytes())?]);
        }
        Ok(Self { base: base.trim_end_matches('/').to_owned(), http: http.build()?, login, tokens: Arc::default() })
    }

    /// `GET /v2/` with the login; tells whether the registry lets us in.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ping(&self) -> Result<StatusCode> {
        Ok(self.send(Method::GET, "/v2/", "", |request| request).await?.status())
    }

    /// A GET without a token, whatever the answer.
    pub(crate) async fn get_quietly(&self, path: &str) -> Result<StatusCode> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, basic(login)?);
        }
        Ok(request.send().await?.status())
    }

    /// The manifest of a tag or digest, or `None` if there is none.
    ///
    /// # Errors
    /// When the registry answers anything but the manifest or 404.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Manifest>> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let accept = format!("{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}, */*");
        let response = self.send(Method::GET, &path, repository, |request| request.header(ACCEPT, &accept)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = success(response).await?;
        let media_type = text_header(response.headers(), CONTENT_TYPE.as_str());
        let bytes = response.bytes().await?.to_vec();
        Ok(Some(Manifest { digest: sha256(&bytes), media_type, bytes }))
    }

    /// The digest that a tag names, or `None`.
    ///
    /// # Errors
    /// As [`Remote::manifest`].
    pub async fn digest(&self, repository: &str, tag: &str) -> Result<Option<String>> {
        Ok(self.manifest(repository, tag).await?.map(|manifest| manifest.digest))
    }

    /// The tags of a repository, sorted and at most 1000; none if there is no such repository.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let path = format!("/v2/{repository}/tags/list?n=1000");
        let response = self.send(Method::GET, &path, repository, |request| request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let list: Value = success(response).await?.json().await?;
        let tags = list.get("tags").and_then(Value::as_array).into_iter().flatten();
        let mut tags: Vec<String> = tags.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        tags.sort();
        Ok(tags)
    }

    /// The repositories of the registry, sorted and at most 1000.
    ///
    /// # Errors
    /// When the registry refuses, or has no catalog.
    pub async fn repositories(&self) -> Result<Vec<String>> {
        let response = self.send(Method::GET, "/v2/_catalog?n=1000", "registry:catalog:*", |request| request).await?;
        let list: Value = success(response).await?.json().await?;
        let names = list.get("repositories").and_then(Value::as_array).into_iter().flatten();
        let mut names: Vec<String> = names.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Whether a blob is there, and how long it is.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn blob_size(&self, repository: &str, digest: &str) -> Result<Option<u64>> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.send(Method::HEAD, &path, repository, |request| request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(text_header(success(response).await?.headers(), "content-length").parse().context("content-length")?))
    }

    /// Removes a manifest by digest or tag.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn delete_manifest(&self, repository: &str, reference: &str) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        success(self.send(Method::DELETE, &path, repository, |request| request).await?).await?;
        Ok(())
    }

    /// Removes a blob from a repository.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn delete_blob(&self, repository: &str, digest: &str) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        success(self.send(Method::DELETE, &path, repository, |request| request).await?).await?;
        Ok(())
    }

    /// Pushes bytes as a blob and returns its digest.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = sha256(bytes);
        if self.blob_size(repository, &digest).await?.is_none() {
            let bytes = bytes.to_vec();
            let length = bytes.len() as u64;
            self.upload(repository, &digest, length, move || Body::from(bytes.clone())).await?;
        }
        Ok(digest)
    }

    /// Pushes `size` random bytes as a blob, streamed, and returns its digest.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_random_blob(&self, repository: &str, seed: u64, size: u64) -> Result<String> {
        let mut hash = digest::Context::new(&SHA256);
        random_chunks(seed, size).for_each(|chunk| hash.update(&chunk));
        let digest = format!("sha256:{}", hex(hash.finish().as_ref()));
        if self.blob_size(repository, &digest).await?.is_none() {
            let chunks = move || futures::stream::iter(random_chunks(seed, size)).map(Ok::<_, std::io::Error>);
            self.upload(repository, &digest, size, move || Body::wrap_stream(chunks())).await?;
        }
        Ok(digest)
    }

    async fn upload(&self, repository: &str, digest: &str, length: u64, body: impl Fn() -> Body) -> Result<()> {
        let start = format!("/v2/{repository}/blobs/uploads/");
        let response = success(self.send(Method::POST, &start, repository, |request| request).await?).await?;
        let location = text_header(response.headers(), LOCATION.as_str());
        let mut url = Url::parse(&self.base)?.join(&location)?;
        url.query_pairs_mut().append_pair("digest", digest);
        let response = self
            .send(Method::PUT, url.as_str(), repository, |request| {
                let request = request.header(CONTENT_TYPE, "application/octet-stream");
                request.header("content-length", length).body(body())
            })
            .await?;
        success(response).await?;
        Ok(())
    }

    /// Puts a manifest under a tag or digest. The second value tells whether the registry took note of its subject.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        value: &Value,
    ) -> Result<(Manifest, bool)> {
        self.put_manifest_bytes(repository, reference, media_type, serde_json::to_vec_pretty(value)?).await
    }

    /// The same with a manifest that is serialised already.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn put_manifest_bytes(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(Manifest, bool)> {
        let digest = sha256(&bytes);
        let reference = if reference.is_empty() { &digest } else { reference };
        let path = format!("/v2/{repository}/manifests/{reference}");
        let response = self
            .send(Method::PUT, &path, repository, |request| {
                request.header(CONTENT_TYPE, media_type).body(bytes.clone())
            })
            .await?;
        let response = success(response).await?;
        let subject = response.headers().contains_key("oci-subject");
        Ok((Manifest { digest, media_type: media_type.to_owned(), bytes }, subject))
    }

    /// Pushes an image under a tag (or under its digest alone, if `tag` is empty).
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_image(&self, repository: &str, tag: &str, spec: ImageSpec) -> Result<Manifest> {
        let flavour = spec.flavour;
        let mut layers = Vec::new();
        for layer in 0..spec.layers {
            let seed = spec.seed.wrapping_mul(1_000_003).wrapping_add(layer as u64);
            let digest = self.push_random_blob(repository, seed, spec.layer_size).await?;
            layers.push(json!({"mediaType": flavour.layer(), "digest": digest, "size": spec.layer_size}));
        }
        let diff_ids: Vec<&Value> = layers.iter().filter_map(|layer| layer.get("digest")).collect();
        let config = json!({
            "architecture": spec.architecture, "os": "linux", "config": {"Labels": {"seed": spec.seed.to_string()}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.push_json_blob(repository, flavour.config(), &config).await?;
        let manifest = json!({"schemaVersion": 2, "mediaType": flavour.manifest(), "config": config, "layers": layers});
        Ok(self.put_manifest(repository, tag, flavour.manifest(), &manifest).await?.0)
    }

    /// Pushes one image per architecture and an index of them under a tag.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_index(
        &self,
        repository: &str,
        tag: &str,
        spec: ImageSpec,
        architectures: &[&'static str],
    ) -> Result<Manifest> {
        let mut manifests = Vec::new();
        for (number, &architecture) in architectures.iter().enumerate() {
            let seed = spec.seed.wrapping_mul(31).wrapping_add(number as u64);
            let image = self.push_image(repository, "", ImageSpec { seed, architecture, ..spec }).await?;
            let mut descriptor = image.descriptor();
            if let Some(fields) = descriptor.as_object_mut() {
                fields.insert("platform".to_owned(), json!({"architecture": architecture, "os": "linux"}));
            }
            manifests.push(descriptor);
        }
        let media_type = spec.flavour.index();
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        Ok(self.put_manifest(repository, tag, media_type, &index).await?.0)
    }

    /// Pushes an artifact of a type that nobody knows.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_artifact(&self, repository: &str, tag: &str, seed: u64) -> Result<Manifest> {
        let layer = self.push_random_blob(repository, seed, 4096).await?;
        let config = self.push_json_blob(repository, "application/vnd.oci.empty.v1+json", &json!({})).await?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example.thing.v1",
            "config": config, "annotations": {"org.example.seed": seed.to_string()},
            "layers": [{"mediaType": "application/vnd.example.thing.part.v1+binary", "digest": layer, "size": 4096}],
        });
        Ok(self.put_manifest(repository, tag, OCI_MANIFEST, &manifest).await?.0)
    }

    /// Pushes what a sigstore client leaves beside an image: an image tagged `sha256-<hex>.sig`.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_signature(&self, repository: &str, image: &str, seed: u64) -> Result<Manifest> {
        let payload = json!({"critical": {"image": {"docker-manifest-digest": image}, "type": "test"}, "seed": seed});
        let media_type = "application/vnd.dev.cosign.simplesigning.v1+json";
        let mut layer = self.push_json_blob(repository, media_type, &payload).await?;
        if let Some(fields) = layer.as_object_mut() {
            fields.insert("annotations".to_owned(), json!({"dev.cosignproject.cosign/signature": "dGVzdA=="}));
        }
        let config = json!({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": []}});
        let config = self.push_json_blob(repository, Flavour::Oci.config(), &config).await?;
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
        Ok(self.put_manifest(repository, &signature_tag(image), OCI_MANIFEST, &manifest).await?.0)
    }

    /// Pushes an OCI referrer of a manifest; on a registry without a referrers API also the fallback index.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push_referrer(&self, repository: &str, subject: &Manifest, seed: u64) -> Result<Manifest> {
        let layer = self.push_random_blob(repository, seed, 1024).await?;
        let config = self.push_json_blob(repository, "application/vnd.oci.empty.v1+json", &json!({})).await?;
        let artifact_type = "application/vnd.example.sbom.v1";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type, "config": config,
            "layers": [{"mediaType": "application/vnd.example.sbom.v1+json", "digest": layer, "size": 1024}],
            "subject": subject.descriptor(),
        });
        let (referrer, noted) = self.put_manifest(repository, "", OCI_MANIFEST, &manifest).await?;
        if !noted {
            let tag = fallback_tag(&subject.digest);
            let mut index = match self.manifest(repository, &tag).await? {
                Some(index) => index.json()?,
                None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
            };
            let mut entry = referrer.descriptor();
            if let Some(fields) = entry.as_object_mut() {
                fields.insert("artifactType".to_owned(), json!(artifact_type));
            }
            index.get_mut("manifests").and_then(Value::as_array_mut).context("no manifests in the index")?.push(entry);
            self.put_manifest(repository, &tag, OCI_INDEX, &index).await?;
        }
        Ok(referrer)
    }

    async fn push_json_blob(&self, repository: &str, media_type: &str, value: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(value)?;
        let digest = self.push_blob(repository, &bytes).await?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    /// The digests of the referrers of a manifest: from the API, or from the fallback index.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn referrers(&self, repository: &str, subject: &str) -> Result<Vec<String>> {
        let path = format!("/v2/{repository}/referrers/{subject}");
        let response = self.send(Method::GET, &path, repository, |request| request).await?;
        let index = if response.status() == StatusCode::NOT_FOUND {
            match self.manifest(repository, &fallback_tag(subject)).await? {
                // An image may own that tag.
                Some(found) if found.media_type == OCI_INDEX => found.json()?,
                _ => return Ok(Vec::new()),
            }
        } else {
            success(response).await?.json().await?
        };
        let entries = index.get("manifests").and_then(Value::as_array).into_iter().flatten();
        Ok(entries.filter_map(|entry| entry.get("digest")?.as_str()).map(ToOwned::to_owned).collect())
    }

    /// Fetches everything that is reachable from a tag, its signature tags and referrers included, and checks every byte.
    ///
    /// # Errors
    /// When something is missing, or has other bytes than its digest says.
    pub async fn walk(&self, repository: &str, tag: &str) -> Result<Content> {
        let root = self.manifest(repository, tag).await?.with_context(|| format!("no {repository}:{tag}"))?;
        let mut content = Content { root: root.digest.clone(), items: BTreeMap::new() };
        let mut open = vec![root.digest];
        while let Some(digest) = open.pop() {
            if content.items.contains_key(&digest) {
                continue;
            }
            let manifest = self.manifest(repository, &digest).await?;
            let manifest = manifest.with_context(|| format!("no manifest {repository}@{digest}"))?;
            ensure!(manifest.digest == digest, "{repository}@{digest} has the bytes of {}", manifest.digest);
            content.items.insert(digest.clone(), (manifest.media_type.clone(), manifest.bytes.len() as u64));
            let value = manifest.json()?;
            let list = |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            for child in list("manifests") {
                open.push(descriptor_digest(&child)?);
            }
            let blobs = value.get("config").cloned().into_iter().chain(list("layers"));
            for blob in blobs {
                let blob_digest = descriptor_digest(&blob)?;
                if let Entry::Vacant(free) = content.items.entry(blob_digest) {
                    let size = self.check_blob(repository, free.key()).await?;
                    let media_type = blob.get("mediaType").and_then(Value::as_str).unwrap_or_default();
                    free.insert((media_type.to_owned(), size));
                }
            }
            if let Some(signature) = self.manifest(repository, &signature_tag(&digest)).await? {
                open.push(signature.digest);
            }
            open.extend(self.referrers(repository, &digest).await?);
        }
        Ok(content)
    }

    /// The bytes of a blob, which have its digest.
    ///
    /// # Errors
    /// When the registry has no such blob, or other bytes.
    pub async fn blob(&self, repository: &str, digest: &str) -> Result<Vec<u8>> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = success(self.send(Method::GET, &path, repository, |request| request).await?).await?;
        let bytes = response.bytes().await?.to_vec();
        ensure!(sha256(&bytes) == digest, "blob {repository}@{digest} has the bytes of {}", sha256(&bytes));
        Ok(bytes)
    }

    /// Downloads a blob and compares it with its digest; returns its length.
    async fn check_blob(&self, repository: &str, digest: &str) -> Result<u64> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = success(self.send(Method::GET, &path, repository, |request| request).await?).await?;
        let mut hash = digest::Context::new(&SHA256);
        let mut size = 0;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.try_next().await.with_context(|| format!("reading {repository}@{digest}"))? {
            hash.update(&chunk);
            size += chunk.len() as u64;
        }
        let found = format!("sha256:{}", hex(hash.finish().as_ref()));
        ensure!(found == digest, "blob {repository}@{digest} has the bytes of {found}");
        Ok(size)
    }

    /// Sends a request, and once more with what the challenge of a 401 asks for.
    async fn send(
        &self,
        method: Method,
        path: &str,
        repository: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let url = if path.starts_with('/') { format!("{}{path}", self.base) } else { path.to_owned() };
        let attempt = async |authorization: Option<HeaderValue>| {
            let mut request = fill(self.http.request(method.clone(), &url));
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            request.send().await.with_context(|| format!("{method} {url}"))
        };
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned();
        // A login goes along unasked, so that a body need not be sent twice.
        let first = match (known, &self.login) {
            (Some(token), _) => Some(bearer(&token)?),
            (None, Some(login)) => Some(basic(login)?),
            (None, None) => None,
        };
        let response = attempt(first).await?;
        let challenge = text_header(response.headers(), WWW_AUTHENTICATE.as_str());
        if response.status() != StatusCode::UNAUTHORIZED || !challenge.to_lowercase().starts_with("bearer ") {
            return Ok(response);
        }
        let token = self.token(&challenge, repository).await?;
        let header = bearer(&token)?;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(repository.to_owned(), token);
        attempt(Some(header)).await
    }

    async fn token(&self, challenge: &str, repository: &str) -> Result<String> {
        let field = |name: &str| {
            let start = challenge.find(&format!("{name}=\""))? + name.len() + 2;
            challenge.get(start..)?.split('"').next().map(ToOwned::to_owned)
        };
        let realm = field("realm").context("a challenge without a realm")?;
        let scope = if repository.starts_with("registry:") {
            repository.to_owned()
        } else {
            format!("repository:{repository}:pull,push,delete")
        };
        let mut query = vec![("service", field("service").unwrap_or_default())];
        if !repository.is_empty() {
            query.push(("scope", scope));
        }
        let mut request = self.http.get(realm).query(&query);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, basic(login)?);
        }
        let answer: Value = success(request.send().await?).await?.json().await?;
        let token = answer.get("token").or_else(|| answer.get("access_token")).and_then(Value::as_str);
        Ok(token.context("the token server sent no token")?.to_owned())
    }
}

const SECONDS_30: Duration = Duration::from_secs(30);

/// The tag under which a sigstore client keeps the signatures of a digest.
pub fn signature_tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// The tag of the referrers index on registries without the API.
pub fn fallback_tag(digest: &str) -> String {
    digest.replace(':', "-")
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(digest::digest(&SHA256, bytes).as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string does not fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

fn bearer(token: &str) -> Result<HeaderValue> {
    Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
}

fn basic(login: &Login) -> Result<HeaderValue> {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", login.user, login.password));
    Ok(HeaderValue::from_str(&format!("Basic {text}"))?)
}

/// The content of a `.dockerconfigjson`: one entry per host or `host/path`.
pub fn docker_config(entries: &[(&str, &Login)]) -> String {
    let auths: serde_json::Map<String, Value> =
        entries.iter().map(|(key, login)| ((*key).to_owned(), json!({ "auth": login.basic() }))).collect();
    json!({ "auths": auths }).to_string()
}

fn random_chunks(seed: u64, size: u64) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = size;
    std::iter::from_fn(move || {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        if length == 0 {
            return None;
        }
        left -= length as u64;
        let mut chunk = vec![0; length];
        random.fill(&mut chunk);
        Some(chunk)
    })
}

fn descriptor_digest(descriptor: &Value) -> Result<String> {
    let digest = descriptor.get("digest").and_then(Value::as_str);
    Ok(digest.with_context(|| format!("a descriptor without a digest: {descriptor}"))?.to_owned())
}

fn text_header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn success(response: Response) -> Result<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await.unwrap_or_default();
    bail!("{url}: {status}: {}", body.chars().take(300).collect::<String>())
}

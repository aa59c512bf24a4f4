//! One layer that is larger than any disk here need be: a source that makes it up, and a target that only hashes it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{Context, SHA256};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use e2e::background::Background;
use e2e::image::{Flavour, OCI_MANIFEST, sha256};
use e2e::process::RunFolder;
use e2e::tools;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::contender::{Contender, Item, Route};
use super::measure;

const BLOCK: usize = 1 << 20;
/// Above this a blob is hashed and forgotten.
const KEPT: usize = 1 << 20;

/// What a server holds, by the last parts of its paths; the layer is not among them.
#[derive(Default)]
struct Store {
    kept: Mutex<BTreeMap<String, Bytes>>,
    layer: Option<Layer>,
    /// Bytes that arrived in blobs with the digest that they were sent under.
    arrived: Mutex<u64>,
}

#[derive(Clone)]
struct Layer {
    digest: String,
    block: Bytes,
    blocks: u64,
}

/// Copies a layer of so many MiB and prints what it cost.
pub(crate) async fn run(mebibytes: u64) -> Result<()> {
    tools::say(&format!("making up a layer of {mebibytes} MiB"));
    let mut block = vec![0; BLOCK];
    fastrand::Rng::with_seed(1).fill(&mut block);
    let mut hash = Context::new(&SHA256);
    (0..mebibytes).for_each(|_| hash.update(&block));
    let layer = Layer { digest: hexed(hash), block: block.into(), blocks: mebibytes };
    let size = mebibytes << 20;
    let config = Bytes::from_static(b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": Flavour::Oci.config(), "digest": sha256(&config), "size": config.len()},
        "layers": [{"mediaType": Flavour::Oci.layer(), "digest": layer.digest, "size": size}],
    });
    let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
    let digest = sha256(&manifest);
    let kept = BTreeMap::from([
        (format!("big/image/manifests/{digest}"), manifest),
        (format!("big/image/blobs/{}", sha256(&config)), config),
    ]);
    let source = Arc::new(Store { kept: Mutex::new(kept), layer: Some(layer), arrived: Mutex::default() });
    let target = Arc::new(Store::default());
    let (from, _source) = serve("source", &source)?;
    let (to, _target) = serve("target", &target)?;
    let run = RunFolder::create("huge")?;
    let items = [Item { repository: "big/image".to_owned(), tag: "v0".to_owned(), digest: digest.clone() }];
    let route = Route { source: from, target: to, ca: None };
    let cost = measure::run(&Contender::Ours.launch(&items, &route, &run)?).await?;
    ensure!(cost.failed == 0, "{}", e2e::process::tail(&run.path().join("output")));
    let arrived = *target.arrived.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(arrived >= size, "only {arrived} bytes of {size} arrived");
    let put = target.kept.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(put.keys().any(|path| path.starts_with("m/big/image/manifests/")), "the manifest was not put");
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let gigabytes = size as f64 / 1e9;
    crate::print(&format!(
        "{mebibytes} MiB in one layer: {:.1} s, {:.2} CPU s ({:.2} per GB), peak {} MiB",
        cost.wall,
        cost.cpu,
        cost.cpu / gigabytes,
        cost.bytes >> 20
    ));
    Ok(())
}

fn serve(name: &str, store: &Arc<Store>) -> Result<(String, Background)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let host = listener.local_addr().context("its address")?.to_string();
    let router = Router::new().fallback(answer).with_state(Arc::clone(store));
    let server = Background::start(name, move || async move {
        if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
            axum::serve(listener, router).await.ok();
        }
    })?;
    Ok((host, server))
}

async fn answer(State(store): State<Arc<Store>>, method: Method, uri: Uri, body: Body) -> Response {
    let path = uri.path().trim_start_matches("/v2/");
    match method {
        Method::GET | Method::HEAD => read(&store, path, method == Method::HEAD),
        Method::POST => {
            let session = format!("{}/session", uri.path().trim_end_matches('/'));
            (StatusCode::ACCEPTED, [(header::LOCATION, session)]).into_response()
        }
        Method::PUT => write(&store, path, uri.query().unwrap_or_default(), body).await,
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn read(store: &Store, path: &str, head: bool) -> Response {
    if path.is_empty() {
        return StatusCode::OK.into_response();
    }
    if let Some(layer) = store.layer.as_ref().filter(|layer| path.ends_with(&layer.digest)) {
        let blocks = (0..layer.blocks).map({
            let block = layer.block.clone();
            move |_| Ok::<_, std::io::Error>(block.clone())
        });
        let length = layer.blocks * BLOCK as u64;
        let body = if head { Body::empty() } else { Body::from_stream(futures::stream::iter(blocks)) };
        return ([(header::CONTENT_LENGTH, length.to_string())], body).into_response();
    }
    let kept = store.kept.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    match kept {
        Some(bytes) => {
            let digest = ("docker-content-digest", sha256(&bytes));
            let headers = [("content-type", OCI_MANIFEST.to_owned()), digest];
            (headers, bytes).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn write(store: &Store, path: &str, query: &str, body: Body) -> Response {
    let mut hash = Context::new(&SHA256);
    let (mut length, mut start) = (0, Vec::new());
    let mut chunks = body.into_data_stream().map_err(drop);
    while let Some(chunk) = chunks.next().await {
        let Ok(chunk) = chunk else { return StatusCode::BAD_REQUEST.into_response() };
        hash.update(&chunk);
        length += chunk.len() as u64;
        if start.len() + chunk.len() <= KEPT {
            start.extend_from_slice(&chunk);
        }
    }
    let digest = hexed(hash);
    let mut kept = store.kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((repository, _)) = path.split_once("/blobs/uploads/") {
        if !query.replace("%3A", ":").contains(&digest) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        *store.arrived.lock().unwrap_or_else(PoisonError::into_inner) += length;
        if start.len() as u64 == length {
            kept.insert(format!("{repository}/blobs/{digest}"), start.into());
        }
    } else {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        kept.insert(format!("{folder}/{digest}"), start.clone().into());
        kept.insert(path.to_owned(), start.into());
    }
    (StatusCode::CREATED, [("docker-content-digest", digest)]).into_response()
}

fn hexed(hash: Context) -> String {
    let bytes = hash.finish();
    bytes.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

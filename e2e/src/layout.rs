//! An OCI image layout, pushed by the operator's own `mirror`: the layout is served on loopback, as a registry that can only be
//! read, and is the only image of a file for the command line.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use axum::Router;
use axum::extract::{Path as Parts, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::background::Background;
use crate::image::OCI_MANIFEST;
use crate::operator::binary;

/// The layout's repository in the registry that serves it.
const REPOSITORY: &str = "image";

/// Where an image is pushed to: `HOST/NAME:TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host, and the path above the image's own name if there is one.
    above: String,
    name: String,
    tag: String,
}

impl FromStr for Place {
    type Err = Error;

    /// Only what `mirror` cannot see: which part is what. It judges the parts.
    fn from_str(text: &str) -> Result<Self> {
        let form = || {
            format!("cannot push to `{text}`: write HOST/NAME:TAG, such as registry.example.com:5000/ops/mirror:1.0")
        };
        ensure!(!text.contains("://"), "{}, without a scheme", form());
        ensure!(!text.contains('@'), "{}; the digest is the image's own", form());
        let (above, last) = text.rsplit_once('/').with_context(form)?;
        let (host, _) = above.split_once('/').unwrap_or((above, ""));
        ensure!(host == "localhost" || host.contains(['.', ':']), "{}; `{host}` is not a host", form());
        let (name, tag) = last.split_once(':').with_context(|| format!("{}; `{last}` has no tag", form()))?;
        ensure!(!name.is_empty() && !tag.is_empty(), "{}", form());
        Ok(Self { above: above.to_owned(), name: name.to_owned(), tag: tag.to_owned() })
    }
}

/// Pushes the only image of a layout with the built operator, which takes more flags of `mirror` and finds credentials as ever.
/// Gives the image's digest.
///
/// # Errors
/// When there is no layout, or the command fails; it has said why.
pub fn push(folder: &Path, place: &Place, flags: &[String]) -> Result<String> {
    let digest = digest(folder)?;
    let (address, _server) = serve(folder)?;
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("image.yaml");
    let image = format!("{address}/{REPOSITORY}@{digest}");
    let content = json!({
        "apiVersion": "mirror.openshift.io/v2alpha1", "kind": "ImageSetConfiguration",
        "mirror": {"additionalImages": [{"name": image, "targetRepo": place.name, "targetTag": place.tag}]},
    });
    fs::write(&file, content.to_string())?;
    let mut command = Command::new(binary()?);
    command.args([
        "mirror",
        "--to",
        &place.above,
        "--tls",
        &format!("{address}=plain"),
        "--attachments=skip",
        "--file",
    ]);
    let status = command.arg(&file).args(flags).stdin(Stdio::null()).status().context("starting the operator")?;
    ensure!(status.success(), "`imageset-mirror mirror` has not pushed the image: {status}");
    Ok(digest)
}

/// The digest of the only manifest of a layout.
fn digest(folder: &Path) -> Result<String> {
    let path = folder.join("index.json");
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let index: Value = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
    Ok(digest.with_context(|| format!("{} names no manifest", path.display()))?.to_owned())
}

/// Serves a layout on a free port of 127.0.0.1 until the server is dropped.
fn serve(folder: &Path) -> Result<(SocketAddr, Background)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let blobs = folder.join("blobs/sha256");
    let content = Router::new().route(&format!("/v2/{REPOSITORY}/{{kind}}/{{digest}}"), get(blob)).with_state(blobs);
    let router = content.route("/v2/", get(async || ()));
    let server = Background::start("layout", move || async move {
        if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
            axum::serve(listener, router).await.ok();
        }
    })?;
    Ok((address, server))
}

async fn blob(State(folder): State<PathBuf>, Parts((kind, digest)): Parts<(String, String)>) -> Response {
    let media_type = match kind.as_str() {
        "manifests" => OCI_MANIFEST,
        "blobs" => "application/octet-stream",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let Some(hex) = hex else { return StatusCode::NOT_FOUND.into_response() };
    match tokio::fs::read(folder.join(hex)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, media_type)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_host_a_name_and_a_tag() {
        let place = |above: &str, name: &str, tag: &str| Place {
            above: above.to_owned(),
            name: name.to_owned(),
            tag: tag.to_owned(),
        };
        let read = |text: &str| text.parse::<Place>().unwrap();
        assert_eq!(
            read("registry.example.com:5000/ops/mirror:1.0"),
            place("registry.example.com:5000/ops", "mirror", "1.0")
        );
        assert_eq!(read("localhost/mirror:1.0"), place("localhost", "mirror", "1.0"));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("https://registry.example.com/mirror:1", "without a scheme"),
            ("registry.example.com:5000", "write HOST/NAME:TAG"),
            ("ops/mirror:1.0", "`ops` is not a host"),
            ("registry.example.com:5000/ops/mirror", "`mirror` has no tag"),
            ("registry.example.com/mirror:", "write HOST/NAME:TAG"),
            ("registry.example.com/mirror@sha256:00", "the digest is the image's own"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot push to `{text}`")) && error.contains(expected), "{error}");
        }
    }
}

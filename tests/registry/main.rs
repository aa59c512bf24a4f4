//! The registry client against a registry on loopback: one promise each.
#![cfg(test)]

#[path = "../support/registry.rs"]
#[expect(dead_code, reason = "the tests of copying use more of it")]
mod fake;

mod blobs;
mod hosts;
mod login;
mod manifests;
mod parts;
mod posts;
mod quirks;
mod retries;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fake::FakeRegistry;
use imageset_mirror::oci::{Descriptor, Digest, RawManifest, Repository, Tag, media_type};
use imageset_mirror::registry::{
    By, Capability, Client, Credential, Credentials, Error, Limits, Progress, Settings, Side, Timing, Tls, Transferred,
    transfer,
};

const IMAGE: &str = media_type::OCI_IMAGE;

fn timing() -> Timing {
    Timing {
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(4),
        outage: Duration::ZERO,
        ..Timing::default()
    }
}

/// Settings that know these registries as plain HTTP.
fn settings(side: Side, registries: &[&FakeRegistry]) -> Settings {
    let tls = registries.iter().map(|fake| (fake.registry(), Tls::Plain)).collect();
    Settings { tls, timing: timing(), ..Settings::new(side) }
}

fn make(settings: Settings) -> Client {
    Client::new(settings, Arc::new(Limits::default())).unwrap()
}

fn source(fake: &FakeRegistry) -> Client {
    make(settings(Side::Source, &[fake]))
}

fn target(fake: &FakeRegistry) -> Client {
    make(settings(Side::Target, &[fake]))
}

fn user(name: &str, password: &str) -> Credential {
    Credential::Basic { username: name.to_owned(), password: password.to_owned().into() }
}

fn with_user(side: Side, fake: &FakeRegistry, password: &str) -> Settings {
    let credentials = Credentials::none().with(&fake.registry(), user("me", password));
    Settings { credentials, ..settings(side, &[fake]) }
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn noise(length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect::<Vec<_>>().into()
}

fn descriptor(bytes: &Bytes) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        urls: Vec::new(),
    }
}

fn raw(text: &'static str) -> RawManifest {
    RawManifest::new(Bytes::from_static(text.as_bytes()), IMAGE)
}

async fn get(client: &Client, repository: &Repository, name: &str) -> Result<Option<RawManifest>, Error> {
    client.manifest(repository, By::Tag(&tag(name))).await
}

async fn copy(from: &FakeRegistry, to: &FakeRegistry, blob: &Descriptor) -> Result<Transferred, Error> {
    let (from_repository, to_repository) = (from.repository("a/b"), to.repository("x/y"));
    transfer(&source(from), &from_repository, &target(to), &to_repository, blob, None, Progress::none()).await
}

/// Makes sure that a future may move between threads.
fn is_send<T: Send>(value: T) -> T {
    value
}

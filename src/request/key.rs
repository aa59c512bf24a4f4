//! What names a sync.

use serde_json::json;
use url::Url;

use super::{
    BootImage, CatalogRequest, ChartPlace, Constraint, HelmRequest, ImagePath, ReleaseChoice, ReleaseRequest, Request,
    Versions,
};
use crate::catalog::{Pick, Range};
use crate::oci::Digest;

impl Request {
    /// Names what a sync is made from: SHA-256, in hexadecimal, of everything that resolve, plan and copy read, and of the
    /// request token. What only the controller and the cluster's objects depend on is not in it.
    pub fn key(&self) -> String {
        let additional: Vec<_> = self
            .additional
            .iter()
            .map(|image| {
                let platforms: Vec<_> = image.platforms.iter().map(|p| [&p.os, &p.architecture]).collect();
                json!([image.written, image.target_repo, image.target_tag, platforms])
            })
            .collect();
        let blocked: Vec<_> = self.blocked.iter().map(|pattern| &pattern.text).collect();
        let hosts: Vec<_> = self.source.hosts.iter().map(|(host, tls)| json!([host, tls])).collect();
        let overrides: Vec<_> =
            self.source.overrides.iter().map(|entry| json!([entry.source, entry.mirrors])).collect();
        let service = self.source.update_service.as_ref().map(Url::as_str);
        let stores: Vec<_> = self.source.signature_stores.iter().map(Url::as_str).collect();
        let read = json!([
            "1",
            self.releases.as_ref().map(releases),
            self.catalogs.iter().map(catalog).collect::<Vec<_>>(),
            self.helm.as_ref().map(charts),
            additional,
            blocked,
            [
                self.target.registry,
                self.target.prefix,
                self.target.credentials,
                self.target.trust_bundle,
                self.target.tls
            ],
            [self.source.credentials, self.source.trust_bundle, hosts, overrides],
            [service, stores, self.source.signature_keys, self.release_signatures],
            [self.source.graph_data.as_ref().map(Url::as_str), self.source.graph_base_image],
            self.mode,
            [self.copy.concurrency, self.copy.max_bytes_per_second, self.copy.attachments],
            self.request_token,
        ]);
        Digest::of(read.to_string().as_bytes()).hex().to_owned()
    }
}

fn catalog(request: &CatalogRequest) -> serde_json::Value {
    let range = |range: &Range| [&range.min, &range.max].map(|bound| bound.as_ref().map(ToString::to_string));
    let package = |pick: &Pick| {
        let channels: Vec<_> =
            pick.channels.iter().map(|channel| json!([channel.name, range(&channel.range)])).collect();
        json!([pick.name, pick.default_channel, range(&pick.range), channels])
    };
    let packages: Vec<_> = request.selection.packages.iter().map(package).collect();
    let platforms: Vec<_> = request.platforms.iter().map(|p| [&p.os, &p.architecture]).collect();
    json!([
        request.written,
        request.selection.full,
        packages,
        request.target_path,
        request.target_tag,
        request.template,
        platforms
    ])
}

fn releases(request: &ReleaseRequest) -> serde_json::Value {
    let choice = match &request.choice {
        ReleaseChoice::Image { written, .. } => json!(written),
        ReleaseChoice::Channels(channels) => {
            let channels = channels.iter().map(|channel| {
                let (kind, min, max) = match &channel.versions {
                    Versions::Newest { max } => ("newest", None, max.as_ref()),
                    Versions::Range { min, max } => ("range", min.as_ref(), max.as_ref()),
                    Versions::ShortestPath { min, max } => ("shortestPath", Some(min), Some(max)),
                };
                let bounds = [min, max].map(|bound| bound.map(ToString::to_string));
                json!([channel.name, channel.product, kind, bounds])
            });
            channels.collect()
        }
    };
    let platforms: Vec<_> = request.platforms.iter().map(|p| [&p.os, &p.architecture]).collect();
    let boot_images: Vec<_> = request.boot_images.iter().map(|image| BootImage::as_str(*image)).collect();
    json!([choice, request.architectures, platforms, boot_images, request.graph])
}

fn charts(request: &HelmRequest) -> serde_json::Value {
    let repositories = request.repositories.iter().map(|repository| {
        let place = match &repository.place {
            ChartPlace::Http(url) => json!(url.as_str()),
            ChartPlace::Oci { registry, path } => json!([registry, path]),
        };
        let charts = repository.charts.iter().map(|chart| {
            let version = chart.version.as_ref().map(Constraint::as_str);
            let paths: Vec<_> = chart.image_paths.iter().map(ImagePath::as_str).collect();
            let platforms: Vec<_> = chart.platforms.iter().map(|p| [&p.os, &p.architecture]).collect();
            json!([chart.name, version, paths, platforms, chart.values])
        });
        json!([repository.name, place, charts.collect::<Vec<_>>()])
    });
    json!([repositories.collect::<Vec<_>>(), request.charts])
}

//! Many images that are all there: what one look at each costs.

use anyhow::{Result, ensure};
use e2e::image::{Flavour, Manifest, OCI_MANIFEST, Remote};
use e2e::process::RunFolder;
use e2e::registry::Options;
use e2e::tools;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::contender::{Contender, Item, Route};
use super::{kinds, measure, requests};

const IMAGES_PER_REPOSITORY: usize = 100;

/// Mirrors this many images, then checks them again, and prints what both cost.
pub(crate) async fn run(images: usize) -> Result<()> {
    let (source, target) = (Options::distribution("source"), Options::distribution("target"));
    let (source, target) = tokio::try_join!(source.start(), target.start())?;
    let items = fill(&source.remote()?, images).await?;
    let run = RunFolder::create("recheck")?;
    let route = Route { source: source.host(), target: target.host(), ca: None };
    let launch = Contender::Ours.launch(&items, &route, &run)?;
    for what in ["first run", "again"] {
        let marks = [source.mark().await?, target.mark().await?];
        let cost = measure::run(&launch).await?;
        ensure!(cost.failed == 0, "{}", e2e::process::tail(&run.path().join("output")));
        let [read, written] = requests(&source, &target, marks).await?;
        crate::print(&format!(
            "{images} images, {what}: {:.2} s, {:.2} CPU s, {} MiB; source {:?}; target {:?}",
            cost.wall,
            cost.cpu,
            cost.bytes >> 20,
            kinds(&read),
            kinds(&written)
        ));
    }
    Ok(())
}

/// Pushes this many images.
pub(super) async fn fill(remote: &Remote, images: usize) -> Result<Vec<Item>> {
    tools::say(&format!("pushing {images} images"));
    let pushes: Vec<_> =
        (0..images.div_ceil(IMAGES_PER_REPOSITORY)).map(|number| push(remote, number, images)).collect();
    let items: Vec<Vec<Item>> = futures::stream::iter(pushes).buffered(4).try_collect().await?;
    Ok(items.concat())
}

/// The images of one repository: they differ by an annotation.
async fn push(remote: &Remote, number: usize, images: usize) -> Result<Vec<Item>> {
    let repository = format!("many/repository-{number}");
    let layer = remote.push_random_blob(&repository, number as u64, 1024).await?;
    let config = b"{}";
    let blob = remote.push_blob(&repository, config).await?;
    let first = number * IMAGES_PER_REPOSITORY;
    let mut items = Vec::new();
    for image in first..images.min(first + IMAGES_PER_REPOSITORY) {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": Flavour::Oci.config(), "digest": blob, "size": config.len()},
            "layers": [{"mediaType": Flavour::Oci.layer(), "digest": layer, "size": 1024}],
            "annotations": {"number": image.to_string()},
        });
        let tag = format!("v{image}");
        let (Manifest { digest, .. }, _) = remote.put_manifest(&repository, &tag, OCI_MANIFEST, &manifest).await?;
        items.push(Item { repository: repository.clone(), tag, digest });
    }
    Ok(items)
}

//! What the operator costs at rest: memory, registry requests and writes with a number of complete objects.
//!
//! Prints figures and asserts nothing; the counts are asserted by the scenarios.

use anyhow::{Context, Result};
use e2e::image::ImageSpec;
use e2e::tools::say;
use e2e::wait::{LONG, until_ready};
use e2e::world::World;
use serde_json::json;

/// Starts a world with `objects` objects, waits until all are Ready, and prints what the operator uses then.
pub(crate) async fn run(objects: usize) -> Result<()> {
    let world = World::start().await?;
    let source = world.source()?;
    let repository = "apps/tool";
    source.push_image(repository, "1", ImageSpec::seeded(1).layers(1, 64 << 10)).await?;
    let mut operator = world.operator().await?;
    let namespace = world.namespace().to_owned();
    say(&format!("creating {objects} objects"));
    for index in 0..objects {
        let mut object = world.image_set_mirror(&namespace, &format!("object-{index}"), &["apps/tool:1"]);
        // Each to a place of its own, or the younger ones would be refused.
        if let Some(target) = object.pointer_mut("/spec/target").and_then(|target| target.as_object_mut()) {
            target.insert("pathPrefix".to_owned(), json!(format!("p{index}")));
        }
        world.apply(&object).await?;
    }
    let mirrors = world.mirrors(&namespace).await?;
    for index in 0..objects {
        until_ready(&mirrors, &format!("object-{index}"), LONG).await?;
    }
    let at_ready = operator.process().resident_bytes().context("the operator's memory")?;
    let (requests, writes) = (world.target.mark().await?, world.cluster.audit_mark()?);
    say("all are Ready; watching for a minute");
    // The minute is what is measured, not a wait for something.
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    let resident = operator.process().resident_bytes().context("the operator's memory")?;
    let requests = world.target.requests_since(requests).await?.len();
    let changes = world.operator_requests_since(writes)?.into_iter().filter(e2e::cluster::AuditEvent::is_write);
    // Renewing the lease is the one write at rest.
    let changes = changes.filter(|event| event.resource != "leases").count();
    let kib = |bytes: u64| bytes >> 10;
    say(&format!(
        "{objects} objects: resident {} KiB when the last was Ready, {} KiB a minute later; in that minute {requests} \
         registry requests and {changes} writes to the API server besides the lease",
        kib(at_ready),
        kib(resident),
    ));
    operator.terminate().await?;
    Ok(())
}

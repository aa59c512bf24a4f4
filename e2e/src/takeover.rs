//! How long the operator's work rests after its leader was killed, with the times of the Deployment.
//!
//! Prints figures and asserts nothing; that the other replica goes on is asserted by the scenarios.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::image::ImageSpec;
use e2e::operator::{Operator, Overrides};
use e2e::tools::say;
use e2e::wait::{LONG, eventually, until};
use e2e::world::World;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::Api;

/// Kills, or asks to end, the leader of two replicas, as often as asked for.
pub(crate) async fn run(rounds: usize) -> Result<()> {
    let world = World::start().await?;
    world.source()?.push_image("apps/tool", "1", ImageSpec::seeded(1)).await?;
    let mut leader = world.operator_with(&Overrides::default()).await?;
    holder(&world, &leader).await?;
    let mut waits: [Vec<Duration>; 2] = Default::default();
    for round in 0..rounds {
        for (killed, waits) in [true, false].into_iter().zip(&mut waits) {
            let other = world.operator_with(&Overrides::default()).await?;
            let start = Instant::now();
            if killed {
                leader.kill();
            } else {
                leader.terminate().await?;
            }
            let name = format!("set-{round}-{}", if killed { "killed" } else { "ended" });
            world.apply(&world.image_set_mirror(world.namespace(), &name, &["apps/tool:1"])).await?;
            let before = lease(&world).await?;
            let after = holder(&world, &other).await?;
            let mirrors = world.mirrors(world.namespace()).await?;
            until(&mirrors, &name, LONG, "a word of the operator", |object| {
                object.data.pointer("/status/conditions").is_some()
            })
            .await?;
            let wait = start.elapsed();
            say(&format!(
                "round {}: leader {}, the other acts after {:.1} s (lease: last renewed {}, taken {}, transition {})",
                round + 1,
                if killed { "killed" } else { "asked to end" },
                wait.as_secs_f64(),
                before.renew_time.map_or_else(String::new, |time| time.0.to_string()),
                after.acquire_time.map_or_else(String::new, |time| time.0.to_string()),
                after.lease_transitions.unwrap_or_default(),
            ));
            waits.push(wait);
            leader = other;
        }
    }
    for (kind, waits) in ["killed", "asked to end"].into_iter().zip(&mut waits) {
        waits.sort();
        let at = |index: usize| waits.get(index).map_or(0.0, Duration::as_secs_f64);
        say(&format!(
            "leader {kind}, {rounds} times: the other acts after {:.1} to {:.1} s, median {:.1} s",
            at(0),
            at(waits.len().saturating_sub(1)),
            at(waits.len() / 2),
        ));
    }
    Ok(())
}

async fn lease(world: &World) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(world.cluster.client().await?, world.namespace());
    leases.get("imageset-mirror").await?.spec.context("a lease has a spec")
}

/// The lease as soon as this replica holds it.
async fn holder(world: &World, operator: &Operator) -> Result<LeaseSpec> {
    let holder = format!("{}_", operator.pod_name());
    eventually(LONG, "a leader", || async {
        let found = lease(world).await?;
        Ok(found.holder_identity.as_ref().is_some_and(|name| name.starts_with(&holder)).then_some(found))
    })
    .await
}

//! Killed at any request, a run leaves no tag that names missing content, and the next one completes it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::fake::error;
use super::*;

/// An index and an image that share a blob; one is signed, the other has a referrer.
async fn world() -> World {
    let mut world = World::new().await;
    let children = [image(&world.source, "a/b", "", &["base", "x"]), image(&world.source, "a/b", "", &["base", "y"])];
    let top = index(&world.source, "a/b", "1", &[&children[0], &children[1]]);
    image(&world.source, "a/b", &format!("sha256-{}.sig", top.hex()), &["signature"]);
    let other = image(&world.source, "a/c", "1", &["base", "z"]);
    world.source.keeps_referrers();
    referrer(&world.source, "a/c", &["sbom"], &other);
    let first = world.wants("a/b", &top, "m/a:1");
    let second = world.wants("a/c", &other, "m/c:1");
    world.items[second].after = vec![first];
    world
}

/// Kills a run at its `fatal`th request, which is still served or not; how many requests there were.
async fn killed(world: &World, fatal: usize, served: bool) -> usize {
    let (count, dead) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    for fake in [&world.source, &world.target] {
        let (count, dead) = (Arc::clone(&count), Arc::clone(&dead));
        fake.rule(move |_seen| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            if number == fatal {
                dead.notify_one();
            }
            (number == fatal && !served).then(|| error(400, "UNKNOWN", "lost"))
        });
    }
    let (engine, plan, stop) = (world.engine(Attachments::Copy), world.plan(), Stop::default());
    tokio::select! {
        biased;
        () = dead.notified() => {}
        report = engine.run(&plan, &Nothing, &Unobserved, &stop) => assert!(report.complete(), "{report:#?}"),
    }
    count.load(Ordering::SeqCst)
}

#[tokio::test]
async fn every_tag_names_complete_content_whenever_a_run_is_killed() {
    let all = killed(&world().await, usize::MAX, true).await;
    assert!(all > 30, "{all}");
    for fatal in 0..all {
        for served in [true, false] {
            let world = world().await;
            killed(&world, fatal, served).await;
            assert_eq!(world.target.torn(), Vec::<String>::new(), "killed at {fatal}");
            let report = world.copy_all().await;
            assert!(report.complete(), "killed at {fatal}: {report:#?}");
            assert_eq!(world.target.torn(), Vec::<String>::new(), "killed at {fatal}, and run again");
            let tags: Vec<_> = world.target.tags().into_iter().map(|(_, tag)| tag).collect();
            // Two images, one signature, one list of referrers.
            assert_eq!(tags.len(), 4, "killed at {fatal}, and run again: {tags:?}");
        }
    }
}

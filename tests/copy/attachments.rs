//! Signatures and referrers travel, and lists of them overwrite nothing.

use super::fake::answer;
use super::*;

fn listed(world: &World, repository: &str, subject: &Digest) -> Vec<String> {
    let tag = format!("sha256-{}", subject.hex());
    let Some(list) = world.target.manifest(repository, &tag) else { return Vec::new() };
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    list["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn signatures_of_an_index_and_of_its_images_travel_before_the_tag() {
    let mut world = World::new().await;
    let child = image(&world.source, "a/b", "", &["one"]);
    let top = index(&world.source, "a/b", "1", &[&child]);
    let names = [format!("sha256-{}.sig", top.hex()), format!("sha256-{}.sig", child.hex())];
    for name in &names {
        image(&world.source, "a/b", name, &[name]);
    }
    world.wants("a/b", &top, "m/a:1");
    assert!(world.copy_all().await.complete());
    for name in &names {
        assert_eq!(world.target.manifest("m/a", name), world.source.manifest("a/b", name));
        assert!(world.at(&format!("PUT /v2/m/a/manifests/{name}")) < world.at("PUT /v2/m/a/manifests/1"));
    }
}

#[tokio::test]
async fn referrers_and_what_refers_to_them_travel_by_the_api() {
    let mut world = World::new().await;
    world.source.keeps_referrers();
    world.target.keeps_referrers();
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let sbom = referrer(&world.source, "a/b", &["sbom"], &digest);
    let signature = referrer(&world.source, "a/b", &["signature"], &sbom);
    world.wants("a/b", &digest, "m/a:1");
    assert!(world.copy_all().await.complete());
    for found in [sbom, signature] {
        assert!(world.target.manifest("m/a", &found.to_string()).is_some());
    }
    assert_eq!(world.target.tags(), [("m/a".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn referrers_of_a_list_at_the_source_are_listed_at_a_target_without_the_api() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let sbom = referrer(&world.source, "a/b", &["sbom"], &digest);
    let stranger = image(&world.source, "a/b", "", &["stranger"]);
    index(&world.source, "a/b", &format!("sha256-{}", digest.hex()), &[&sbom, &stranger]);
    world.wants("a/b", &digest, "m/a:1");
    assert!(world.copy_all().await.complete());
    assert_eq!(listed(&world, "m/a", &digest), [sbom.to_string()]);
    assert!(world.target.manifest("m/a", &stranger.to_string()).is_none(), "it does not name the subject");
}

#[tokio::test]
async fn a_referrer_that_is_there_but_not_listed_is_listed() {
    let mut world = World::new().await;
    world.source.keeps_referrers();
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let sbom = referrer(&world.source, "a/b", &["sbom"], &digest);
    referrer(&world.target, "m/a", &["sbom"], &digest);
    world.wants("a/b", &digest, "m/a:1");
    assert!(world.copy_all().await.complete());
    assert_eq!(listed(&world, "m/a", &digest), [sbom.to_string()]);
}

#[tokio::test]
async fn two_syncs_that_write_one_list_lose_no_entry() {
    let mut world = World::new().await;
    world.source.keeps_referrers();
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let mut expected: Vec<_> = (0..8)
        .map(|number| {
            referrer(&world.source, if number % 2 == 0 { "a/b" } else { "a/c" }, &[&number.to_string()], &digest)
        })
        .map(|digest| digest.to_string())
        .collect();
    image(&world.source, "a/c", "1", &["one"]);
    world.wants("a/b", &digest, "m/a:1");
    world.wants("a/c", &digest, "m/a:2");
    let (engines, plan, stop) =
        ([world.engine(Attachments::Copy), world.engine(Attachments::Copy)], world.plan(), Stop::default());
    let run = |engine: usize| engines[engine].run(&plan, &Nothing, &Unobserved, &stop);
    let (one, other) = futures::join!(run(0), run(1));
    assert!(one.complete() && other.complete());
    expected.sort();
    assert_eq!(listed(&world, "m/a", &digest), expected);
}

#[tokio::test]
async fn a_list_is_not_written_where_an_image_of_the_plan_belongs() {
    let mut world = World::new().await;
    world.source.keeps_referrers();
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let sbom = referrer(&world.source, "a/b", &["sbom"], &digest);
    world.wants("a/b", &digest, &format!("m/a:sha256-{}", digest.hex()));
    let report = world.copy_all().await;
    assert!(report.complete());
    assert_eq!(report.items[0].warnings.len(), 1);
    assert_eq!(report.items[0].warnings[0].reason, Reason::ReferrersUnsupported);
    assert_eq!(world.target.manifest("m/a", &format!("sha256-{}", digest.hex())), world.source.manifest("a/b", "1"));
    assert!(world.target.manifest("m/a", &sbom.to_string()).is_some());
}

#[tokio::test]
async fn an_image_of_somebody_else_under_the_tag_of_a_list_stays() {
    let mut world = World::new().await;
    world.source.keeps_referrers();
    let digest = image(&world.source, "a/b", "1", &["one"]);
    referrer(&world.source, "a/b", &["sbom"], &digest);
    let tag = format!("sha256-{}", digest.hex());
    image(&world.target, "m/a", &tag, &["one"]);
    let before = world.target.manifest("m/a", &tag);
    world.wants("a/b", &digest, "m/a:1");
    let report = world.copy_all().await;
    assert!(report.complete());
    assert_eq!(report.items[0].warnings.len(), 1);
    assert_eq!(world.target.manifest("m/a", &tag), before);
}

#[tokio::test]
async fn attachments_of_a_shared_child_are_copied_for_whoever_completes() {
    let mut world = World::new().await;
    let child = image(&world.source, "a/b", "", &["one"]);
    let broken = image(&world.source, "a/b", "", &["two"]);
    world.source.lose_blob("a/b", &Digest::of(b"two"));
    let tops = [index(&world.source, "a/b", "1", &[&child, &broken]), index(&world.source, "a/b", "2", &[&child])];
    let name = format!("sha256-{}.sig", child.hex());
    image(&world.source, "a/b", &name, &["signature"]);
    let first = world.wants("a/b", &tops[0], "m/a:1");
    world.wants("a/b", &tops[1], "m/a:2");
    let report = world.copy_all().await;
    assert_eq!(reason(&report, first), Reason::SourceNotFound);
    assert_eq!(report.items[1].outcome, Outcome::Copied);
    assert!(world.target.manifest("m/a", &name).is_some());
}

#[tokio::test]
async fn referrers_in_a_circle_and_referrers_that_do_not_exist_end() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let sbom = referrer(&world.source, "a/b", &["sbom"], &digest);
    let entry =
        |digest: &Digest| format!(r#"{{"mediaType":"{}","digest":"{digest}","size":3}}"#, media_type::OCI_IMAGE);
    let list = [&digest, &sbom, &Digest::of(b"gone")].map(entry).join(",");
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{list}]}}"#);
    world.source.rule(move |seen| {
        seen.path.contains("/referrers/").then(|| answer(200, &[("content-type", media_type::OCI_INDEX)], list.clone()))
    });
    world.wants("a/b", &digest, "m/a:1");
    let report = world.copy_all().await;
    assert!(report.complete(), "{report:#?}");
    assert!(world.target.manifest("m/a", &sbom.to_string()).is_some());
}

#[tokio::test]
async fn a_list_of_more_referrers_than_are_copied_is_a_failure_and_not_silence() {
    let mut world = World::new().await;
    let digest = image(&world.source, "a/b", "1", &["one"]);
    let entry = |number: u32| format!(r#"{{"digest":"{}","size":3}}"#, Digest::of(&number.to_be_bytes()));
    let list = (0..10_001).map(entry).collect::<Vec<_>>().join(",");
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{list}]}}"#);
    world.source.rule(move |seen| {
        seen.path.contains("/referrers/").then(|| answer(200, &[("content-type", media_type::OCI_INDEX)], list.clone()))
    });
    world.wants("a/b", &digest, "m/a:1");
    assert_eq!(reason(&world.copy_all().await, 0), Reason::ManifestInvalid);
}

/// Requests to the source about attachments: lookups of tags and referrers.
fn lookups(world: &World) -> Vec<String> {
    let lines = world.source.lines().into_iter();
    lines
        .filter(|line| ["/referrers/", "/tags/list", "/manifests/sha256-"].iter().any(|part| line.contains(part)))
        .map(|line| line.split("sha256").next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn without_the_api_one_list_of_tags_answers_for_all_images_of_a_repository() {
    let mut world = World::new().await;
    for (repository, name) in [("a/b", "1"), ("a/b", "2"), ("a/b", "3"), ("c/d", "1")] {
        let digest = image(&world.source, repository, name, &[repository, name]);
        world.wants(repository, &digest, &format!("m/{repository}:{name}"));
    }
    assert!(world.copy_all().await.complete());
    let mut lookups = lookups(&world);
    lookups.sort();
    let first = lookups.iter().position(|line| line.contains("/referrers/")).map(|at| lookups.remove(at));
    assert!(first.is_some(), "somebody has to find out");
    assert_eq!(lookups, ["GET /v2/a/b/tags/list", "GET /v2/c/d/tags/list"]);
}

#[tokio::test]
async fn what_is_in_the_list_of_tags_travels_and_a_list_of_several_pages_is_not_followed() {
    for pages in [1, 2] {
        let mut world = World::new().await;
        let digest = image(&world.source, "a/b", "1", &["one"]);
        let signature = format!("sha256-{}.sig", digest.hex());
        image(&world.source, "a/b", &signature, &["signature"]);
        if pages > 1 {
            world.source.rule(|seen| {
                let link = [("link", "</v2/a/b/tags/list?n=1000&last=x>; rel=\"next\"")];
                seen.path.ends_with("/tags/list").then(|| answer(200, &link, r#"{"name":"a/b","tags":["0"]}"#))
            });
        }
        world.wants("a/b", &digest, "m/a:1");
        assert!(world.copy_all().await.complete());
        assert!(world.target.manifest("m/a", &signature).is_some());
        assert_eq!(lookups(&world).iter().filter(|line| line.contains("/tags/list")).count(), 1);
    }
}

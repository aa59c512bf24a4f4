//! Images that were made here, on layers of a source.

use bytes::Bytes;
use imageset_mirror::oci::Content;

use super::fake::error;
use super::*;

#[tokio::test]
async fn what_was_made_here_is_never_asked_of_the_source_and_its_base_comes_from_there() {
    let mut world = World::new().await;
    image(&world.source, "base/image", "1", &["below"]);
    let mut content = Content::default();
    content.add(Bytes::from_static(b"made"));
    let text = manifest(&["below", "made"], None);
    let digest = content.add(Bytes::from(text.clone()));
    world.wants("base/image", &digest, "m/made:1");
    let engine = world.engine(Attachments::Copy).with_made(Arc::new(content));
    let report = engine.run(&world.plan(), &Nothing, &Unobserved, &Stop::default()).await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert_eq!(world.target.manifest("m/made", "1"), Some(text.into()));
    assert_eq!(world.target.torn(), Vec::<String>::new());
    assert_eq!((world.sent("below").len(), world.sent("made").len()), (1, 1));
    let asked = world.source.lines();
    let foreign = [&digest, &Digest::of(b"made")].map(ToString::to_string);
    assert!(asked.iter().all(|line| foreign.iter().all(|digest| !line.contains(digest))), "{asked:#?}");
}

/// Something made here that is one large blob, on nothing, and a plan to bring it to `m/made:1`.
fn large(world: &mut World) -> (Content, Bytes) {
    let bytes = Bytes::from((0..1_500_000_u32).map(|number| number.to_le_bytes()[1]).collect::<Vec<_>>());
    let mut content = Content::default();
    content.add(bytes.clone());
    content.add(Bytes::from_static(b"{}"));
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_IMAGE,
        "config": descriptor("a/config", b"{}"), "layers": [descriptor("a/layer", &bytes)],
    });
    let digest = content.add(Bytes::from(text.to_string()));
    world.wants("base/image", &digest, "m/made:1");
    (content, bytes)
}

#[tokio::test]
async fn a_large_blob_that_was_made_here_goes_on_where_its_upload_broke() {
    for (kept, resumed) in [(true, 1), (false, 0)] {
        let mut world = World::new().await;
        let (content, bytes) = large(&mut world);
        // So that only one is uploaded.
        world.target.put_blob("m/made", "{}");
        world.target.breaks_uploads([700_000], kept);
        let engine = world.engine(Attachments::Skip).with_made(Arc::new(content));
        let report = engine.run(&world.plan(), &Nothing, &Unobserved, &Stop::default()).await;
        assert_eq!(outcomes(&report), [&Outcome::Copied]);
        assert_eq!(world.target.blob("m/made", &Digest::of(&bytes)), Some(bytes));
        assert_eq!((report.items[0].resumed, report.items[0].retried), (resumed, 1 - resumed));
    }
}

#[tokio::test]
async fn a_large_blob_that_was_made_here_goes_in_parts_to_a_target_that_takes_no_more() {
    let mut world = World::new().await;
    let (content, bytes) = large(&mut world);
    world.target.rule(|seen| {
        let long = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0) > 1_000_000;
        long.then(|| error(413, "SIZE_INVALID", "too long"))
    });
    let engine = world.engine(Attachments::Skip).with_made(Arc::new(content));
    let report = engine.run(&world.plan(), &Nothing, &Unobserved, &Stop::default()).await;
    assert_eq!(outcomes(&report), [&Outcome::Copied]);
    assert_eq!(world.target.blob("m/made", &Digest::of(&bytes)), Some(bytes));
}

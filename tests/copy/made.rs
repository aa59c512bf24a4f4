//! Images that were made here, on layers of a source.

use bytes::Bytes;
use imageset_mirror::oci::Content;

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

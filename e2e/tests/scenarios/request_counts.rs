//! What copying costs in requests, exactly: counted from the access logs of real registries.
//!
//! Of images named by digest, n of them with b different blobs that lie in p places (a blob in a repository is a place),
//! a first run asks the source for each manifest and each blob once, and the target for each tag once; it sends each blob
//! in two requests, mounts it in one wherever else it belongs, and puts each manifest. A second run asks the target once
//! for each tag. What a run remembers in the target, in a repository of its own, comes on top and is counted apart: one request
//! if there is nothing to do.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use e2e::operator::binary;
use e2e::process::RunFolder;
use e2e::registry::{LoggedRequest, Options, Registry};
use e2e::workload::{ARCHITECTURES, Layout, Pushed, Workload};

const IMAGES: usize = 20;
/// Small and large blobs: those up to 256 KiB are held whole, others are streamed.
const SIZES: (u64, u64) = (16 << 10, 1 << 20);

/// What the ledger and the plan cost: to find out that there are none and to write them, and to find out that all of the plan
/// was completed.
const STATE: [usize; 2] = [12, 1];

struct Pair {
    source: Registry,
    target: Registry,
    run: RunFolder,
    pushed: Pushed,
}

/// Requests by kind; those about state are apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    kinds: BTreeMap<&'static str, usize>,
    state: usize,
}

fn counts(requests: &[LoggedRequest]) -> Counts {
    let mut counts = Counts::default();
    for request in requests {
        match request.kind() {
            "state" => counts.state += 1,
            kind => *counts.kinds.entry(kind).or_default() += 1,
        }
    }
    counts
}

fn kinds<const N: usize>(kinds: [(&'static str, usize); N]) -> BTreeMap<&'static str, usize> {
    kinds.into_iter().filter(|(_, count)| *count > 0).collect()
}

impl Pair {
    async fn start(layout: Layout, images: usize) -> Self {
        Self::at(Options::distribution("target"), Workload::new(images, layout, SIZES)).await
    }

    async fn at(target: Options, workload: Workload) -> Self {
        let source = Options::distribution("source");
        let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
        let pushed = workload.push(&source.remote().expect("a client")).await.expect("pushed");
        let run = RunFolder::create("request-counts").expect("a folder");
        let names = pushed
            .images
            .iter()
            .map(|(repository, manifest)| format!("  - name: {}/{repository}@{}\n", source.host(), manifest.digest));
        let head =
            "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\nmirror:\n  additionalImages:\n";
        let text: String = std::iter::once(head.to_owned()).chain(names).collect();
        run.write("imageset.yaml", text).expect("a file");
        Self { source, target, run, pushed }
    }

    /// Runs once; what it asked of source and target.
    async fn mirror(&self, attachments: &str) -> (Counts, Counts) {
        let (at_source, at_target) =
            (self.source.mark().await.expect("a log"), self.target.mark().await.expect("a log"));
        let mut command = Command::new(binary().expect("the binary"));
        command.args(["mirror", "-f", "imageset.yaml", "--attachments", attachments]);
        command.args(["--to", &format!("{}/m", self.target.host())]);
        for registry in [&self.source, &self.target] {
            command.args(["--tls", &format!("{}=plain", registry.host())]);
        }
        command.env_clear().env("HOME", self.run.path()).current_dir(self.run.path()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (source, target) = (
            self.source.requests_since(at_source).await.expect("a log"),
            self.target.requests_since(at_target).await.expect("a log"),
        );
        (counts(&source), counts(&target))
    }

    async fn assert_complete(&self) {
        let target = self.target.remote().expect("a client");
        for (repository, manifest) in &self.pushed.images {
            let repository = format!("m/{repository}");
            let tag = format!("sha256-{}", manifest.digest.trim_start_matches("sha256:"));
            let found = target.digest(&repository, &tag).await.expect("an answer");
            assert_eq!(found.as_deref(), Some(&*manifest.digest), "{repository}");
            target.walk(&repository, &tag).await.expect("everything is there and whole");
        }
    }
}

/// The first and the second run of a layout, without attachments.
async fn costs_what_it_must(layout: Layout, images: usize) {
    let pair = Pair::start(layout, images).await;
    let Pushed { blobs, places, .. } = pair.pushed;
    let children = if layout == Layout::Indexes { images * ARCHITECTURES.len() } else { 0 };
    let (source, target) = pair.mirror("skip").await;
    pair.assert_complete().await;
    assert_eq!(source.kinds, kinds([("manifest", images + children), ("blob", blobs)]));
    let sent = [("begin", blobs), ("send", blobs), ("mount", places - blobs)];
    let [begin, send, mount] = sent;
    assert_eq!(target.kinds, kinds([("look", images + children), ("put", images + children), begin, send, mount]));
    assert_eq!(target.state, STATE[0]);
    let (source, target) = pair.mirror("skip").await;
    assert_eq!((source.kinds, target.kinds), (kinds([]), kinds([("look", images)])));
    assert_eq!(target.state, STATE[1]);
}

#[tokio::test]
async fn images_in_repositories_of_their_own_share_blobs_by_mounting() {
    costs_what_it_must(Layout::Apart, IMAGES).await;
}

#[tokio::test]
async fn images_of_one_repository_share_blobs_for_nothing() {
    costs_what_it_must(Layout::Together, IMAGES).await;
}

#[tokio::test]
async fn indexes_cost_what_their_images_cost() {
    costs_what_it_must(Layout::Indexes, IMAGES / ARCHITECTURES.len()).await;
}

#[tokio::test]
async fn attachments_cost_one_more_request_for_each_repository_and_nothing_the_second_time() {
    let pair = Pair::start(Layout::Apart, IMAGES).await;
    let (source, target) = pair.mirror("copy").await;
    // One request finds out that the source has no referrers API.
    let asked = kinds([("manifest", IMAGES), ("blob", pair.pushed.blobs), ("tags", IMAGES), ("referrers", 1)]);
    assert_eq!(source.kinds, asked);
    assert_eq!(target.kinds.get("look"), Some(&IMAGES));
    let (source, target) = pair.mirror("copy").await;
    assert_eq!((source.kinds, target.kinds), (kinds([]), kinds([("look", IMAGES)])));
}

#[tokio::test]
async fn small_blobs_take_one_request_where_the_target_takes_them_whole() {
    const IMAGES: usize = 200;
    let small = Workload::new(IMAGES, Layout::Apart, (1 << 10, 64 << 10));
    let pair = Pair::at(Options::olareg("target"), small).await;
    let Pushed { blobs, places, .. } = pair.pushed;
    let (source, target) = pair.mirror("skip").await;
    pair.assert_complete().await;
    assert_eq!(source.kinds, kinds([("manifest", IMAGES), ("blob", blobs)]));
    let count = |kind| target.kinds.get(kind).copied().unwrap_or_default();
    let begun = ["begin", "mount"].map(count);
    assert_eq!(begun, [blobs, places - blobs]);
    // Known from a blob of our own, while what to copy was read.
    assert!(count("send") < blobs / 20, "{:?}", target.kinds);
    // Four of ours are blobs; the first is looked for, in case it was not taken.
    assert_eq!(target.state, STATE[0] - 4 + 1);
}

//! Catalogs of operators, judged by the real `opm`, by OLM's questions over the wire, and by catalogd's way to read them.

use e2e::catalog::{Catalog, LEFTOVER, Package, Twist, WITHDRAWN, chain, entry};
use e2e::image::Flavour;
use e2e::opm::{self, Access, CatalogImage};
use e2e::registry::Options;
use e2e::tools::say;

const INDEX: &str = "redhat/redhat-operator-index";

/// Two packages: several channels, skips, a range and deprecations; JSON and YAML.
fn packages() -> [Package; 2] {
    let candidate = [
        entry("1.0.0"),
        entry("1.1.0").replaces("1.0.0"),
        entry("1.1.1").replaces("1.0.0").skips("1.1.0").skip_range(">=1.0.0 <1.1.1"),
        entry("2.0.0").replaces("1.1.1"),
    ];
    [
        Package::new("web")
            .channel("stable", chain(&["1.0.0", "1.1.0", "1.2.0"]))
            .channel("fast", chain(&["1.2.0", "2.0.0"]))
            .deprecates_channel("fast", "use stable"),
        Package::new("data").yaml().channel("candidate", candidate).deprecates("1.0.0", "too old"),
    ]
}

const ENTRIES: [&str; 9] = [
    "data/candidate/data.v1.0.0",
    "data/candidate/data.v1.1.0",
    "data/candidate/data.v1.1.1",
    "data/candidate/data.v2.0.0",
    "web/fast/web.v1.2.0",
    "web/fast/web.v2.0.0",
    "web/stable/web.v1.0.0",
    "web/stable/web.v1.1.0",
    "web/stable/web.v1.2.0",
];

/// Whether images of catalogs can be run here; says so if not.
fn can_serve(scenario: &str) -> bool {
    opm::available().map_err(|why| say(&format!("SKIPPED: catalogs_are_served::{scenario}, since {why}"))).is_ok()
}

#[tokio::test]
async fn what_the_world_offers_is_served_and_read_as_it_was_meant() {
    if !can_serve("what_the_world_offers") {
        return;
    }
    let registry = Options::distribution("source").start().await.expect("a registry");
    let remote = registry.remote().expect("a client");
    let single = Catalog { architectures: vec!["amd64"], flavour: Flavour::Oci, ..Catalog::of(packages()) };
    let made = Catalog::of(packages()).push(&remote, INDEX, "v4.18").await.expect("an index");
    single.push(&remote, INDEX, "single").await.expect("an image");
    for (tag, architectures) in [("v4.18", ["amd64", "arm64", "s390x"].as_slice()), ("single", &["amd64"])] {
        for architecture in architectures {
            let image = CatalogImage::pull(&remote, INDEX, tag, architecture).await.expect("it is there");
            image.validate().await.expect("opm takes it");
            let documents = image.as_catalogd().await.expect("catalogd takes it");
            let hidden = [WITHDRAWN, LEFTOVER];
            assert!(documents.iter().all(|it| !hidden.contains(&it.name.as_str())), "{documents:?}");
            // Two packages, three channels, eight bundles, two deprecations, and a document of none.
            assert_eq!(documents.len(), 2 + 3 + 8 + 2 + 1, "{documents:#?}");
        }
        let image = CatalogImage::pull(&remote, INDEX, tag, "amd64").await.expect("it is there");
        let served = image.serve(Access::Writable).await.expect("it serves");
        assert_eq!(served.entries(), ENTRIES);
        // Its cache is hidden by the fresh /tmp, and nothing may take its place.
        let error = format!("{:#}", image.serve(Access::ReadOnly).await.expect_err("it does not serve"));
        assert!(error.contains("integrity check failed"), "{error}");
        assert_eq!(served.packages.keys().collect::<Vec<_>>(), ["data", "web"]);
        for bundle in &served.bundles {
            assert_eq!(bundle.image, made.bundles[&bundle.name][0]);
        }
    }
    // Every image that is listed is there.
    for image in made.bundles.values().flatten() {
        let name = image.strip_prefix("registry.redhat.io/").expect("the host");
        let (repository, reference) = name.split_once('@').or_else(|| name.split_once(':')).expect("a reference");
        remote.walk(repository, reference).await.expect("it is whole");
    }
}

#[tokio::test]
async fn the_judges_refuse_what_no_cluster_could_use() {
    let registry = Options::distribution("source").start().await.expect("a registry");
    let remote = registry.remote().expect("a client");
    for (twist, said) in [
        (Twist::NoLabel, "no label"),
        (Twist::Database, "no label"),
        (Twist::Unparsable("web"), "EOF"),
        (Twist::TwoHeads, "multiple channel heads"),
        (Twist::Cycle, "no channel head"),
        (Twist::TwiceTheBundle, "duplicate bundle"),
        (Twist::NoImage, "image"),
    ] {
        let catalog = Catalog { architectures: vec!["amd64"], ..Catalog::of(packages()).twisted(twist) };
        catalog.push(&remote, INDEX, "twisted").await.expect("an image");
        let image = CatalogImage::pull(&remote, INDEX, "twisted", "amd64").await.expect("it is there");
        let error = format!("{:#}", image.validate().await.expect_err("opm refuses it"));
        assert!(error.contains(said), "{twist:?}: {error}");
    }
}

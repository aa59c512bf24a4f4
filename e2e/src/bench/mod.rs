//! `bench`: ours and its peers on the same machine, in turn, in the same run; requests counted by the registries.
//!
//! Each run starts with an empty target and is followed by a second one with nothing to do. After each run the target is
//! looked through: a run that misses anything is void and counts for nothing. Registries keep everything in memory, so
//! that what is compared is what they are asked for, and not a disk; contenders that keep something have it on one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use e2e::fault_proxy::{FaultProxy, Reply};
use e2e::image::{ImageSpec, Remote};
use e2e::process::RunFolder;
use e2e::proxy::Proxy;
use e2e::registry::{LogMark, LoggedRequest, Options, Registry};
use e2e::relay::Relay;
use e2e::tools;
use e2e::workload::{Layout, Workload};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

mod catalog;
mod contender;
mod huge;
mod measure;
mod plan;
mod recheck;
mod report;

pub(crate) use catalog::run as catalog;
use contender::{Contender, Item, Route};
pub(crate) use huge::run as huge;
pub(crate) use measure::launch;
use measure::{Connections, Cost};
pub(crate) use plan::run as plan;
pub(crate) use recheck::run as recheck;

/// What to measure; without flags the whole.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Only these workloads; repeatable.
    #[arg(long = "workload", value_enum)]
    workloads: Vec<Content>,
    /// Only these variants; repeatable.
    #[arg(long = "variant", value_enum)]
    variants: Vec<Variant>,
    /// Only these contenders; repeatable.
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Contender>,
    /// Runs of each; medians are shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Images of the workloads that have many.
    #[arg(long, default_value_t = 200)]
    images: usize,
    /// MiB of the one layer of the workload that has one.
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// Also write the tables to this file.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Content {
    /// (a) One image with one layer of a gibibyte.
    Big,
    /// (b) 200 images of five layers, a repository each, and (c) the same again.
    Images,
    /// (r) The same in one repository, as a release has it.
    Release,
    /// (i) 20 indexes of four platforms.
    Indexes,
}

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Variant {
    /// Loopback, plain HTTP.
    Plain,
    /// Loopback, TLS on both sides.
    Tls,
    /// A round trip of 20 ms to the source and of 5 ms to the target.
    Far,
    /// 50 MiB/s to and from each side.
    Narrow,
    /// A target that refuses what is more than 200 requests a second, and asks to come back after a second.
    Limited,
}

const FAR: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(5)];
const NARROW: u64 = 50 << 20;
/// Requests a second that a limited target takes.
pub(crate) const LIMIT: u32 = 200;
/// Bytes of the smallest and largest layer.
const SIZES: (u64, u64) = (64 << 10, 8 << 20);

/// What identifies a row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) content: Content,
    pub(crate) variant: Variant,
    /// With everything there already.
    pub(crate) again: bool,
    pub(crate) contender: Contender,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) cost: Cost,
    pub(crate) source: BTreeMap<&'static str, usize>,
    pub(crate) target: BTreeMap<&'static str, usize>,
    pub(crate) connections: usize,
    /// Blobs that were sent more than once.
    pub(crate) sent_twice: usize,
    /// Why it does not count, if so.
    pub(crate) void: Option<String>,
}

/// Everything measured, and what it was measured on.
pub(crate) struct Measured {
    pub(crate) images: usize,
    pub(crate) mebibytes: u64,
    pub(crate) runs: usize,
    pub(crate) samples: BTreeMap<Row, Vec<Sample>>,
    pub(crate) skipped: BTreeMap<Contender, String>,
}

/// Measures and prints.
pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    let contenders = chosen(&args.contenders);
    let mut measured = Measured {
        images: args.images,
        mebibytes: args.mebibytes,
        runs: args.runs,
        samples: BTreeMap::new(),
        skipped: BTreeMap::new(),
    };
    for &contender in &contenders {
        if let Err(reason) = tokio::task::spawn_blocking(move || contender.prepare()).await? {
            tools::say(&format!("SKIPPED: {}, since {reason}", contender.name()));
            measured.skipped.insert(contender, reason);
        }
    }
    let both_named = !args.workloads.is_empty() && !args.variants.is_empty();
    for content in chosen(&args.workloads) {
        for variant in chosen(&args.variants).into_iter().filter(|&variant| both_named || usual(content, variant)) {
            let bench = Bench::fill(content, variant, args).await?;
            for number in 0..args.runs {
                for &contender in contenders.iter().filter(|contender| !measured.skipped.contains_key(contender)) {
                    tools::say(&format!("{content:?}, {variant:?}, {}, run {}", contender.name(), number + 1));
                    for (again, sample) in bench.measure(contender).await? {
                        if let Some(why) = &sample.void {
                            tools::say(&format!("void: {why}"));
                        }
                        let row = Row { content, variant, again, contender };
                        measured.samples.entry(row).or_default().push(sample);
                    }
                }
            }
        }
    }
    let text = report::markdown(&measured);
    crate::print(&text);
    if let Some(path) = &args.output {
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What is measured without flags: each variant where it tells something.
fn usual(content: Content, variant: Variant) -> bool {
    match variant {
        Variant::Plain => true,
        Variant::Tls | Variant::Narrow => matches!(content, Content::Big | Content::Images),
        Variant::Far | Variant::Limited => content == Content::Images,
    }
}

fn chosen<T: ValueEnum>(named: &[T]) -> Vec<T> {
    if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() }
}

/// A filled source.
struct Bench {
    variant: Variant,
    source: Registry,
    items: Vec<Item>,
    repeat: bool,
}

impl Bench {
    async fn fill(content: Content, variant: Variant, args: &BenchArgs) -> Result<Self> {
        tools::say(&format!("filling the source: {content:?}"));
        let source = registry("source", variant).await?;
        let remote = source.remote()?;
        let many = |layout, images| Workload::new(images, layout, SIZES);
        let workload = match content {
            Content::Big => None,
            Content::Images => Some(many(Layout::Apart, args.images)),
            Content::Release => Some(many(Layout::Together, args.images)),
            Content::Indexes => Some(many(Layout::Indexes, (args.images / 10).max(1))),
        };
        let items = match workload {
            None => {
                let spec = ImageSpec::seeded(1).layers(1, args.mebibytes << 20);
                let manifest = remote.push_image("big/image", "v0", spec).await?;
                vec![Item { repository: "big/image".to_owned(), tag: "v0".to_owned(), digest: manifest.digest }]
            }
            Some(workload) => {
                let images = workload.push(&remote).await?.images.into_iter().enumerate();
                let item = |(number, (repository, manifest)): (usize, (String, e2e::image::Manifest))| Item {
                    repository,
                    tag: workload.tag(number),
                    digest: manifest.digest,
                };
                images.map(item).collect()
            }
        };
        Ok(Self { variant, source, items, repeat: workload.is_some() })
    }

    /// One run into an empty target, and one with nothing to do.
    async fn measure(&self, contender: Contender) -> Result<Vec<(bool, Sample)>> {
        let target = registry("target", self.variant).await?;
        let run = RunFolder::create("bench")?;
        let line = Line::new(self.variant, &self.source, &target)?;
        let pem = [&self.source, &target].into_iter().filter_map(Registry::ca_pem).collect::<String>();
        let [source, host] = line.hosts();
        let route = Route { source, target: host, ca: (!pem.is_empty()).then_some(pem) };
        let launch = contender.launch(&self.items, &route, &run)?;
        let mut samples = Vec::new();
        for again in [false, true] {
            if again && !self.repeat {
                break;
            }
            let marks = [self.source.mark().await?, target.mark().await?];
            let connections = line.connections();
            let counter = Connections::count(&[self.source.port(), target.port()]);
            let cost = measure::run(&launch).await?;
            let counted = counter.end();
            let connections = line
                .connections()
                .map_or(counted, |now| usize::try_from(now - connections.unwrap_or_default()).unwrap_or(usize::MAX));
            let [source, written] = requests(&self.source, &target, marks).await?;
            let missed = missing(&target.remote()?, contender, &self.items).await.err();
            let void = (missed.is_some() || cost.failed > 0).then(|| {
                let said = e2e::process::tail(&run.path().join("output"));
                format!("{}; it said: {said}", missed.map_or_else(|| "it failed".to_owned(), |error| error.to_string()))
            });
            let mut at_target = kinds(&written);
            if let Some(refused) = line.take_refused() {
                at_target.insert(REFUSED, refused);
            }
            let sample = Sample {
                cost,
                source: kinds(&source),
                target: at_target,
                connections,
                sent_twice: sent_twice(&written),
                void,
            };
            samples.push((again, sample));
        }
        Ok(samples)
    }
}

async fn registry(name: &str, variant: Variant) -> Result<Registry> {
    let options = Options::distribution(name).fast();
    if variant == Variant::Tls { options.tls() } else { options }.start().await
}

async fn requests(source: &Registry, target: &Registry, marks: [LogMark; 2]) -> Result<[Vec<LoggedRequest>; 2]> {
    let [at_source, at_target] = marks;
    Ok([source.requests_since(at_source).await?, target.requests_since(at_target).await?])
}

fn kinds(requests: &[LoggedRequest]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for request in requests {
        *kinds.entry(request.kind()).or_default() += 1;
    }
    kinds
}

fn sent_twice(requests: &[LoggedRequest]) -> usize {
    let mut sent: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.kind() == "send") {
        let digest = request.path.split_once("digest=").map_or("", |(_, rest)| rest.split('&').next().unwrap_or(rest));
        *sent.entry(digest).or_default() += 1;
    }
    sent.values().map(|count| count - 1).sum()
}

/// Fails unless everything is in the target: each manifest with its bytes, each blob.
async fn missing(target: &Remote, contender: Contender, items: &[Item]) -> Result<()> {
    let look = |item: &Item| {
        let (repository, digest) = (contender.destination(&item.repository), item.digest.clone());
        async move { holds(target, &repository, digest).await }
    };
    // Made first: a closure over borrowed items would tie the future to one lifetime.
    let looks: Vec<_> = items.iter().map(look).collect();
    futures::stream::iter(looks).buffer_unordered(8).try_collect::<Vec<()>>().await?;
    Ok(())
}

async fn holds(target: &Remote, repository: &str, root: String) -> Result<()> {
    let mut open = vec![root];
    while let Some(digest) = open.pop() {
        let manifest = target.manifest(repository, &digest).await?;
        let manifest = manifest.with_context(|| format!("{repository}@{digest} is missing"))?;
        ensure!(manifest.digest == digest, "{repository}@{digest} has the bytes of {}", manifest.digest);
        let value = manifest.json()?;
        let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
        let named =
            |descriptor: &Value| descriptor.get("digest").and_then(Value::as_str).unwrap_or_default().to_owned();
        open.extend(list("manifests").map(named));
        for blob in value.get("config").into_iter().chain(list("layers")).map(named) {
            let size = target.blob_size(repository, &blob).await?;
            ensure!(size.is_some(), "the blob {repository}@{blob} is missing");
        }
    }
    Ok(())
}

/// The kind of requests that a limited target refuses: they do not reach the registry.
pub(crate) const REFUSED: &str = "refused";

/// What lies between a contender and the registries.
enum Line {
    Direct([String; 2]),
    Far([Relay; 2]),
    Narrow([Proxy; 2]),
    Limited(String, FaultProxy),
}

impl Line {
    fn new(variant: Variant, source: &Registry, target: &Registry) -> Result<Self> {
        let hosts = [source.host(), target.host()];
        let [from, to] = &hosts;
        Ok(match variant {
            Variant::Plain | Variant::Tls => Self::Direct(hosts),
            Variant::Far => {
                let [at_source, at_target] = FAR;
                Self::Far([Relay::start(from, at_source)?, Relay::start(to, at_target)?])
            }
            Variant::Limited => {
                let proxy = FaultProxy::start(to)?;
                proxy.limit(LIMIT, Reply::status(429).header("retry-after", "1"));
                let [source, _] = hosts;
                Self::Limited(source, proxy)
            }
            Variant::Narrow => {
                let proxies = [Proxy::start(from)?, Proxy::start(to)?];
                for proxy in &proxies {
                    proxy.throttle(Some(NARROW));
                }
                Self::Narrow(proxies)
            }
        })
    }

    fn hosts(&self) -> [String; 2] {
        match self {
            Self::Direct(hosts) => hosts.clone(),
            Self::Far(relays) => relays.each_ref().map(Relay::host),
            Self::Narrow(proxies) => proxies.each_ref().map(Proxy::host),
            Self::Limited(source, proxy) => [source.clone(), proxy.host()],
        }
    }

    /// Connections so far, where they are counted on the way.
    fn connections(&self) -> Option<u64> {
        match self {
            Self::Direct(_) | Self::Limited(..) => None,
            Self::Far(relays) => Some(relays.iter().map(Relay::connections).sum()),
            Self::Narrow(proxies) => Some(proxies.iter().map(Proxy::connections).sum()),
        }
    }

    /// Requests that were refused since this was asked last, where some are.
    fn take_refused(&self) -> Option<usize> {
        let Self::Limited(_, proxy) = self else { return None };
        let refused = proxy.seen().iter().filter(|seen| seen.status == Some(429)).count();
        proxy.forget();
        Some(refused)
    }
}

/// The commit of this tree.
pub(crate) fn revision() -> String {
    let args = ["describe", "--always", "--exclude=*", "--dirty"];
    let output = Command::new("git").args(args).current_dir(e2e::operator::repository()).output();
    let commit = output.ok().filter(|output| output.status.success());
    commit.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

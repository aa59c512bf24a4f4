//! Two registries with a proxy before each, and what has to be true after every run between them.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::{fmt, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::fault_proxy::{FaultProxy, Kind, Reply, Seen};
use e2e::image::{ImageSpec, Login, Remote, docker_config};
use e2e::interruption::walk_tags;
use e2e::operator::binary;
use e2e::process::{Process, Program, RunFolder};
use e2e::registry::{Options, Registry};
use e2e::token::SERVICE;
use e2e::tools::{debian_registry, say};
use e2e::wait::LONG;
use serde_json::Value;

/// What may be on its way through the buffers of the system when the target breaks off, and is read again.
pub(crate) const IN_FLIGHT: u64 = 16 * MIB;
/// Bytes per MiB.
pub(crate) const MIB: u64 = 1024 * 1024;
/// Where the program keeps its record in a target.
const STATE: &str = "imageset-mirror/state";
/// Requests of a host that concern no image: pings, tokens, and the record of what was mirrored.
const OVERHEAD: usize = 60;

/// An image that is to be mirrored.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    repository: String,
    tag: String,
    digest: String,
    /// Bytes of its blobs.
    size: u64,
    blobs: usize,
}

/// How much more than the least a run may cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    /// Bytes read from the source.
    pub(crate) read: u64,
    /// Bytes sent to the target.
    pub(crate) sent: u64,
    /// Requests to either.
    pub(crate) requests: usize,
}

/// What a run of the program did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// Null if it could not even begin.
    report: Value,
    err: String,
}

impl Ran {
    /// Whether it says that everything is there.
    pub(crate) fn complete(&self) -> bool {
        self.report["complete"] == true
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.report.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn items(&self) -> &[Value] {
        self.list("/report/items")
    }

    /// The sum of a number in the report over all images.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.items().iter().filter_map(|item| item[name].as_u64()).sum()
    }

    /// Why an image is missing.
    pub(crate) fn reason(&self, repository: &str) -> Option<&str> {
        let of_item = self.items().iter().find(|item| names(destination(item), repository));
        let failed = of_item.and_then(|item| item.pointer("/outcome/failed"));
        let mut unresolved = self.list("/unresolved").iter().filter(|entry| names(&entry.to_string(), repository));
        if self.report.is_null() {
            // `error: Reason: message`, about everything.
            let line = self.err.lines().find_map(|line| line.strip_prefix("error: "));
            return line.and_then(|line| line.split(':').next());
        }
        failed.or_else(|| unresolved.next())?.get("reason")?.as_str()
    }
}

/// Whether a text has a reference to an image of this repository in it.
fn names(text: &str, repository: &str) -> bool {
    [':', '@'].iter().any(|end| text.contains(&format!("/{repository}{end}")))
}

fn destination(item: &Value) -> &str {
    item["destination"].as_str().expect("a destination")
}

/// A running program.
pub(crate) struct Running {
    pub(crate) process: Process,
    out: PathBuf,
}

impl Running {
    /// Waits for its end, and reads what it printed.
    pub(crate) async fn end(mut self) -> Ran {
        let status: ExitStatus = self.process.wait(LONG).await.expect("it ends");
        let err = fs::read_to_string(self.process.stderr()).expect("its log");
        let out = fs::read_to_string(&self.out).expect("its output");
        let report = if out.is_empty() { Value::Null } else { serde_json::from_str(&out).expect("a report") };
        Ran { code: status.code(), report, err }
    }
}

/// From a source to a target, with a proxy before each.
pub(crate) struct Way {
    pub(crate) source: Registry,
    pub(crate) target: Registry,
    pub(crate) from: FaultProxy,
    pub(crate) to: FaultProxy,
    /// Before the token server of the target, if it has one.
    pub(crate) tokens: Option<FaultProxy>,
    /// Hosts that nothing is configured for but plain HTTP.
    pub(crate) others: Vec<FaultProxy>,
    wanted: Vec<Wanted>,
    /// The path in the target below which everything goes.
    below: String,
    turns: usize,
    runs: Cell<usize>,
    folder: RunFolder,
}

/// The header that a login makes.
pub(crate) fn basic(login: &Login) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", login.user, login.password)))
}

/// Whether this is `make faults`, where everything is tried and not a part.
pub(crate) fn thorough() -> bool {
    std::env::var_os("FAULTS").is_some_and(|value| value == "all")
}

/// Whether a scenario that takes long is left to `make faults`; says so.
pub(crate) fn left_out(scenario: &str) -> bool {
    if !thorough() {
        say(&format!("SKIPPED: {scenario} takes long and is part of `make faults`"));
    }
    !thorough()
}

/// Debian's registry, unless it is not to be had.
pub(crate) async fn debian(scenario: &str) -> Option<Options> {
    let found = tokio::task::spawn_blocking(debian_registry).await.expect("it runs");
    if let Err(error) = found {
        say(&format!("SKIPPED: {scenario}, since Debian's docker-registry is not to be had: {error:#}"));
        return None;
    }
    Some(Options::debian("target").basic("pusher", "target-password"))
}

impl Way {
    /// Between two registries of distribution, each with a password of its own.
    pub(crate) async fn start() -> Self {
        Self::to(Options::distribution("target").basic("pusher", "target-password")).await
    }

    /// To a target with tokens.
    pub(crate) async fn with_tokens() -> Self {
        Self::to(Options::distribution("target").token("pusher", "target-password")).await
    }

    /// To such a target.
    pub(crate) async fn to(target: Options) -> Self {
        let source = Options::distribution("source").basic("puller", "source-password");
        let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
        let proxy = |host: &str| FaultProxy::start(host).expect("a proxy");
        let (from, to) = (proxy(&source.host()), proxy(&target.host()));
        let tokens = target.token_server().map(|server| {
            let host = server.realm().trim_start_matches("http://").trim_end_matches("/token").to_owned();
            let before = proxy(&host);
            to.rename(&host, &before.host());
            before
        });
        let folder = RunFolder::create("faults").expect("a folder");
        let (wanted, others, below) = (Vec::new(), Vec::new(), String::new());
        Self { source, target, from, to, tokens, others, wanted, below, turns: 0, runs: Cell::default(), folder }
    }

    /// The harness's access to the source, past the proxy.
    pub(crate) fn at_source(&self) -> Remote {
        self.source.remote().expect("a client")
    }

    /// The harness's access to the target, past the proxy.
    pub(crate) fn at_target(&self) -> Remote {
        self.target.remote().expect("a client")
    }

    /// Puts an image into the source that is to be mirrored; gives the digests of its layers.
    pub(crate) async fn image(&mut self, repository: &str, spec: ImageSpec) -> Vec<String> {
        self.tagged(repository, "v1", spec).await
    }

    /// The same with a tag of one's choice.
    pub(crate) async fn tagged(&mut self, repository: &str, tag: &str, spec: ImageSpec) -> Vec<String> {
        let pushed = self.at_source().push_image(repository, tag, spec).await.expect("an image");
        let manifest = pushed.json().expect("a manifest");
        let layers = manifest["layers"].as_array().expect("layers");
        let sizes = layers.iter().chain([&manifest["config"]]).map(|blob| blob["size"].as_u64().expect("a size"));
        let (size, blobs) = (sizes.sum(), layers.len() + 1);
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        self.wanted.push(Wanted { repository, tag, digest: pushed.digest, size, blobs });
        layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
    }

    /// One image of one layer of this size; gives the layer's digest.
    pub(crate) async fn layer(&mut self, size: u64) -> String {
        self.image("app", ImageSpec::seeded(1).layers(1, size)).await.remove(0)
    }

    /// Some small images.
    pub(crate) async fn small(&mut self, count: u64) {
        for number in 0..count {
            self.image(&format!("app-{number}"), ImageSpec::seeded(100 + number)).await;
        }
    }

    /// Another host with the content of the source, that wants no credentials and must not be given any.
    pub(crate) fn store(&mut self) -> &FaultProxy {
        let store = FaultProxy::start(&self.source.host()).expect("a proxy");
        store.authorize(&basic(self.source.login().expect("a login")));
        self.others.push(store);
        self.others.last().expect("it was put there")
    }

    /// The challenge of the target's token server, with this status.
    pub(crate) fn challenge(&self) -> Reply {
        let realm = self.tokens.as_ref().expect("a token server").host();
        let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"{SERVICE}\"");
        Reply::status(401).header("www-authenticate", &challenge).error("UNAUTHORIZED", "authentication required")
    }

    /// Starts the program.
    pub(crate) fn begin(&self) -> Running {
        let (from, to) = (self.from.host(), self.to.host());
        let names = self.wanted.iter().map(|wanted| format!("  - name: {from}/{}:{}\n", wanted.repository, wanted.tag));
        let text = format!(
            "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\nmirror:\n  additionalImages:\n{}",
            names.collect::<String>()
        );
        let file = self.folder.write("imageset.yaml", text).expect("a file");
        let logins = [(&from, self.source.login()), (&to, self.target.login())];
        let logins: Vec<(&str, &Login)> =
            logins.iter().filter_map(|(host, login)| Some((host.as_str(), (*login)?))).collect();
        let auth = self.folder.write("auth.json", docker_config(&logins)).expect("a file");
        let plain = [&self.from, &self.to].into_iter().chain(&self.tokens).chain(&self.others);
        let name = format!("mirror-{}", self.runs.get());
        self.runs.set(self.runs.get() + 1);
        let program = Program::new(&name, binary().expect("the binary"))
            .args(["mirror", "-o", "json", "-f"])
            .arg(file)
            .args(["--to", format!("{to}/{}", self.below).trim_end_matches('/'), "--authfile"])
            .arg(auth)
            .args(plain.map(|proxy| format!("--tls={}=plain", proxy.host())))
            .env("HOME", &self.folder.path().display().to_string())
            .env("IMAGESET_MIRROR_LOG", "debug");
        let process = Process::spawn(&program, &self.folder.logs()).expect("it starts");
        let out = process.stdout().to_owned();
        Running { process, out }
    }

    /// Runs the program.
    pub(crate) async fn run(&self) -> Ran {
        self.begin().end().await
    }

    /// Runs the program, which has to mirror everything although something is wrong, at no more than this cost.
    pub(crate) async fn survives(&self, extra: Extra) -> Ran {
        let ran = self.run().await;
        assert!(ran.complete() && ran.code == Some(0), "{ran}");
        self.check(&ran, extra).await;
        ran
    }

    /// Ends what is wrong; the next run, without anybody doing anything else, has to mirror everything.
    pub(crate) async fn heals(&self) {
        for proxy in [&self.from, &self.to].into_iter().chain(&self.tokens) {
            proxy.heal();
            proxy.forget();
        }
        self.survives(Extra::default()).await;
    }

    /// What has to be so after every run, whatever went wrong.
    pub(crate) async fn check(&self, ran: &Ran, extra: Extra) {
        self.tags_are_whole().await;
        self.costs_little(extra);
        self.credentials_stay();
        self.report_is_true(ran).await;
    }

    /// No tag of the target names anything that is not there, the program's own record included.
    pub(crate) async fn tags_are_whole(&self) {
        let target = self.at_target();
        // What the registry itself says may be late; what was asked of it is known.
        let asked = self.to.seen();
        let mut repositories: BTreeSet<&str> = asked.iter().filter_map(Seen::repository).collect();
        let state = self.there(STATE);
        repositories.insert(&state);
        for repository in repositories {
            walk_tags(&target, repository).await.unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    /// Bytes and requests beyond the least are no more than these, and those beyond the least stay within it.
    fn costs_little(&self, extra: Extra) {
        let size: u64 = self.wanted.iter().map(|wanted| wanted.size).sum();
        let blobs: usize = self.wanted.iter().map(|wanted| wanted.blobs).sum();
        let read: u64 = self.from.of(Kind::GetBlob).iter().map(|seen| seen.down).sum();
        assert!(read <= size + extra.read, "{read} bytes read of {size}, {extra:?}");
        let state = self.there(STATE);
        let to_images = |seen: &&Seen| seen.repository() != Some(&state);
        let uploads = [Kind::PutUpload, Kind::PatchUpload].map(|kind| self.to.of(kind)).concat();
        let sent: u64 = uploads.iter().filter(to_images).map(|seen| seen.up).sum();
        assert!(sent <= size + extra.sent, "{sent} bytes sent of {size}, {extra:?}");
        // Manifest, signature and referrers; look, begin, send.
        let most = OVERHEAD + 6 * self.wanted.len() + 4 * blobs + extra.requests;
        for (side, proxy) in [("source", &self.from), ("target", &self.to)] {
            let count = proxy.seen().len();
            assert!(count <= most, "{count} requests to the {side}, {most} at most: {:#?}", proxy.seen());
        }
    }

    /// Nobody sees credentials that are another's.
    fn credentials_stay(&self) {
        let brought = |proxy: &FaultProxy| -> Vec<String> {
            proxy.seen().into_iter().filter_map(|seen| seen.authorization).collect()
        };
        for (registry, proxy) in [(&self.source, &self.from), (&self.target, &self.to)] {
            let own = registry.login().map(basic);
            for found in brought(proxy) {
                let token = registry.token_server().is_some() && found.starts_with("Bearer ");
                assert!(token || Some(&found) == own.as_ref(), "{} was sent `{found}`", proxy.host());
            }
        }
        let own = self.target.login().map(basic);
        for found in self.tokens.iter().flat_map(&brought) {
            assert_eq!(Some(&found), own.as_ref(), "the token server");
        }
        for other in &self.others {
            assert_eq!(brought(other), Vec::<String>::new(), "a host that nothing is configured for");
        }
    }

    /// Complete if and only if every image is there by its digest, and every missing one has a reason.
    async fn report_is_true(&self, ran: &Ran) {
        let (target, mut missing) = (self.at_target(), 0);
        for wanted in &self.wanted {
            let there = target.digest(&self.there(&wanted.repository), &wanted.tag).await.expect("an answer");
            let is_there = there.as_ref() == Some(&wanted.digest);
            let name = format!("/{}:{}", wanted.repository, wanted.tag);
            let item = ran.items().iter().find(|item| destination(item).ends_with(&name));
            let done = item.is_some_and(|item| item["outcome"] == "copied" || item["outcome"] == "present");
            assert!(!done || is_there, "{} is said to be there: {ran}", wanted.repository);
            if !is_there {
                missing += 1;
                assert!(ran.reason(&wanted.repository).is_some(), "no reason for {}: {ran}", wanted.repository);
            }
        }
        assert!(!ran.complete() || missing == 0, "complete, with {missing} missing: {ran}");
    }

    /// Where a repository goes in the target.
    fn there(&self, repository: &str) -> String {
        format!("{}{repository}", self.below)
    }

    /// Mirrors to a place of the target where nothing is yet, from now on.
    pub(crate) fn anew(&mut self) {
        self.turns += 1;
        self.below = format!("turn-{}/", self.turns);
    }

    /// Both sides hold the same.
    pub(crate) async fn is_equal(&self) {
        let (source, target) = (self.at_source(), self.at_target());
        for wanted in &self.wanted {
            let there = source.walk(&wanted.repository, &wanted.tag).await.expect("the source is whole");
            let here = self.there(&wanted.repository);
            let here = target.walk(&here, &wanted.tag).await.expect("the target is whole");
            assert_eq!(here, there, "{}", wanted.repository);
        }
    }

    /// How many images are to be mirrored.
    pub(crate) fn images(&self) -> usize {
        self.wanted.len()
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:#}\n{}", self.code, self.report, self.err)
    }
}

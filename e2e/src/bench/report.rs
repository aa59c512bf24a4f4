//! The tables: medians, ratios, and what of the goals is met.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::contender::Contender;
use super::{Content, LIMIT, Measured, REFUSED, Row, Sample, Variant};

/// The median of what counts.
struct Median {
    wall: f64,
    cpu: f64,
    mebibytes: f64,
    source: usize,
    target: usize,
    connections: usize,
    sent_twice: usize,
    /// Requests by kind, of the last run.
    kinds: [BTreeMap<&'static str, usize>; 2],
}

impl Median {
    fn of(samples: &[Sample]) -> Option<Self> {
        let good: Vec<&Sample> = samples.iter().filter(|sample| sample.void.is_none()).collect();
        let last = good.last()?;
        let count = |of: fn(&Sample) -> usize| middle(good.iter().map(|sample| of(sample)).collect());
        let number = |of: fn(&Sample) -> f64| {
            let mut numbers: Vec<f64> = good.iter().map(|sample| of(sample)).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Some(Self {
            wall: number(|sample| sample.cost.wall),
            cpu: number(|sample| sample.cost.cpu),
            mebibytes: number(|sample| mebibytes(sample.cost.bytes)),
            source: count(|sample| sample.source.values().sum()),
            target: count(|sample| sample.target.values().sum()),
            connections: count(|sample| sample.connections),
            sent_twice: count(|sample| sample.sent_twice),
            kinds: [last.source.clone(), last.target.clone()],
        })
    }

    fn requests(&self) -> usize {
        self.source + self.target
    }
}

fn middle(mut numbers: Vec<usize>) -> usize {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn ratio(ours: usize, theirs: usize) -> f64 {
    ours as f64 / theirs as f64
}

/// A goal of the engine: our share of what a peer needs.
struct Goal {
    what: &'static str,
    row: (Content, Variant, bool),
    measure: fn(&Median, &Median) -> f64,
    /// Limits for oc-mirror's copy path, regsync, crane, skopeo and oras.
    limits: [f64; 5],
}

const AGAINST: [Contender; 5] =
    [Contender::OcMirror, Contender::Regsync, Contender::Crane, Contender::Skopeo, Contender::Oras];

const FRESH: (Content, Variant, bool) = (Content::Images, Variant::Plain, false);
const AGAIN: (Content, Variant, bool) = (Content::Images, Variant::Plain, true);

fn goals() -> [Goal; 6] {
    let requests = |ours: &Median, theirs: &Median| ratio(ours.requests(), theirs.requests());
    let wall = |ours: &Median, theirs: &Median| ours.wall / theirs.wall;
    let cpu = |ours: &Median, theirs: &Median| ours.cpu / theirs.cpu;
    let far = (Content::Images, Variant::Far, false);
    [
        Goal { what: "requests, (b)", row: FRESH, measure: requests, limits: [0.50, 0.54, 0.45, 0.48, 0.58] },
        Goal { what: "requests, (c)", row: AGAIN, measure: requests, limits: [0.085, 0.50, 0.25, 0.20, 0.34] },
        Goal { what: "time, (b)", row: FRESH, measure: wall, limits: [0.50, 0.50, 0.35, 0.30, 0.45] },
        Goal { what: "time, (b), far", row: far, measure: wall, limits: [0.20, 0.45, 0.38, 0.06, 0.32] },
        Goal { what: "time, (c)", row: AGAIN, measure: wall, limits: [0.05, 0.40, 0.06, 0.06, 0.08] },
        Goal { what: "processors, (b)", row: FRESH, measure: cpu, limits: [0.33, 0.40, 0.22, 0.22, 0.35] },
    ]
}

/// Everything as a page.
pub(super) fn markdown(measured: &Measured) -> String {
    let medians: BTreeMap<Row, Option<Median>> =
        measured.samples.iter().map(|(row, samples)| (*row, Median::of(samples))).collect();
    let mut text = "# What copying costs: `make bench`\n\n".to_owned();
    text.push_str(&machine());
    write!(
        text,
        "Medians of {} runs; {} images in (b), (c) and (r), {} indexes of four platforms in (i), one layer of {} MiB in \
         (a). Each run has a fresh CNCF distribution as target; registries have their stores in memory, cache descriptors \
         and run with GOGC=400; what contenders keep is on a disk. Ratios are ours ÷ theirs: below 1 is better. Memory of \
         what runs as several processes is the sum of the largest that can run together. A run that misses an image is \
         void.\n\n",
        measured.runs,
        measured.images,
        (measured.images / 10).max(1),
        measured.mebibytes
    )
    .ok();
    text.push_str("| contender | version |\n| --- | --- |\n");
    for contender in medians.keys().map(|row| row.contender).collect::<std::collections::BTreeSet<_>>() {
        writeln!(text, "| {} | {} |", contender.name(), contender.version()).ok();
    }
    for (contender, reason) in &measured.skipped {
        writeln!(text, "| {} | SKIPPED: {reason} |", contender.name()).ok();
    }
    text.push('\n');
    if measured.images != 200 {
        text.push_str("The goals are meant for 200 images.\n\n");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let gigabytes = (measured.mebibytes << 20) as f64 / 1e9;
    text.push_str(&check(&medians, measured.images, gigabytes));
    let mut tables: Vec<(Content, Variant, bool)> =
        medians.keys().map(|row| (row.content, row.variant, row.again)).collect();
    tables.dedup();
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        text.push_str(&rows(measured, &medians, table));
    }
    text.trim_end().to_owned() + "\n"
}

fn find(
    medians: &BTreeMap<Row, Option<Median>>,
    (content, variant, again): (Content, Variant, bool),
    contender: Contender,
) -> Option<&Median> {
    medians.get(&Row { content, variant, again, contender })?.as_ref()
}

/// The goals, and what is missed by how much.
fn check(medians: &BTreeMap<Row, Option<Median>>, images: usize, gigabytes: f64) -> String {
    let mut text = "## Goals\n\n| goal | limit | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    let mut line = |what: String, limit: f64, found: Option<f64>| {
        let verdict = match found {
            None => "not measured".to_owned(),
            Some(found) if found <= limit => "met".to_owned(),
            Some(found) if limit == 0.0 => format!("**missed by {found}**"),
            Some(found) if found < limit * 1.01 => format!("**missed by {:.1} %**", (found / limit - 1.0) * 100.0),
            Some(found) => format!("**missed by {:.0} %**", (found / limit - 1.0) * 100.0),
        };
        let found = found.map_or_else(|| "–".to_owned(), |found| format!("{found:.3}"));
        // Writing into a string does not fail.
        writeln!(text, "| {what} | {limit} | {found} | {verdict} |").ok();
    };
    for goal in goals() {
        for (peer, limit) in AGAINST.into_iter().zip(goal.limits) {
            let pair = (find(medians, goal.row, Contender::Ours), find(medians, goal.row, peer));
            let found = pair.0.zip(pair.1).map(|(ours, theirs)| (goal.measure)(ours, theirs));
            line(format!("{} ÷ {}", goal.what, peer.name()), limit, found);
        }
    }
    let of = |row, value: fn(&Median) -> f64| find(medians, row, Contender::Ours).map(value);
    let big = |variant| (Content::Big, variant, false);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let number = |count: usize| count as f64;
    if let Some(first) = find(medians, FRESH, Contender::Ours) {
        // Three of five layers are shared by ten images; a config each.
        let blobs = images * 2 + (images * 3 / 10).max(3) + images;
        let [source, target] = &first.kinds;
        let state = target.get("state").copied().unwrap_or_default();
        line("source requests, (b)".to_owned(), number(images + blobs), Some(number(source.values().sum())));
        let limit = 2 * images + 2 * blobs + (images * 6 - blobs);
        let told = "target requests, (b), without those about what was mirrored".to_owned();
        line(told, number(limit), Some(number(target.values().sum::<usize>() - state)));
        line("blobs sent twice, (b)".to_owned(), 0.0, Some(number(first.sent_twice)));
        let again = find(medians, AGAIN, Contender::Ours).map(|median| number(median.requests()));
        line("requests, (c)".to_owned(), number(images), again);
    }
    if let Some(limited) = find(medians, (Content::Images, Variant::Limited, false), Contender::Ours) {
        let [_, target] = &limited.kinds;
        let refused = target.get(REFUSED).copied().unwrap_or_default();
        let taken = limited.target - refused;
        line(
            "requests refused of those that a limited target takes, (b)".to_owned(),
            0.01,
            Some(ratio(refused, taken)),
        );
        let ideal = number(taken) / f64::from(LIMIT);
        line("time ÷ what a limited target allows, (b)".to_owned(), 1.5, Some(limited.wall / ideal));
    }
    line("peak memory of (a), MiB".to_owned(), 32.0, of(big(Variant::Plain), |median| median.mebibytes));
    line("peak memory of (b), MiB".to_owned(), 32.0, of(FRESH, |median| median.mebibytes));
    for (variant, limit) in [(Variant::Plain, 1.2), (Variant::Tls, 1.9)] {
        let cpu = of(big(variant), |median| median.cpu).map(|cpu| cpu / gigabytes);
        line(format!("processor seconds for each GB of (a), {variant:?}"), limit, cpu);
    }
    text.push('\n');
    text
}

fn rows(measured: &Measured, medians: &BTreeMap<Row, Option<Median>>, table: (Content, Variant, bool)) -> String {
    let (content, variant, again) = table;
    let what = match (content, again) {
        (Content::Big, _) => "(a) one large layer",
        (Content::Images, false) => "(b) a repository for each image",
        (Content::Images, true) => "(c) the same again, with nothing to do",
        (Content::Release, false) => "(r) one repository",
        (Content::Release, true) => "(r) again, with nothing to do",
        (Content::Indexes, false) => "(i) indexes",
        (Content::Indexes, true) => "(i) again, with nothing to do",
    };
    let over = match variant {
        Variant::Plain => "loopback",
        Variant::Tls => "loopback, TLS on both sides",
        Variant::Far => "20 ms to the source and back, 5 ms to the target",
        Variant::Narrow => "50 MiB/s on each side",
        Variant::Limited => "a target that takes 200 requests a second",
    };
    let mut text = format!(
        "## {what}: {over}\n\n| | wall s | CPU s | peak MiB | requests source + target | connections | sent twice | ratio of \
         wall | of CPU | of memory | of requests |\n|{}\n",
        " --- |".repeat(11)
    );
    let ours = find(medians, table, Contender::Ours);
    let mut kinds = String::new();
    for (row, median) in medians.iter().filter(|(row, _)| (row.content, row.variant, row.again) == table) {
        let name = row.contender.name();
        let void = measured.samples.get(row).map_or(0, |all| all.iter().filter(|one| one.void.is_some()).count());
        let Some(median) = median else {
            writeln!(text, "| {name} | void: all {void} runs missed something |{}", " – |".repeat(9)).ok();
            continue;
        };
        let name = if void > 0 { format!("{name} ({void} runs void)") } else { name.to_owned() };
        let ratios = ours.filter(|_| row.contender != Contender::Ours).map_or_else(
            || " |".repeat(4),
            |ours| {
                let all = [
                    ours.wall / median.wall,
                    ours.cpu / median.cpu,
                    ours.mebibytes / median.mebibytes,
                    ratio(ours.requests(), median.requests()),
                ];
                all.iter().fold(String::new(), |text, ratio| text + &format!(" {ratio:.3} |"))
            },
        );
        writeln!(
            text,
            "| {name} | {:.2} | {:.2} | {:.1} | {} + {} | {} | {} |{ratios}",
            median.wall,
            median.cpu,
            median.mebibytes,
            median.source,
            median.target,
            median.connections,
            median.sent_twice
        )
        .ok();
        let list = |kinds: &BTreeMap<&str, usize>| {
            let list: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
        };
        let [source, target] = &median.kinds;
        writeln!(kinds, "- {name}: source {}; target {}", list(source), list(target)).ok();
    }
    format!("{text}\nRequests by kind:\n\n{kinds}\n")
}

/// The machine, as far as it matters.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&meminfo, "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default() >> 20;
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "Machine: {}, {cores} cores, {memory} GiB of memory, Linux {}; load of the machine at the end {load}, of which the \
         benchmark itself makes 2 to 3: with more, others were at work, and times are worth less than ratios.\n\n",
        field(&cpuinfo, "model name"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

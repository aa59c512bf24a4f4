//! The parts of the end-to-end suite by hand: build them, start them, watch the operator use them.

use std::future::pending;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use e2e::cluster::{Cluster, OpenShiftKind};
use e2e::layout::Place;
use e2e::node::Node;
use e2e::registry::Registry;
use e2e::world::Setup;
use e2e::{argocd, manifests, tools};

mod bench;
mod demo;
mod make_image;
mod rest;
mod takeover;

#[derive(Parser)]
#[command(about = "The parts of the end-to-end suite, by hand")]
struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build every program of the scenarios that is not in the cache
    Tools {
        /// Build Argo CD for its own suite instead.
        #[arg(long)]
        argocd: bool,
        /// Only see whether there is a redis for Argo CD, or fetch it.
        #[arg(long, conflicts_with = "argocd")]
        redis: bool,
    },
    /// Write the files that are generated from the chart
    Manifests {
        /// Only compare them with what is there.
        #[arg(long)]
        check: bool,
    },
    /// Write one file that installs everything with kubectl
    InstallYaml {
        /// Where to.
        file: PathBuf,
    },
    /// Build the operator's image as an OCI layout in target/image
    Image {
        /// Push it there with the built operator.
        #[arg(long, value_name = "HOST/NAME:TAG")]
        push: Option<Place>,
        /// More flags of `imageset-mirror mirror`, after `--`.
        #[arg(last = true, requires = "push", value_name = "FLAG")]
        flags: Vec<String>,
    },
    /// Start a cluster and two registries, and keep them until Ctrl-C
    Up {
        /// With a real node, on which pods run.
        #[arg(long)]
        node: bool,
    },
    /// Mirror images into a registry with the real operator; with KEEP=1 everything stays up until Ctrl-C
    Demo,
    /// Measure ours and its peers side by side; the whole takes about an hour
    Bench(bench::BenchArgs),
    /// Measure what it costs to check many images that are all there
    BenchRecheck {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        images: usize,
    },
    /// Measure what a plan of images costs that are all there, and commands that only print
    BenchPlan {
        /// How many.
        #[arg(long, default_value_t = 2_000)]
        images: usize,
    },
    /// Measure one layer that never touches a disk
    BenchHuge {
        /// How large, in MiB.
        #[arg(long, default_value_t = 10 * 1024)]
        mebibytes: u64,
    },
    /// Measure what it costs to cut a large catalog down, beside what opm needs to read it
    BenchCatalog {
        /// How often each; medians are shown.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// The process between the benchmark and what it measures
    #[command(hide = true)]
    Launch,
    /// Measure what the operator costs with many complete objects
    Rest {
        /// How many.
        #[arg(long, default_value_t = 100)]
        objects: usize,
    },
    /// Measure how long the work rests when the leader of two replicas is killed, or asked to end
    Takeover {
        /// How often.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tools::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(action: &Action) -> Result<()> {
    match action {
        Action::Tools { redis: true, .. } => tools::redis().map(|(program, _)| print(&program.display().to_string())),
        Action::Tools { argocd, redis: false } => {
            if *argocd {
                argocd::ensure()?;
            } else {
                tools::ensure_all()?;
                match Node::available() {
                    Ok(()) => tools::ensure_node()?,
                    Err(reason) => tools::say(&format!("SKIPPED: the programs of a node, since {reason}")),
                }
            }
            print(&format!("all programs are in {}", tools::cache()?.join("tools").display()));
            Ok(())
        }
        Action::Manifests { check: true } => manifests::check(),
        Action::Manifests { check: false } => manifests::write(),
        Action::InstallYaml { file } => {
            std::fs::write(file, manifests::install_yaml()?).with_context(|| format!("writing {}", file.display()))
        }
        Action::Image { push, flags } => make_image::run(push.as_ref(), flags),
        Action::Up { node } => with_servers(up(*node)),
        Action::Demo => with_servers(demo::run()),
        Action::Bench(args) => with_operator(bench::run(args)),
        Action::BenchRecheck { images } => with_operator(bench::recheck(*images)),
        Action::BenchPlan { images } => with_operator(bench::plan(*images)),
        Action::BenchHuge { mebibytes } => with_operator(bench::huge(*mebibytes)),
        Action::BenchCatalog { runs } => with_operator(bench::catalog(*runs)),
        Action::Launch => bench::launch(),
        Action::Rest { objects } => with_servers(rest::run(*objects)),
        Action::Takeover { rounds } => with_servers(takeover::run(*rounds)),
    }
}

/// Runs what needs the built operator, and starts servers.
fn with_operator(work: impl Future<Output = Result<()>>) -> Result<()> {
    build_operator()?;
    with_servers(work)
}

/// Runs what starts servers. Ctrl-C drops the work, and with it every process and folder.
fn with_servers(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C"),
        }
    })
}

async fn up(node: bool) -> Result<()> {
    tokio::task::spawn_blocking(tools::ensure_all).await??;
    tools::say(STARTING);
    let (cluster, source, target) = Setup { node, ..setup() }.start().await?;
    describe(&cluster, &source, &target);
    print("Ctrl-C ends everything");
    pending().await
}

const STARTING: &str = "starting etcd, kube-apiserver, kube-controller-manager and two registries";

/// What `up` and `demo` start.
fn setup() -> Setup {
    Setup { kinds: OpenShiftKind::ALL.to_vec(), ..Setup::default() }
}

fn describe(cluster: &Cluster, source: &Registry, target: &Registry) {
    print(&format!("export KUBECONFIG={}", cluster.kubeconfig().display()));
    if let Some(node) = cluster.node() {
        print(&format!("node: {}", node.run().path().display()));
    }
    for (name, registry) in [("source", source), ("target", target)] {
        if let Some(login) = registry.login() {
            print(&format!("{name} registry: {} as {} / {}", registry.url(), login.user, login.password));
        }
    }
}

/// Builds the operator, unless `IMAGESET_MIRROR_BIN` names one.
fn build_operator() -> Result<()> {
    if std::env::var_os("IMAGESET_MIRROR_BIN").is_some() {
        return Ok(());
    }
    tools::say("building the operator (cargo build --release), some minutes the first time");
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--bin", "imageset-mirror"]);
    let status = command.current_dir(e2e::operator::repository()).status().context("running cargo")?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(())
}

fn print(text: &str) {
    // Nobody reads it: then nobody needs it.
    drop(writeln!(std::io::stdout(), "{text}"));
}

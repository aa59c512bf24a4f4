//! The command line: what the user typed ([`Args`]) becomes what the program needs, one file per command.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::telemetry::Format;

mod catalog;
mod check;
mod containerd_hosts;
mod convert;
mod input;
mod mirror;
mod output;
mod plan;
mod progress;
mod status;

/// Everything is in the target.
pub const DONE: u8 = 0;
/// Something failed.
pub const FAILED: u8 = 1;
/// The input is wrong; nothing was done.
pub const BAD_INPUT: u8 = 2;

/// Mirrors OpenShift content and images into your registry, from the command line or as a Kubernetes operator.
#[derive(Debug, Parser)]
#[command(name = "imageset-mirror", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Least severe messages that are written: error, warn, info, debug, trace, or a filter per module. Default: info.
    #[arg(long, global = true, env = "IMAGESET_MIRROR_LOG", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Form of log lines: json for machines, text for people. Default: json for `controller`, text otherwise.
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<Format>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Controller(Box<ControllerArgs>),
    /// Run one sync without a cluster.
    Mirror(MirrorArgs),
    /// Show what a sync would do; copies nothing.
    Plan(PlanArgs),
    /// Work with catalogs of operators.
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Print what an oc-mirror file does as an `ImageSetMirror` manifest.
    Convert(ConvertArgs),
    /// Show what the objects of a cluster are doing.
    Status(StatusArgs),
    /// Print the custom resource definition as YAML.
    Crd,
    /// Check, in the cluster, that everything the operator needs is there.
    Check(CheckArgs),
    /// Bring the files that an object publishes for containerd to the node that this runs on.
    ContainerdHosts(ContainerdHostsArgs),
}

/// Flags of `controller`.
#[derive(Debug, clap::Args)]
pub struct ControllerArgs {
    /// Namespace whose objects are watched; repeatable. Default: the operator's own.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// Namespace whose objects may write cluster-wide objects; repeatable, `none` for no namespace. Default: the operator's own.
    #[arg(long = "cluster-output-namespace", value_name = "NAMESPACE")]
    pub cluster_output_namespaces: Vec<String>,
    /// The operator's own namespace: where its lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "imageset-mirror")]
    pub namespace: String,
    /// The name of this process among its replicas.
    #[arg(long, env = "POD_NAME", default_value = "imageset-mirror")]
    pub pod_name: String,
    /// Where metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub metrics_addr: SocketAddr,
    /// Where probes are served.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub probe_addr: SocketAddr,
    /// Whether replicas elect the one that works, with a Lease. If not, two must never run at the same time.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// Name of the Lease that replicas elect their leader with.
    #[arg(long, default_value = "imageset-mirror", value_name = "NAME")]
    pub lease_name: String,
    /// How long a leader that is not heard of keeps its place.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub lease_duration: Duration,
    /// How long a leader that cannot renew goes on.
    #[arg(long, default_value = "40s", value_parser = duration, value_name = "DURATION")]
    pub renew_deadline: Duration,
    /// How often the lease is renewed or tried for.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub retry_period: Duration,
    /// Syncs at the same time; others wait with reason `Queued`.
    #[arg(long, default_value = "4", value_name = "N")]
    pub max_syncs: NonZeroUsize,
    /// Bulk transfers to or from one host at the same time, all objects together. Default: as the registries' limits allow.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Bytes per second, all objects together. Default: no limit.
    #[arg(long, value_name = "N")]
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// How often it is looked whether the cluster has got OpenShift's kinds.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub kinds_period: Duration,
    /// Least time between two syncs of an object that are asked for by annotation.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub sync_gap: Duration,
    /// Where the graph of updates is asked for if an object does not say. Default: the public service.
    #[arg(long, env = "UPDATE_URL_OVERRIDE", value_name = "URL")]
    pub update_service: Option<String>,
    /// A store of release signatures in place of the public ones if an object names none; repeatable, asked in this order.
    #[arg(long = "signature-store", env = "OCP_SIGNATURE_URL", value_name = "URL")]
    pub signature_stores: Vec<String>,
    /// The program that renders Helm charts. Default: `helm` on `PATH`.
    #[arg(long, env = "IMAGESET_MIRROR_HELM", value_name = "FILE")]
    pub helm: Option<PathBuf>,
    /// Time between the signal to stop and the end: running transfers may finish until 15 seconds before.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub grace_period: Duration,
}

/// Flags that every command with a FILE has.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// An `ImageSetMirror` manifest or an oc-mirror `ImageSetConfiguration`.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// The target, host and optional path. Needed for an `ImageSetConfiguration`.
    #[arg(long, value_name = "HOST[/PATH]")]
    pub to: Option<String>,
    /// Credentials of both sides: a containers auth file. Default: the usual places.
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Certificates in PEM to trust in addition to the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How a host is reached: HOST=verify, HOST=skip-verify or HOST=plain; repeatable.
    #[arg(long, value_name = "HOST=MODE")]
    pub tls: Vec<String>,
    /// Pull what is below SOURCE from MIRROR instead; repeatable.
    #[arg(long = "override", value_name = "SOURCE=MIRROR")]
    pub overrides: Vec<String>,
    /// Bulk transfers at the same time.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Bytes per second.
    #[arg(long, value_name = "N")]
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Whether signatures and OCI referrers travel along. Default: copy.
    #[arg(long, value_enum)]
    pub attachments: Option<AttachmentsArg>,
    /// Whether Helm charts themselves are copied, or only the images in them. Default: copy.
    #[arg(long, value_enum)]
    pub charts: Option<ChartsArg>,
    /// The program that renders Helm charts. Default: `helm` on `PATH`.
    #[arg(long, env = "IMAGESET_MIRROR_HELM", value_name = "FILE")]
    pub helm: Option<PathBuf>,
    /// Where the graph of updates is asked for. Default: `UPDATE_URL_OVERRIDE`, or the public service.
    #[arg(long, value_name = "URL")]
    pub update_service: Option<String>,
    /// A store of release signatures in place of the public ones; repeatable, asked in this order. Default:
    /// `OCP_SIGNATURE_URL`, or the public stores.
    #[arg(long = "signature-store", value_name = "URL")]
    pub signature_stores: Vec<String>,
    /// `OpenPGP` keys, in ASCII armor, that release signatures are checked with. Default: `OCP_SIGNATURE_VERIFICATION_PK`, or
    /// the keys of Red Hat, which an empty file means, too.
    #[arg(long, value_name = "FILE")]
    pub signature_key: Option<PathBuf>,
}

/// Whether attachments travel along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachmentsArg {
    /// They do.
    Copy,
    /// They do not.
    Skip,
}

/// Whether charts are copied beside their images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChartsArg {
    /// They are.
    Copy,
    /// They are not.
    Skip,
}

/// Flags of `mirror`.
#[derive(Debug, clap::Args)]
pub struct MirrorArgs {
    /// What, where to, and how.
    #[command(flatten)]
    pub file: FileArgs,
    /// Directory for the cluster resources as YAML; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Form of the result.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = MirrorOutput::Text)]
    pub output: MirrorOutput,
}

/// Form of the result of `mirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MirrorOutput {
    /// For people.
    Text,
    /// For machines: one JSON document on standard output.
    Json,
}

/// Flags of `plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// What, where to, and how.
    #[command(flatten)]
    pub file: FileArgs,
    /// Form of the result.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = PlanOutput::Table)]
    pub output: PlanOutput,
}

/// Form of the result of `plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanOutput {
    /// For people.
    Table,
    /// For machines: one JSON document.
    Json,
    /// One line `docker://SOURCE=docker://DESTINATION` an entry, sorted.
    Mapping,
    /// A graph for Graphviz: what is copied, and what must be complete before it.
    Dot,
}

/// What to do with a catalog.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Print what is left of a file-based catalog, one JSON document a line, sorted.
    Filter(FilterArgs),
}

/// Flags of `catalog filter`.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// An `ImageSetMirror` manifest or an oc-mirror `ImageSetConfiguration`.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// The entry of `operators`, by its catalog. Default: the only one.
    #[arg(long, value_name = "IMAGE")]
    pub catalog: Option<String>,
    /// The folder with the catalog, such as a copy of `/configs` of its image.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Flags of `convert`.
#[derive(Debug, clap::Args)]
pub struct ConvertArgs {
    /// An oc-mirror `ImageSetConfiguration`, of version 2 or 1.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// The target, host and optional path.
    #[arg(long, value_name = "HOST[/PATH]")]
    pub to: String,
}

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The object. Default: all of the namespace.
    pub name: Option<String>,
    /// The namespace. Default: the one of the current context.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Show it again after each change, until ended.
    #[arg(short = 'w', long)]
    pub watch: bool,
}

/// Flags of `check`; what `controller` has too means the same.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The operator's own namespace: where its lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "imageset-mirror")]
    pub namespace: String,
    /// Namespace whose objects are watched; repeatable. Default: the operator's own.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// What the operator writes to the cluster: imagedigestmirrorsets, imagetagmirrorsets, releasesignatures, updateservices;
    /// repeatable, `none` for nothing. Default: the first two.
    #[arg(long = "output", value_name = "RESOURCE")]
    pub outputs: Vec<String>,
    /// Secret that the operator may read; repeatable. Default: every Secret of the watched namespaces.
    #[arg(long = "secret", value_name = "NAME")]
    pub secrets: Vec<String>,
    /// Whether replicas elect the one that works, with a Lease.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// Name of the Lease that replicas elect their leader with.
    #[arg(long, default_value = "imageset-mirror", value_name = "NAME")]
    pub lease_name: String,
    /// Where the operator says that it is ready, such as <http://imageset-mirror:8081/readyz>. Default: not asked.
    #[arg(long, value_name = "URL")]
    pub ready_url: Option<url::Url>,
}

/// Flags of `containerd-hosts`.
#[derive(Debug, clap::Args)]
pub struct ContainerdHostsArgs {
    /// Namespace of the objects.
    #[arg(long, default_value = "imageset-mirror")]
    pub namespace: String,
    /// `ImageSetMirror` whose files are wanted; repeatable.
    #[arg(long = "object", value_name = "NAME", required = true)]
    pub objects: Vec<String>,
    /// The folder that containerd looks into: `config_path` of its registry settings.
    #[arg(long, default_value = "/etc/containerd/certs.d", value_name = "DIR")]
    pub to: PathBuf,
    /// How often it is looked for changes. Default: once, and then it ends.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub every: Option<Duration>,
}

/// Reads a duration in Go's form, such as `90s` or `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration =
        text.parse().map_err(|error| format!("{error}; write for example 90s or 1m30s"))?;
    Ok(parsed.into())
}

/// Ends a command before it begins: tells what is wrong with the input.
pub fn refuse(text: &str) -> ExitCode {
    ExitCode::from(output::refuse(&[text.to_owned()]))
}

/// Runs a command other than `controller`.
pub async fn run(command: Command) -> ExitCode {
    let code = match command {
        Command::Mirror(args) => mirror::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Catalog(command) => catalog::run(&command),
        Command::Convert(args) => convert::run(&args),
        Command::Status(args) => status::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::ContainerdHosts(args) => containerd_hosts::run(args).await,
        Command::Crd => output::print(&crate::api::crd::crd_yaml()),
        Command::Controller(_) => BAD_INPUT,
    };
    ExitCode::from(code)
}

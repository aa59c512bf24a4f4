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
mod examples;
mod generated;
mod input;
mod kustomization;
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
#[command(name = "imageset-mirror", version, max_term_width = 100, disable_help_flag = true)]
#[command(after_help = examples::PROGRAM)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Least severe messages that are written, such as warn.
    ///
    /// One of error, warn, info, debug and trace, or a filter per module. Default: info.
    #[arg(
        long,
        global = true,
        env = "IMAGESET_MIRROR_LOG",
        value_name = "LEVEL",
        hide_env = true,
        display_order = 900
    )]
    pub log_level: Option<String>,
    /// Form of log lines: json for machines, text for people.
    ///
    /// Default: json for `controller`, text otherwise.
    #[arg(long, global = true, value_enum, value_name = "FORM", hide_possible_values = true, display_order = 900)]
    pub log_format: Option<Format>,
    /// Print this; `imageset-mirror help COMMAND` has all details.
    #[arg(short, long, global = true, action = ArgAction::HelpShort, display_order = 901)]
    help: Option<bool>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    #[command(after_help = examples::CONTROLLER)]
    Controller(Box<ControllerArgs>),
    /// Run one sync without a cluster.
    #[command(after_help = examples::MIRROR)]
    Mirror(MirrorArgs),
    /// Show what a sync would do; copies nothing.
    #[command(after_help = examples::PLAN)]
    Plan(PlanArgs),
    /// Work with catalogs of operators.
    #[command(subcommand, after_help = examples::CATALOG)]
    Catalog(CatalogCommand),
    /// Print what an oc-mirror file does as an `ImageSetMirror` manifest.
    #[command(after_help = examples::CONVERT)]
    Convert(ConvertArgs),
    /// Show what the objects of a cluster are doing.
    #[command(after_help = examples::STATUS)]
    Status(StatusArgs),
    /// Print the custom resource definition as YAML.
    #[command(after_help = examples::CRD)]
    Crd,
    /// Check, in the cluster, that everything the operator needs is there.
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Bring the files that an object publishes for containerd to the node that this runs on.
    #[command(after_help = examples::CONTAINERD_HOSTS)]
    ContainerdHosts(ContainerdHostsArgs),
    /// Print completions for a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print a manual page.
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
}

/// Flags of `controller`.
#[derive(Debug, clap::Args)]
pub struct ControllerArgs {
    /// Namespace whose objects are watched; repeatable.
    ///
    /// Default: the operator's own.
    #[arg(long = "watch-namespace", value_name = "NS")]
    pub watch_namespaces: Vec<String>,
    /// Namespace whose objects may write cluster-wide ones.
    ///
    /// Repeatable, `none` for no namespace. Default: the operator's own.
    #[arg(long = "cluster-output-namespace", value_name = "NS")]
    pub cluster_output_namespaces: Vec<String>,
    /// The operator's own namespace, with its lease.
    ///
    /// Also by the variable `POD_NAMESPACE`.
    #[arg(long, env = "POD_NAMESPACE", default_value = "imageset-mirror", value_name = "NS", hide_env = true)]
    pub namespace: String,
    /// The name of this process among its replicas.
    ///
    /// Also by the variable `POD_NAME`.
    #[arg(long, env = "POD_NAME", default_value = "imageset-mirror", value_name = "NAME", hide_env = true)]
    pub pod_name: String,
    /// Where metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub metrics_addr: SocketAddr,
    /// Where probes are served.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub probe_addr: SocketAddr,
    /// Whether replicas elect the one that works.
    ///
    /// They do so with a Lease. If not, two must never run at the same time.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL", hide_possible_values = true)]
    pub leader_elect: bool,
    /// The Lease that they do so with.
    #[arg(long, default_value = "imageset-mirror", value_name = "NAME")]
    pub lease_name: String,
    /// How long a silent leader keeps its place.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub lease_duration: Duration,
    /// How long a leader that cannot renew goes on.
    #[arg(long, default_value = "40s", value_parser = duration, value_name = "TIME")]
    pub renew_deadline: Duration,
    /// How often the lease is renewed or tried for.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub retry_period: Duration,
    /// Syncs at the same time; others are `Queued`.
    #[arg(long, default_value = "4", value_name = "N")]
    pub max_syncs: NonZeroUsize,
    /// Bulk transfers to or from one host at the same time.
    ///
    /// All objects together. Default: as the registries' limits allow.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Bytes per second, all objects together.
    ///
    /// Default: no limit.
    #[arg(long, value_name = "N")]
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// How often OpenShift's kinds are looked for.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub kinds_period: Duration,
    /// Least time between syncs that are asked for.
    ///
    /// Of one object, by annotation.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub sync_gap: Duration,
    /// Where the graph of updates is asked for.
    ///
    /// If an object does not say. Also by the variable `UPDATE_URL_OVERRIDE`. Default: the public service.
    #[arg(long, env = "UPDATE_URL_OVERRIDE", value_name = "URL", hide_env = true)]
    pub update_service: Option<String>,
    /// A store of release signatures; repeatable.
    ///
    /// In place of the public ones if an object names none, asked in this order. Also by the variable `OCP_SIGNATURE_URL`.
    #[arg(long = "signature-store", env = "OCP_SIGNATURE_URL", value_name = "URL", hide_env = true)]
    pub signature_stores: Vec<String>,
    /// The program that renders Helm charts.
    ///
    /// Also by the variable `IMAGESET_MIRROR_HELM`. Default: `helm` on `PATH`.
    #[arg(long, env = "IMAGESET_MIRROR_HELM", value_name = "FILE", hide_env = true)]
    pub helm: Option<PathBuf>,
    /// Time between the signal to stop and the end.
    ///
    /// Running transfers may finish until 15 seconds before.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub grace_period: Duration,
}

/// Flags that every command with a FILE has.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// An `ImageSetMirror` or an oc-mirror `ImageSetConfiguration`.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// The target. Needed for an `ImageSetConfiguration`.
    #[arg(long, value_name = "HOST[/PATH]")]
    pub to: Option<String>,
    /// Credentials of both sides: a containers auth file.
    ///
    /// Default: the usual places, as containers-auth.json(5) has them.
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Certificates in PEM to trust in addition to the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How a host is reached: verify, skip-verify or plain.
    ///
    /// HOST=verify, HOST=skip-verify or HOST=plain; repeatable.
    #[arg(long, value_name = "HOST=MODE")]
    pub tls: Vec<String>,
    /// Pull what is below SOURCE from MIRROR; repeatable.
    #[arg(long = "override", value_name = "SOURCE=MIRROR")]
    pub overrides: Vec<String>,
    /// Bulk transfers at the same time. Default: 8.
    ///
    /// Twice as many help a little where registries are far away.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Bytes per second.
    #[arg(long, value_name = "N")]
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Whether signatures and referrers travel along: copy or skip.
    ///
    /// Default: copy.
    #[arg(long, value_enum, value_name = "WHETHER", hide_possible_values = true)]
    pub attachments: Option<AttachmentsArg>,
    /// Whether Helm charts themselves are copied: copy or skip.
    ///
    /// Or only the images in them. Default: copy.
    #[arg(long, value_enum, value_name = "WHETHER", hide_possible_values = true)]
    pub charts: Option<ChartsArg>,
    /// The program that renders Helm charts.
    ///
    /// Also by the variable `IMAGESET_MIRROR_HELM`. Default: `helm` on `PATH`.
    #[arg(long, env = "IMAGESET_MIRROR_HELM", value_name = "FILE", hide_env = true)]
    pub helm: Option<PathBuf>,
    /// Where the graph of updates is asked for.
    ///
    /// Default: `UPDATE_URL_OVERRIDE`, or the public service.
    #[arg(long, value_name = "URL")]
    pub update_service: Option<String>,
    /// A store of release signatures; repeatable.
    ///
    /// In place of the public ones, asked in this order. Default: `OCP_SIGNATURE_URL`, or the public stores.
    #[arg(long = "signature-store", value_name = "URL")]
    pub signature_stores: Vec<String>,
    /// `OpenPGP` keys that release signatures are checked with.
    ///
    /// In ASCII armor. Default: `OCP_SIGNATURE_VERIFICATION_PK`, or the keys of Red Hat, which an empty file means, too.
    #[arg(long, value_name = "FILE")]
    pub signature_key: Option<PathBuf>,
    /// Only release, operators, additional or helm; repeatable.
    ///
    /// The rest of the file is not looked at, and nothing is removed or narrowed. Default: all kinds of content.
    #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
    pub only: Vec<ContentKind>,
}

/// A kind of content that `mirror` and `plan` can be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContentKind {
    /// Releases and the image of their update graph.
    Release,
    /// Catalogs of operators.
    Operators,
    /// Additional images.
    Additional,
    /// Helm charts.
    Helm,
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
    /// Directory for the cluster resources and a report.
    ///
    /// Made if it is not there. It gets the resources as YAML, a kustomization of them, and the result in `report.json`. What an
    /// earlier run wrote stays part of it.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Begin no further image once one has failed for good.
    ///
    /// That is in a way that another try would not mend. What is under way ends, and the exit code is 1.
    #[arg(long)]
    pub fail_fast: bool,
    /// Form of the result: text or json.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = MirrorOutput::Text, value_name = "FORM")]
    #[arg(hide_possible_values = true)]
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
    /// Form of the result: table, json, mapping or dot.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = PlanOutput::Table, value_name = "FORM")]
    #[arg(hide_possible_values = true)]
    pub output: PlanOutput,
    /// Show what changes against the last `mirror`.
    ///
    /// Of an object of this name, from the command line. The target is asked for that plan, and for no image.
    #[arg(long, conflicts_with = "resources")]
    pub diff: bool,
    /// Show what a cluster would get if everything arrives.
    ///
    /// As YAML. The target is not asked for anything.
    #[arg(long, conflicts_with = "output")]
    pub resources: bool,
}

/// Form of the result of `plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanOutput {
    /// For people.
    Table,
    /// For machines: one JSON document.
    Json,
    /// One line `docker://SOURCE=docker://DESTINATION` an image, sorted, as oc-mirror lists them: without charts.
    Mapping,
    /// A graph for Graphviz: what is copied, and what must be complete before it.
    Dot,
}

/// What to do with a catalog.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Print what is left of a file-based catalog, one JSON document a line, sorted.
    #[command(after_help = examples::FILTER)]
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
    /// Show it again after each change; ends when NAME is Ready.
    ///
    /// Without a NAME it goes on until it is ended.
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
    /// What the operator writes to the cluster; repeatable.
    ///
    /// One of imagedigestmirrorsets, imagetagmirrorsets, releasesignatures and updateservices; `none` for nothing. Default: the
    /// first two.
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

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell: bash, zsh or fish.
    #[arg(value_enum, value_name = "SHELL", hide_possible_values = true)]
    pub shell: Shell,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// Bash, with bash-completion.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

/// Flags of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command, such as `mirror` or `catalog filter`. Default: the program.
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Directory for the pages of all commands; made if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub out: Option<PathBuf>,
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
        Command::Mirror(args) => Box::pin(mirror::run(args)).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Catalog(command) => catalog::run(&command),
        Command::Convert(args) => convert::run(&args),
        Command::Status(args) => status::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::ContainerdHosts(args) => containerd_hosts::run(args).await,
        Command::Completions(args) => generated::completions(args.shell),
        Command::Man(args) => generated::man(&args),
        Command::Crd => output::print(&crate::api::crd::crd_yaml()),
        Command::Controller(_) => BAD_INPUT,
    };
    ExitCode::from(code)
}

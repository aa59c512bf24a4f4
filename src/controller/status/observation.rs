//! What the status is made from: plain values that the controller fills in, without I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{CatalogStatus, Mode, ReleaseSignatures, ReleaseStatus, ResourceState};
use crate::failure::Failure;
use crate::request::Fault;

use super::Reason;

/// What is read from the object itself, and what this process remembers about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.uid`; makes the jitter of the schedule.
    pub uid: String,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.mode`.
    pub mode: Mode,
    /// `spec.verification.releaseSignatures`.
    pub release_signatures: ReleaseSignatures,
    /// `spec.interval`.
    pub interval: Option<Duration>,
    /// `spec.progressDeadline`, or its default.
    pub progress_deadline: Duration,
    /// The request annotation: the current value, or `None` if it is absent.
    pub request_token: Option<String>,
    /// The key of a job for this spec and this request: the hash over everything that a sync reads and
    /// [`effective_token`](crate::controller::schedule::effective_token). Empty if the spec is invalid.
    pub key: String,
    /// Least time between the starts of two syncs that are asked for by annotation, and between an interval's.
    pub sync_gap: Duration,
    /// Since when this process has been looking at this object with this key; the progress deadline counts from here at the
    /// earliest, so that a restart does not make a stall.
    pub watched_since: Timestamp,
    /// When a byte or an image of this key last arrived in the target, in this process; `None` if none has.
    pub last_progress: Option<Timestamp>,
}

/// What the table of jobs says about the object.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The spec has faults, at least one; there is no job.
    Invalid(Vec<Fault>),
    /// A sync is due and cannot start, because something that the spec names is missing or cannot be used.
    Waiting {
        /// What is missing.
        reason: WaitReason,
        /// Names the missing thing, and what to do.
        message: String,
    },
    /// There is no job in this process. What the status said before stays.
    Idle,
    /// A job of the current key waits for its turn.
    Queued,
    /// A job runs.
    Running(Running),
    /// The last job has ended by itself. May be shown again and again until the next job starts: it counts once.
    Finished(Finished),
    /// The operator stops, and a job was cancelled for that. To be shown in the last write only.
    Interrupted,
    /// The object is being deleted.
    Deleting {
        /// What is still to be done, for people.
        message: String,
    },
}

/// Why a sync cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The Secret does not exist.
    SecretNotFound,
    /// The Secret does not hold credentials under the key that we read.
    SecretInvalid,
    /// The `ConfigMap` or its key does not exist.
    ConfigMapNotFound,
    /// The bundle holds no certificate that can be read.
    TrustBundleInvalid,
    /// The API server does not let us read a Secret or `ConfigMap`, or does not answer.
    ReferenceUnreadable,
}

impl WaitReason {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::SecretNotFound => Reason::SecretNotFound,
            Self::SecretInvalid => Reason::SecretInvalid,
            Self::ConfigMapNotFound => Reason::ConfigMapNotFound,
            Self::TrustBundleInvalid => Reason::TrustBundleInvalid,
            Self::ReferenceUnreadable => Reason::ReferenceUnreadable,
        }
    }
}

/// How far a running job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Finding out what is wanted.
    Resolving,
    /// Making the plan.
    Planning,
    /// Copying, or in plan mode looking what the target has.
    Copying,
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// The job's key. If it is not [`Seen::key`], the job is for an older spec and goes on only until the new one is planned.
    pub key: String,
    /// When it started to run (not: to wait for its turn).
    pub started: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// The plan, from the end of planning on.
    pub plan: Option<Planned>,
    /// What is done, from the beginning of copying on.
    pub progress: Progress,
}

/// A job that has ended by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The job's key; a job of another key than [`Seen::key`] is not looked at.
    pub key: String,
    /// When it started to run.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What came out.
    pub result: SyncResult,
    /// The longest that a registry asked us to wait (`Retry-After`), counted from `ended`.
    pub retry_after: Option<Duration>,
}

/// What came out of a sync.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncResult {
    /// It went through to the end. Complete if `failures` is empty.
    Done {
        /// The plan.
        plan: Planned,
        /// What was done.
        progress: Progress,
        /// Every image that is missing and every origin that could not be resolved, in the plan's order (the same for equal
        /// outcomes, or the status changes at every retry). May be longer than the status shows.
        failures: Vec<FailedItem>,
    },
    /// It could not go on.
    Aborted {
        /// Why.
        reason: AbortReason,
        /// For people: what happened, where, and what to do. No times, counts of attempts or request ids.
        message: String,
    },
}

/// Why a sync could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The target cannot be reached.
    TargetUnreachable,
    /// The target's certificate is not trusted.
    CertificateNotTrusted,
    /// The target refuses the credentials.
    AuthenticationFailed,
    /// The target limits the rate of requests.
    RateLimited,
    /// Something in the target that every sync needs cannot be read or written.
    TargetFailed,
    /// Two entries of this object want different content at one place. Not tried again before the spec changes.
    Collision,
    /// Another object owns a place that this one wants.
    DestinationConflict,
    /// A signature that is required is missing or wrong.
    SignatureInvalid,
    /// The job panicked.
    Internal,
}

impl AbortReason {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::TargetUnreachable => Reason::TargetUnreachable,
            Self::CertificateNotTrusted => Reason::CertificateNotTrusted,
            Self::AuthenticationFailed => Reason::AuthenticationFailed,
            Self::RateLimited => Reason::RateLimited,
            Self::TargetFailed => Reason::CopyFailed,
            Self::Collision => Reason::InvalidSpec,
            Self::DestinationConflict => Reason::DestinationConflict,
            Self::SignatureInvalid => Reason::SignatureInvalid,
            Self::Internal => Reason::InternalError,
        }
    }
}

/// What is known about a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Digest of the plan: `sha256:…`.
    pub digest: String,
    /// Items in it.
    pub images: u64,
    /// Items that the last plan did not have.
    pub added: u64,
    /// Items that the last plan had and this one has not.
    pub removed: u64,
    /// Items by kind of origin.
    pub by_origin: BTreeMap<String, u64>,
    /// Releases whose signatures were found good, or not looked at.
    pub releases: u64,
    /// What became of each catalog, if anything did yet.
    pub catalogs: Vec<CatalogStatus>,
}

/// What a sync has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Images wanted, those of failed origins not counted.
    pub total: u64,
    /// Images copied.
    pub copied: u64,
    /// Images that were there.
    pub present: u64,
    /// Images that failed.
    pub failed: u64,
    /// Images of those above that the last complete sync had brought to the target and this one found missing there.
    pub missing: u64,
    /// Bytes sent to the target.
    pub bytes_copied: u64,
    /// Bytes that the target took from another of its repositories.
    pub bytes_mounted: u64,
    /// Bytes that were there, as far as that was looked at.
    pub bytes_present: u64,
}

/// Where something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedStage {
    /// Finding out the digest, or what an origin consists of.
    Resolve,
    /// Copying.
    Copy,
}

impl FailedStage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "Resolve",
            Self::Copy => "Copy",
        }
    }
}

/// Something that is missing in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedItem {
    /// The image as the user names it, or the origin if no image is known.
    pub image: String,
    /// Who asked for it.
    pub origin: String,
    /// Where it failed.
    pub stage: FailedStage,
    /// Why.
    pub failure: Failure,
}

/// What became of the objects for the cluster in this reconcile: everything that is wanted, and what stayed behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One entry per object. Empty if nothing is to be written, all outputs being disabled.
    pub outputs: Vec<Output>,
    /// What to know about them that stops nothing, in sentences.
    pub notes: Vec<String>,
    /// What clusters find of each release, newest first. None if that was not looked at: what was known stays.
    pub releases: Option<Vec<ReleaseStatus>>,
}

/// One object for the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// What became of it. `Published` only where the policy says `Publish`: an output with policy `Apply` that is not
    /// written has the state that says why.
    pub state: ResourceState,
    /// The first 12 or more hexadecimal digits of a hash over its content; empty if none was made.
    pub hash: String,
    /// What writing it would do to nodes, if it is held back for that.
    pub impact: Option<String>,
    /// For people, if it was not written: why, and what to do. Names field managers, policies, hosts.
    pub message: String,
}

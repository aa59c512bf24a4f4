//! The registry client: asks registries, and moves content from one to another.
//!
//! Follows the [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md) and the
//! token protocol of the [distribution project](https://distribution.github.io/distribution/spec/auth/token/).
//!
//! Guarantees:
//! - Nothing that fails its digest or length is ever handed on as complete: the last frame of a blob is released only after
//!   both match. No blob above [`SMALL_BLOB`] is held in memory, and none on disk; of those that a slow source gives in
//!   parts at most 4 MiB are, for the whole process. Manifests, error answers and token answers are bounded.
//! - Credentials go to the origin (scheme, host, port) they are for and to the token service it names, nowhere else.
//! - A redirect, upload location or token realm never leads from HTTPS to plain HTTP, and to a loopback or link-local
//!   address only if the registry itself is there or the host is named in the settings.
//! - Absence is a value. An answer that does not come from a registry is never read as absence.
//! - Every future may be dropped at any time; nothing is spawned.
//! - What a host wants is known to all clients of the process: how much may be under way, at which pace, until when it is to
//!   be left alone, whether it is there at all. Being told to wait is no attempt. Of what fails only a part is tried again, and
//!   a host that has stopped answering is looked at by one request at a time.
//!
//! It does not decide what to copy or in which order, and it knows nothing about images that the requests do not say.

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod document;
mod error;
mod limits;
mod overrides;
mod policy;
mod ranges;
mod reply;
mod settings;
mod transfer;
mod transport;
mod upload;

pub use blob::BlobReader;
pub use client::{By, Client, PutOutcome};
pub use credentials::{Credential, Credentials, CredentialsError};
pub use error::{Class, Denied, Error, Problem, Refusal, Trouble};
pub use limits::{
    Capability, Host, Limits, Loads, Observer, Permit, RequestEvent, Share, Throttle, Unobserved, Windows, Work,
};
pub use overrides::{Override, Prefix};
pub use settings::{ConfigError, Reload, Settings, Timing, Tls};

pub use crate::failure::Side;
pub use crate::gate::Load;
pub use transfer::{BlobSource, Breaks, Offer, Progress, Transferred, offer, send, transfer};
pub use upload::{Started, UploadSession};

/// The longest manifest that is taken: what registries themselves accept.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Blobs up to this size are held whole, verified, and then sent.
pub const SMALL_BLOB: u64 = 256 << 10;

//! The library behind the `imageset-mirror` operator and command line.
//!
//! ```text
//! ImageSetMirror ─request─► Request ─resolve+fetch─► Wanted ─plan─► Plan ─copy─► Report ─resources, status─► cluster
//! ```
//!
//! Pure modules decide, edge modules do I/O, and a module uses only modules below it; `tests/layers.rs` holds the table.

pub mod api;
pub mod build;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod copy;
pub mod failure;
pub mod fetch;
pub mod file;
pub mod gate;
pub mod lease;
pub mod metrics;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod request;
pub mod resolve;
pub mod resources;
pub mod server;
pub mod state;
pub mod sync;
pub mod telemetry;

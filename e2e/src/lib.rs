//! The end-to-end suite of `imageset-mirror`: real servers on loopback, nothing mocked.
//!
//! A scenario is a file below `tests/`. It starts a [`cluster::Cluster`], registries ([`registry`]) with content
//! ([`image`]), and the built operator ([`operator`]), then asserts on what the API server and the registries hold and
//! on what they logged. Programs are pinned and built by [`tools`]; [`mirrorconf`] lets OpenShift's own code judge the
//! mirror sets. Everything ends with the test process, however it ends ([`process`]).

pub mod argocd;
pub mod background;
pub mod catalog;
pub mod chart;
pub mod chart_repository;
pub mod cluster;
pub mod container;
pub mod fault_proxy;
pub mod gpg;
pub mod image;
pub mod interruption;
pub mod layout;
pub mod manifests;
pub mod mirror_sets;
pub mod mirrorconf;
pub mod node;
pub mod operator;
pub mod opm;
pub mod pki;
pub mod pods;
pub mod process;
pub mod proxy;
pub mod rbac;
pub mod readme;
pub mod registry;
pub mod relay;
pub mod relverify;
pub mod token;
pub mod tools;
pub mod upstream;
pub mod wait;
pub mod workload;
pub mod world;

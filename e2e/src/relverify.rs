//! The judge of release signatures: the code of OpenShift's version operator, in a program of `e2e/tools/`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::gpg::Signer;
use crate::tools::{self, Tool};

/// Why a cluster that trusts `signer` would refuse each of these releases, given the signatures that it has; empty for those
/// that it would take.
///
/// # Errors
/// When the judge cannot be built, or the API server does not answer it.
pub async fn judge(cluster: &Cluster, signer: &Signer, digests: &[&str]) -> Result<BTreeMap<String, String>> {
    let program = tokio::task::spawn_blocking(|| tools::ensure(Tool::Relverify)).await??;
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), signer.public_key()?)?;
    let mut command = Command::new(program);
    command.arg("-kubeconfig").arg(cluster.kubeconfig()).arg("-keys").arg(keys.path());
    command.args(digests).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("running relverify")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("reading what relverify prints")
}

//! Keys and signatures of the real `GnuPG`, which is what releases are signed with.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

/// Somebody with a key of its own.
#[derive(Debug)]
pub struct Signer {
    home: TempDir,
}

impl Signer {
    /// Why there can be no signer on this machine, if so.
    pub fn unavailable() -> Option<String> {
        let found = Command::new("gpg").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.err().map(|error| format!("gpg (Debian's gnupg) does not start: {error}"))
    }

    /// Makes a key of RSA, like those of releases.
    ///
    /// # Errors
    /// When `GnuPG` fails.
    pub fn new(name: &str) -> Result<Self> {
        // It wants a home that is nobody else's, and with a short path for its socket.
        let signer = Self { home: tempfile::tempdir_in("/tmp")? };
        let args = ["--passphrase", "", "--quick-generate-key", name, "rsa2048", "sign", "never"];
        signer.run(&args, b"")?;
        Ok(signer)
    }

    /// Its public key in ASCII armor.
    ///
    /// # Errors
    /// When `GnuPG` fails.
    pub fn public_key(&self) -> Result<Vec<u8>> {
        self.run(&["--armor", "--export"], b"")
    }

    /// A message with its signature, binary.
    ///
    /// # Errors
    /// When `GnuPG` fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.run(&["--sign", "--output", "-"], message)
    }

    /// The signature of a release: what says that the payload with this digest has this name.
    ///
    /// # Errors
    /// When `GnuPG` fails.
    pub fn sign_release(&self, digest: &str, name: &str) -> Result<Vec<u8>> {
        let message = json!({
            "critical": {
                "type": "atomic container signature",
                "image": {"docker-manifest-digest": digest},
                "identity": {"docker-reference": name},
            },
            "optional": {"creator": "e2e"},
        });
        self.sign(message.to_string().as_bytes())
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path()).args([
            "--batch",
            "--quiet",
            "--no-tty",
            "--pinentry-mode=loopback",
        ]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting gpg")?;
        child.stdin.take().context("an input of gpg")?.write_all(input)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(output.stdout)
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // Its agent would outlive the test. That it cannot be told to end is no failure of the test.
        let mut command = Command::new("gpgconf");
        command
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "all"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().ok();
    }
}

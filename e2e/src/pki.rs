//! Certificates for the servers and clients of one run.

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::process::RunFolder;

/// Makes aws-lc-rs the TLS provider of this process, once; whatever opens a connection calls it first.
pub fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that somebody installed one already, which is as good.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    });
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files and as text.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate's file.
    pub cert_file: PathBuf,
    /// The key's file.
    pub key_file: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Its certificate as PEM: what goes into a trust bundle.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server with these names and addresses.
    ///
    /// # Errors
    /// When a name is not one, or a file cannot be written.
    pub fn server(&self, run: &RunFolder, file: &str, names: &[&str]) -> Result<Pair> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).context("names of a server certificate")?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(run, file, params)
    }

    /// A certificate for a client: user and groups, as Kubernetes reads them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn client(&self, run: &RunFolder, file: &str, user: &str, group: Option<&str>) -> Result<Pair> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(run, file, params)
    }

    fn issue(&self, run: &RunFolder, file: &str, mut params: CertificateParams) -> Result<Pair> {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair {
            cert_file: run.write(&format!("pki/{file}.crt"), cert.pem())?,
            key_file: run.write(&format!("pki/{file}.key"), key.serialize_pem())?,
        })
    }
}

/// A key pair that signs tokens: files of the private and the public half.
///
/// # Errors
/// When a file cannot be written.
pub fn signing_key(run: &RunFolder, file: &str) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let private = run.write(&format!("pki/{file}.key"), key.serialize_pem())?;
    let public = run.write(&format!("pki/{file}.pub"), key.public_key_pem())?;
    Ok((private, public))
}

/// A kubeconfig whose user has a client certificate.
pub(crate) fn kubeconfig(server: &str, ca: &Path, user: &str, user_fields: &[(&str, &Path)]) -> String {
    let fields: Vec<String> = user_fields.iter().map(|(key, path)| format!("{key}: {}", path.display())).collect();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: e2e\nclusters:\n- name: e2e\n  cluster:\n    server: {server}\n    \
         certificate-authority: {}\ncontexts:\n- name: e2e\n  context:\n    cluster: e2e\n    user: {user}\nusers:\n\
         - name: {user}\n  user:\n    {}\n",
        ca.display(),
        fields.join("\n    ")
    )
}

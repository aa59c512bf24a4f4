//! Real registries on loopback, with their access logs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::image::{Login, Remote, USER_AGENT};
use crate::node;
use crate::pki::Authority;
use crate::process::{Process, Program, RunFolder, free_port, port_was_taken};
use crate::token::{SERVICE, TokenServer};
use crate::tools::{self, Tool};
use crate::wait::{LONG, SHORT, eventually};

const PORT_ATTEMPTS: usize = 5;

/// The bcrypt cost of passwords: the lowest, since each request checks one.
const BCRYPT_COST: u32 = 4;

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// CNCF distribution: no referrers API; basic or token authentication.
    Distribution,
    /// olareg: with a referrers API, without authentication.
    Olareg,
    /// Debian's docker-registry, distribution 2.8, which many registries are still built on: no referrers API; basic
    /// authentication only here.
    Debian,
}

/// How a registry lets people in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anonymous,
    /// Whoever has the password, on every request.
    Basic(Login),
    /// Whoever brings a token of the registry's token server, which wants the password.
    Token(Login),
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the folder and the logs.
    pub name: String,
    /// Which program.
    pub implementation: Implementation,
    /// Whether it speaks TLS, with a CA of its own.
    pub tls: bool,
    /// Who may use it.
    pub access: Access,
    /// Whether it takes an index of which only some images are there; olareg never does.
    pub sparse_indexes: bool,
    /// Whether it is as fast as it can be: see [`Options::fast`].
    pub fast: bool,
}

impl Options {
    /// Distribution on plain HTTP for everybody.
    pub fn distribution(name: &str) -> Self {
        let access = Access::Anonymous;
        let implementation = Implementation::Distribution;
        Self { name: name.to_owned(), implementation, tls: false, access, sparse_indexes: false, fast: false }
    }

    /// olareg on plain HTTP for everybody.
    pub fn olareg(name: &str) -> Self {
        Self { implementation: Implementation::Olareg, ..Self::distribution(name) }
    }

    /// Debian's docker-registry on plain HTTP for everybody. See [`tools::debian_registry`].
    pub fn debian(name: &str) -> Self {
        Self { implementation: Implementation::Debian, ..Self::distribution(name) }
    }

    /// With TLS.
    #[must_use]
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// With a password on every request.
    #[must_use]
    pub fn basic(self, user: &str, password: &str) -> Self {
        Self { access: Access::Basic(login(user, password)), ..self }
    }

    /// With a token server that wants a password.
    #[must_use]
    pub fn token(self, user: &str, password: &str) -> Self {
        Self { access: Access::Token(login(user, password)), ..self }
    }

    /// Taking an index of which only some images are there.
    #[must_use]
    pub fn sparse_indexes(self) -> Self {
        Self { sparse_indexes: true, ..self }
    }

    /// As fast as it can be, so that measurements are about its clients: its store and its cache of descriptors are in
    /// memory, and it collects garbage seldom. Only distribution has all of that.
    #[must_use]
    pub fn fast(self) -> Self {
        Self { fast: true, ..self }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it is not ready at the deadline.
    pub async fn start(self) -> Result<Registry> {
        Registry::start(self).await
    }
}

/// A user and password.
pub fn login(user: &str, password: &str) -> Login {
    Login { user: user.to_owned(), password: password.to_owned() }
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    // Before the folder: the process ends first.
    process: Option<Process>,
    options: Options,
    program: PathBuf,
    port: u16,
    authority: Option<Authority>,
    token_server: Option<TokenServer>,
    log: PathBuf,
    run: RunFolder,
}

impl Registry {
    /// Starts a registry on an empty store and a free port.
    ///
    /// # Errors
    /// When it is not ready at the deadline.
    pub async fn start(options: Options) -> Result<Self> {
        crate::pki::install_tls_provider();
        let olareg = options.implementation == Implementation::Olareg;
        ensure!(!olareg || options.access == Access::Anonymous, "olareg knows no authentication");
        let implementation = options.implementation;
        let program = tokio::task::spawn_blocking(move || match implementation {
            Implementation::Distribution => tools::ensure(Tool::Registry),
            Implementation::Olareg => tools::ensure(Tool::Olareg),
            Implementation::Debian => tools::debian_registry(),
        });
        let program = program.await??;
        let folder = if options.fast { RunFolder::in_memory } else { RunFolder::create };
        let run = folder(&format!("registry-{}", options.name))?;
        run.folder("data")?;
        let log = run.logs().join(format!("{}.{}", options.name, if olareg { "log" } else { "out" }));
        let token_server = match &options.access {
            Access::Token(login) => Some(TokenServer::start(login)?),
            _ => None,
        };
        let mut registry = Self { process: None, options, program, port: 0, authority: None, token_server, log, run };
        registry.rotate_certificate()?;
        registry.write_passwords()?;
        for attempt in 1.. {
            registry.port = free_port()?;
            match registry.launch().await {
                Ok(()) => break,
                Err(_) if attempt < PORT_ATTEMPTS && port_was_taken(&registry.error_log()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(registry)
    }

    /// `127.0.0.1:<port>`: the host part of its references. `localhost:<port>` reaches it too, under the same certificate.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http(s)://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.options.tls { "https" } else { "http" }, self.host())
    }

    /// The CA that a client has to trust, if it speaks TLS.
    pub fn ca_pem(&self) -> Option<String> {
        self.authority.as_ref().map(Authority::pem)
    }

    /// The login that it wants, if any.
    pub fn login(&self) -> Option<&Login> {
        match &self.options.access {
            Access::Anonymous => None,
            Access::Basic(login) | Access::Token(login) => Some(login),
        }
    }

    /// The token server, if it has one.
    pub fn token_server(&self) -> Option<&TokenServer> {
        self.token_server.as_ref()
    }

    /// The folder with its store.
    pub fn data(&self) -> PathBuf {
        self.run.path().join("data")
    }

    /// The harness's own access to it. It belongs to the runtime that it is made in.
    ///
    /// # Errors
    /// When its CA is not a certificate.
    pub fn remote(&self) -> Result<Remote> {
        Remote::new(&self.url(), self.ca_pem().as_deref(), self.login().cloned())
    }

    /// Stops it; the data stays.
    ///
    /// # Errors
    /// When it does not end at the deadline.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(SHORT).await?;
        }
        Ok(())
    }

    /// Starts it again, on the same port and data.
    ///
    /// # Errors
    /// When it is not ready at the deadline.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.launch().await
    }

    /// Changes the password and restarts it.
    ///
    /// # Errors
    /// When it is not ready at the deadline, or has no passwords.
    pub async fn change_password(&mut self, password: &str) -> Result<()> {
        match &mut self.options.access {
            Access::Anonymous => bail!("{} has no passwords", self.options.name),
            Access::Basic(login) | Access::Token(login) => password.clone_into(&mut login.password),
        }
        if let (Some(server), Some(login)) = (&self.token_server, self.login()) {
            server.set_login(login);
        }
        self.write_passwords()?;
        self.restart().await
    }

    /// Gives it a certificate of a new CA and restarts it.
    ///
    /// # Errors
    /// When it is not ready at the deadline.
    pub async fn change_ca(&mut self) -> Result<()> {
        self.rotate_certificate()?;
        self.restart().await
    }

    /// The present end of the access log. All requests that were answered before are in front of it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn mark(&self) -> Result<LogMark> {
        self.settle().await?;
        Ok(LogMark(self.log_length()))
    }

    /// The requests after a mark, without those of the harness.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn requests_since(&self, mark: LogMark) -> Result<Vec<LoggedRequest>> {
        self.settle().await?;
        let log = fs::read(&self.log).unwrap_or_default();
        let new = log.get(usize::try_from(mark.0)?..).unwrap_or_default();
        let parse = match self.options.implementation {
            Implementation::Distribution | Implementation::Debian => parse_combined,
            Implementation::Olareg => parse_slog,
        };
        let requests = String::from_utf8_lossy(new).lines().filter_map(parse).collect::<Vec<_>>();
        Ok(requests.into_iter().filter(|request| !request.user_agent.starts_with(USER_AGENT)).collect())
    }

    /// All requests so far, without those of the harness.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn requests(&self) -> Result<Vec<LoggedRequest>> {
        self.requests_since(LogMark(0)).await
    }

    /// Requests are logged after they are answered: waits until one of our own, sent now, is in the log.
    async fn settle(&self) -> Result<()> {
        if self.process.is_none() {
            return Ok(());
        }
        let needle = format!("settle={:016x}", fastrand::u64(..));
        let path = format!("/v2/?{needle}");
        let remote = self.remote()?;
        remote.get_quietly(&path).await?;
        let log = &self.log;
        eventually(SHORT, "the access log to be written", || {
            let found = fs::read_to_string(log).is_ok_and(|text| {
                let tail = text.rfind(&needle).and_then(|at| text.get(at..));
                tail.is_some_and(|tail| tail.contains('\n'))
            });
            async move { Ok(found.then_some(())) }
        })
        .await
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    fn error_log(&self) -> PathBuf {
        self.run.logs().join(format!("{}.log", self.options.name))
    }

    async fn launch(&mut self) -> Result<()> {
        let program = match self.options.implementation {
            Implementation::Distribution | Implementation::Debian => self.distribution()?,
            Implementation::Olareg => self.olareg(),
        };
        let mut process = Process::spawn(&program, &self.run.logs())?;
        let remote = self.remote()?;
        // With a token server any answer will do: the harness must not ask for tokens that a test counts.
        process
            .ready(LONG, || {
                let remote = remote.clone();
                async move { Ok(Some(remote.get_quietly("/v2/").await?)) }
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    fn distribution(&self) -> Result<Program> {
        let mut http = json!({
            "addr": self.host(),
            "secret": "of-no-use-to-anybody",
            "draintimeout": "2s",
        });
        let mut auth = json!({});
        if self.options.tls {
            let tls = json!({"certificate": self.pki("server.crt"), "key": self.pki("server.key")});
            set(&mut http, "tls", tls);
        }
        match (&self.options.access, &self.token_server) {
            (Access::Basic(_), _) => {
                set(&mut auth, "htpasswd", json!({"realm": "e2e", "path": self.run.path().join("htpasswd")}));
            }
            (Access::Token(_), Some(server)) => {
                let keys = self.run.write("jwks.json", server.jwks().to_string())?;
                let token = json!({
                    "realm": server.realm(), "service": SERVICE, "issuer": SERVICE, "jwks": keys,
                    "signingalgorithms": ["ES256"],
                });
                set(&mut auth, "token", token);
            }
            _ => {}
        }
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": self.data()},
                "delete": {"enabled": true},
                // Deleted content must be gone at once.
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": http,
        });
        if self.options.sparse_indexes {
            set(&mut config, "validation", json!({"manifests": {"indexes": {"platforms": "none"}}}));
        }
        if auth.as_object().is_some_and(|auth| !auth.is_empty()) {
            set(&mut config, "auth", auth);
        }
        if self.options.fast
            && let Some(storage) = config.get_mut("storage")
        {
            set(storage, "cache", json!({"blobdescriptor": "inmemory"}));
        }
        // JSON is YAML.
        let file = self.run.write("config.yaml", config.to_string())?;
        let program = Program::new(&self.options.name, &self.program).arg("serve").arg(file);
        let program = program.env("OTEL_TRACES_EXPORTER", "none");
        Ok(if self.options.fast { program.env("GOGC", "400") } else { program })
    }

    fn olareg(&self) -> Program {
        let mut program = Program::new(&self.options.name, &self.program)
            .args(["serve", "--addr", "127.0.0.1", "--port"])
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.data())
            .args(["--api-delete", "--api-blob-delete", "--verbosity", "trace"])
            .env("HOME", &self.run.path().display().to_string());
        if self.options.tls {
            program = program.arg("--tls-cert").arg(self.pki("server.crt"));
            program = program.arg("--tls-key").arg(self.pki("server.key"));
        }
        program
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.run.path().join("pki").join(file)
    }

    fn rotate_certificate(&mut self) -> Result<()> {
        if self.options.tls {
            let authority = Authority::new(&format!("{} {}", self.options.name, fastrand::u32(..)))?;
            authority.server(&self.run, "server", &["127.0.0.1", "localhost", node::ADDRESS])?;
            self.authority = Some(authority);
        }
        Ok(())
    }

    fn write_passwords(&self) -> Result<()> {
        if let Access::Basic(login) = &self.options.access {
            let hash = bcrypt::hash(&login.password, BCRYPT_COST).context("hashing a password")?;
            self.run.write("htpasswd", format!("{}:{hash}\n", login.user))?;
        }
        Ok(())
    }
}

/// A place in an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark(u64);

/// One request that a registry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// `GET`, `HEAD`, `PUT`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// HTTP status.
    pub status: u16,
    /// The client's user agent.
    pub user_agent: String,
}

impl LoggedRequest {
    /// Whether it was meant to change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
    }

    /// What it is about, in a word: the kinds that requests of a copy are counted by.
    pub fn kind(&self) -> &'static str {
        let path = self.path.as_str();
        if path.contains("/imageset-mirror/state/") {
            return "state";
        }
        match self.method.as_str() {
            "HEAD" if path.contains("/manifests/") => "look",
            "GET" if path.contains("/manifests/") => "manifest",
            "HEAD" if path.contains("/blobs/") => "look for blob",
            "GET" if path.contains("/blobs/sha256:") => "blob",
            "POST" if self.status == 201 => "mount",
            "POST" => "begin",
            "PATCH" => "chunk",
            "PUT" if path.contains("/blobs/uploads/") => "send",
            "PUT" => "put",
            "GET" if path.contains("/tags/list") => "tags",
            "GET" if path.contains("/referrers/") => "referrers",
            "GET" if path == "/v2/" => "ping",
            _ => "other",
        }
    }
}

/// `127.0.0.1 - - [time] "GET /v2/ HTTP/1.1" 200 2 "referer" "agent"`
fn parse_combined(line: &str) -> Option<LoggedRequest> {
    let mut quoted = line.split('"');
    let mut request = quoted.nth(1)?.split(' ');
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    let user_agent = quoted.nth(2).unwrap_or_default().to_owned();
    Some(LoggedRequest { method: request.next()?.to_owned(), path: request.next()?.to_owned(), status, user_agent })
}

/// `time=… msg=ServeHTTP duration=… method=GET url=/v2/ status=200 req-headers="map[User-Agent:[…] …]" …`
fn parse_slog(line: &str) -> Option<LoggedRequest> {
    let field = |name: &str| {
        let start = line.find(&format!(" {name}="))? + name.len() + 2;
        let rest = line.get(start..)?;
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split(' ').next(),
        }
    };
    if field("msg")? != "ServeHTTP" {
        return None;
    }
    let headers = field("req-headers").unwrap_or_default();
    let agent = headers.split_once("User-Agent:[").and_then(|(_, rest)| rest.split(']').next());
    Some(LoggedRequest {
        method: field("method")?.to_owned(),
        path: field("url")?.to_owned(),
        status: field("status")?.parse().ok()?,
        user_agent: agent.unwrap_or_default().to_owned(),
    })
}

fn set(object: &mut serde_json::Value, key: &str, value: serde_json::Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

//! A repository of charts on loopback: charts packaged and indexed by the real helm, served as files.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};

use crate::background::Background;
use crate::chart::helm;
use crate::image::Login;

/// A running repository; dropping it ends it.
#[derive(Debug)]
pub struct ChartRepository {
    files: tempfile::TempDir,
    address: String,
    served: Arc<Served>,
    _server: Background,
}

#[derive(Debug)]
struct Served {
    folder: PathBuf,
    login: Option<Login>,
    /// Paths that were asked for.
    asked: Mutex<Vec<String>>,
}

/// What a chart is made of.
#[derive(Clone, Debug)]
pub struct ChartSpec {
    name: String,
    version: String,
    more: String,
    files: Vec<(String, String)>,
}

impl ChartSpec {
    /// One without templates.
    pub fn new(name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), more: String::new(), files: Vec::new() }
    }

    /// With this template.
    #[must_use]
    pub fn template(self, name: &str, content: &str) -> Self {
        self.file(&format!("templates/{name}"), content)
    }

    /// With this file, by its path in the chart.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.to_owned(), content.to_owned()));
        self
    }

    /// With more lines in its `Chart.yaml`.
    #[must_use]
    pub fn with(self, lines: &str) -> Self {
        Self { more: format!("{}{lines}\n", self.more), ..self }
    }

    /// Writes it below `folder`; returns its own.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let own = folder.join(&self.name);
        fs::create_dir_all(own.join("templates"))?;
        let Self { name, version, more, .. } = self;
        let chart = format!("apiVersion: v2\nname: {name}\nversion: {version}\n{more}");
        let all = [("Chart.yaml".to_owned(), chart)].into_iter().chain(self.files.clone());
        for (path, content) in all {
            let path = own.join(path);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, content)?;
        }
        Ok(own)
    }

    /// Packages it with helm into `folder`; returns the archive.
    ///
    /// # Errors
    /// When helm does not take it.
    pub fn package(&self, folder: &Path) -> Result<PathBuf> {
        let scratch = tempfile::tempdir()?;
        let chart = self.write(scratch.path())?;
        let (chart, into) = (chart.display().to_string(), folder.display().to_string());
        helm(None, &["package", &chart, "--destination", &into])?.ok()?;
        Ok(folder.join(format!("{}-{}.tgz", self.name, self.version)))
    }
}

impl ChartRepository {
    /// Starts one without charts on a free port of 127.0.0.1, over plain HTTP; `login` is asked for if there is one.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(login: Option<Login>) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let served = Arc::new(Served { folder: files.path().to_owned(), login, asked: Mutex::default() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let router = Router::new().fallback(file).with_state(Arc::clone(&served));
        let server = Background::start("charts", move || async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                axum::serve(listener, router).await.ok();
            }
        })?;
        Ok(Self { files, address, served, _server: server })
    }

    /// Its host and port.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// The address of a folder.
    pub fn url(&self, folder: &str) -> String {
        format!("http://{}/{folder}", self.address)
    }

    /// Where a folder is.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, folder: &str) -> Result<PathBuf> {
        let path = self.files.path().join(folder);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Puts charts into a folder, and an index of all that it has.
    ///
    /// # Errors
    /// When helm does not take them.
    pub fn add(&self, folder: &str, charts: &[ChartSpec]) -> Result<()> {
        let path = self.folder(folder)?;
        for chart in charts {
            chart.package(&path)?;
        }
        self.index(folder)
    }

    /// Makes the index of a folder.
    ///
    /// # Errors
    /// When helm fails.
    pub fn index(&self, folder: &str) -> Result<()> {
        let path = self.folder(folder)?.display().to_string();
        helm(None, &["repo", "index", &path])?.ok()?;
        Ok(())
    }

    /// What was asked for since the last time.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.served.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Changes text in a file, which has to have it.
///
/// # Errors
/// When it has not, or cannot be read or written.
pub fn replace(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    if !text.contains(from) {
        bail!("`{from}` is not in {}", file.display());
    }
    fs::write(file, text.replace(from, to))?;
    Ok(())
}

async fn file(State(served): State<Arc<Served>>, uri: Uri, headers: HeaderMap) -> Response {
    if let Some(login) = &served.login {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if given != Some(format!("Basic {}", login.basic()).as_str()) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"charts\"")]).into_response();
        }
    }
    let path = uri.path().trim_start_matches('/');
    served.asked.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    let inner = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    match fs::read(served.folder.join(path)) {
        Ok(bytes) if inner => bytes.into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

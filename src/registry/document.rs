//! Documents that are no registry's, fetched the way registries are talked to: same proxies, trust, limits and patience.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, Method};
use secrecy::ExposeSecret as _;
use url::Url;

use super::auth::secret_header;
use super::client::Client;
use super::credentials::basic;
use super::error::authority;
use super::transport::{Ask, Place};
use super::{Credential, Credentials, Error, Problem};
use crate::failure::{Failure, Reason};
use crate::oci::Repository;

impl Client {
    /// What is at `url`, at most `limit` bytes of it; none if there is nothing. `asked` says in words what it is. No
    /// credentials are sent, and those in `url` are of no account.
    ///
    /// # Errors
    /// The server cannot be reached, says something else than 200 or 404, answers with a page, or with more than that.
    pub async fn document(&self, url: &Url, accept: &str, limit: u64, asked: &str) -> Result<Option<Bytes>, Failure> {
        let place = self.server(url, asked)?;
        let ask = Ask::new(&place, Method::GET, url.clone(), asked.to_owned()).header(ACCEPT, accept);
        self.read(ask, limit, Pages::Refused).await.map_err(|error| error.failure())
    }

    /// The same of a server that the user named, `home`, or that this one named: with the credentials for the place, if there
    /// are any, and within what a stranger may lead to. What a page means is for the caller to say.
    ///
    /// # Errors
    /// The server cannot be reached, must not be, says something else than 200 or 404, or answers with more than that.
    pub async fn private_document(
        &self,
        url: &Url,
        home: &Url,
        limit: u64,
        asked: &str,
    ) -> Result<Option<Bytes>, Failure> {
        let place = self.server(home, asked)?;
        let mut reloaded = false;
        loop {
            let loaded = self.inner.loaded();
            let mut ask = Ask::new(&place, Method::GET, url.clone(), asked.to_owned()).header(ACCEPT, "*/*");
            ask.authorization = authorization(&loaded.credentials, url);
            match self.read(ask, limit, Pages::Taken).await {
                Err(error)
                    if !reloaded
                        && matches!(
                            error.problem(),
                            Problem::Unauthorized(_) | Problem::Status { status: 401, .. }
                        )
                        && self.inner.reload(&loaded).await =>
                {
                    reloaded = true;
                }
                found => return found.map_err(|error| error.failure()),
            }
        }
    }

    /// A server that is no registry.
    fn server(&self, url: &Url, asked: &str) -> Result<Place, Failure> {
        let host = authority(url);
        // Documents have no repository; hosts are all that is looked at.
        let repository = format!("{host}/document").parse::<Repository>();
        let repository = repository.map_err(|error| {
            Failure::permanent(Reason::PolicyDenied, format!("{asked} cannot be asked for at `{host}`: {error}"))
        })?;
        let mut place = self.home(&repository);
        place.base = url.clone();
        place.base.set_path("/");
        place.base.set_query(None);
        Ok(place)
    }

    async fn read(&self, ask: Ask<'_>, limit: u64, pages: Pages) -> Result<Option<Bytes>, Error> {
        let mut reply = self.inner.send(ask).await?;
        match reply.status().as_u16() {
            200 if pages == Pages::Refused && reply.is_html() => Err(reply.error(Problem::NotRegistry { status: 200 })),
            200 => reply.bytes(limit).await.map(Some),
            404 => {
                reply.drain().await;
                Ok(None)
            }
            _ => Err(reply.into_error().await),
        }
    }
}

/// Whether a page made for browsers is an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    Taken,
    Refused,
}

/// What logs in at the longest prefix of `url` that there are credentials for. A refresh token is none: it is for the token
/// service of a registry.
fn authorization(credentials: &Credentials, url: &Url) -> Option<HeaderValue> {
    let place = format!("{}{}", authority(url), url.path());
    match credentials.at(place.trim_end_matches('/'))?.1 {
        Credential::Basic { username, password } => secret_header("Basic", basic(username, password).expose_secret()),
        Credential::Registry(token) => secret_header("Bearer", token.expose_secret()),
        Credential::Identity(_) => None,
    }
}

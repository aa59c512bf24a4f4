//! Documents that are no registry's, fetched the way registries are talked to: same proxies, trust, limits and patience.

use bytes::Bytes;
use http::Method;
use http::header::ACCEPT;
use url::Url;

use super::client::Client;
use super::error::authority;
use super::transport::Ask;
use super::{Error, Problem};
use crate::failure::{Failure, Reason};
use crate::oci::Repository;

impl Client {
    /// What is at `url`, at most `limit` bytes of it; none if there is nothing. `asked` says in words what it is. No
    /// credentials are sent, and those in `url` are of no account.
    ///
    /// # Errors
    /// The server cannot be reached, says something else than 200 or 404, answers with a page, or with more than that.
    pub async fn document(&self, url: &Url, accept: &str, limit: u64, asked: &str) -> Result<Option<Bytes>, Failure> {
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
        let ask = Ask::new(&place, Method::GET, url.clone(), asked.to_owned()).header(ACCEPT, accept);
        let answered = async {
            let mut reply = self.inner.send(ask).await?;
            match reply.status().as_u16() {
                200 if reply.is_html() => Err(reply.error(Problem::NotRegistry { status: 200 })),
                200 => reply.bytes(limit).await.map(Some),
                404 => {
                    reply.drain().await;
                    Ok(None)
                }
                _ => Err(reply.into_error().await),
            }
        };
        answered.await.map_err(|error: Error| error.failure())
    }
}

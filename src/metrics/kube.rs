//! Counts the requests to the API server where they leave: below kube's retries, so that each attempt counts.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tower::Service;
use tower::layer::Layer;

use super::Metrics;

/// Wraps the service that sends.
#[derive(Clone, Debug)]
pub struct CountRequests(Metrics);

impl CountRequests {
    /// Counts into `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted { service, metrics: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    service: S,
    metrics: Metrics,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let verb = verb(&request);
        let (answer, metrics) = (self.service.call(request), self.metrics.clone());
        Box::pin(async move {
            let answer = answer.await;
            metrics.kube_requested(verb, answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
            answer
        })
    }
}

fn verb<B>(request: &Request<B>) -> &'static str {
    let watches = || request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    match *request.method() {
        Method::GET if watches() => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt as _;

    use super::*;
    use crate::metrics::Build;

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_status() {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::register(&mut registry, Build { version: "1", revision: "1", rustc: "1" });
        let answer = |_: Request<()>| async { Ok::<_, Infallible>(Response::builder().status(404).body(()).unwrap()) };
        let service = CountRequests::new(metrics).layer(tower::service_fn(answer));
        for path in ["/api?limit=1&watch=true", "/api", "/api"] {
            service.clone().oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"imagesetmirror_kube_requests_total{verb="watch",code="404"} 1"#), "{text}");
        assert!(text.contains(r#"imagesetmirror_kube_requests_total{verb="get",code="404"} 2"#), "{text}");
    }
}

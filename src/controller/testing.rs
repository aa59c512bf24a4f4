//! An API server in memory, as far as the tests of the controller need one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::api::ImageSetMirror;

/// Objects by path, and what was asked for.
#[derive(Default)]
pub(super) struct Server {
    objects: Mutex<BTreeMap<String, Value>>,
    /// Paths that are refused with 403.
    pub(super) refused: Mutex<Vec<String>>,
    /// Paths below which nothing may be written: refused with 403.
    pub(super) refused_writes: Mutex<Vec<String>>,
    /// Namespaces on their way out.
    pub(super) ending: Mutex<Vec<String>>,
    writes: Mutex<Vec<String>>,
}

impl Server {
    /// A client of it.
    pub(super) fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (status, answer) = server.answer(&parts.method, parts.uri.path(), body);
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(status).body(answer).unwrap())
            }
        });
        Client::new(service, "team")
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    pub(super) fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// What was written since this was last asked: method and path, for events the reason.
    pub(super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut *self.writes.lock().unwrap())
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let refusal = |code: StatusCode| {
            let code = code.as_u16();
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                   "reason": if code == 404 { "NotFound" } else { "Refused" }, "message": format!("{code} for {path}")})
        };
        let below = |list: &Mutex<Vec<String>>| list.lock().unwrap().iter().any(|refused| path.starts_with(refused));
        if below(&self.refused) || *method != Method::GET && below(&self.refused_writes) {
            return (StatusCode::FORBIDDEN, refusal(StatusCode::FORBIDDEN));
        }
        let goes = |namespace: &String| path.starts_with(&format!("/api/v1/namespaces/{namespace}/"));
        if *method == Method::POST && self.ending.lock().unwrap().iter().any(goes) {
            let mut answer = refusal(StatusCode::FORBIDDEN);
            answer["details"] = json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]});
            return (StatusCode::FORBIDDEN, answer);
        }
        let mut objects = self.objects.lock().unwrap();
        if *method == Method::GET {
            let prefix = format!("{path}/");
            let items: Vec<_> =
                objects.iter().filter(|(at, _)| at.starts_with(&prefix)).map(|(_, item)| item).collect();
            return match objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if ["/configmaps/", "/updateservices/"].iter().any(|one| path.contains(one))
                    || path.split('/').count() < 5 =>
                {
                    (StatusCode::NOT_FOUND, refusal(StatusCode::NOT_FOUND))
                }
                None => (StatusCode::OK, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})),
            };
        }
        let about = body.get("reason").and_then(Value::as_str).unwrap_or(path);
        self.writes.lock().unwrap().push(format!("{method} {about}"));
        if *method == Method::DELETE {
            let Some(object) = objects.get(path) else {
                return (StatusCode::NOT_FOUND, refusal(StatusCode::NOT_FOUND));
            };
            let same = ["uid", "resourceVersion"].iter().all(|key| {
                body["preconditions"].get(key).is_some_and(|wanted| object["metadata"].get(key) == Some(wanted))
            });
            if !same {
                return (StatusCode::CONFLICT, refusal(StatusCode::CONFLICT));
            }
            return (StatusCode::OK, objects.remove(path).unwrap());
        }
        let mut object = body;
        object["metadata"]["resourceVersion"] = json!("2");
        object["metadata"]["uid"] = json!("made");
        if *method == Method::PATCH {
            objects.insert(path.to_owned(), object.clone());
        }
        (StatusCode::OK, object)
    }
}

/// An object `set` in namespace `team`.
pub(super) fn object() -> ImageSetMirror {
    serde_json::from_value(json!({
        "apiVersion": "mirror.openshift.io/v1alpha1",
        "kind": "ImageSetMirror",
        "metadata": {"name": "set", "namespace": "team", "uid": "u-1", "generation": 1},
        "spec": {
            "mirror": {"additionalImages": [{"name": "quay.io/a/b@sha256:f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea"}]},
            "target": {"registry": "h.example:5000"},
        },
    }))
    .unwrap()
}

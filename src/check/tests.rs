use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::Handle;

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

/// An API server that serves the kind or not, and that refuses what `denied` says.
struct Scenario {
    crd: bool,
    denied: fn(&Value) -> bool,
}

const COMPLETE: Scenario = Scenario { crd: true, denied: |_| false };
const WITHOUT_CRD: Scenario = Scenario { crd: false, ..COMPLETE };
const WITHOUT_ROLES: Scenario = Scenario { denied: |_| true, ..COMPLETE };
const WITHOUT_TAG_MIRRORS: Scenario = Scenario {
    denied: |asked| {
        asked["resource"] == "imagetagmirrorsets"
            && ["create", "patch", "delete"].iter().any(|verb| asked["verb"] == **verb)
    },
    ..COMPLETE
};
const WITHOUT_OTHER_SECRETS: Scenario =
    Scenario { denied: |asked| asked["resource"] == "secrets" && asked["name"] != "target-push", ..COMPLETE };
const WITHOUT_SIGNATURES: Scenario =
    Scenario { denied: |asked| asked["namespace"] == "openshift-config-managed", ..COMPLETE };
const WITHOUT_A_SECOND_NAMESPACE: Scenario = Scenario { denied: |asked| asked["namespace"] == "team", ..COMPLETE };

fn installation() -> Installation {
    Installation {
        namespace: "own".to_owned(),
        watched: BTreeSet::from(["own".to_owned()]),
        outputs: rbac::OUTPUTS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        secrets: BTreeSet::new(),
        lease: Some(rbac::NAME.to_owned()),
        ready: None,
    }
}

fn json_of(status: StatusCode, value: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(value.to_string().into_bytes())).unwrap()
}

/// Answers until the client is gone, and returns what was asked for.
async fn serve(scenario: Scenario, mut server: Server) -> Vec<Value> {
    let mut asked = Vec::new();
    while let Some((request, send)) = server.next_request().await {
        if request.method() == Method::GET {
            assert_eq!(request.uri().path(), "/apis/mirror.openshift.io/v1alpha1");
            let resource = json!({"name": PLURAL, "kind": KIND, "namespaced": true, "singularName": "", "verbs": []});
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
                              "resources": [resource]});
            let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                                 "reason": "NotFound", "message": "not there", "metadata": {}});
            send.send_response(if scenario.crd {
                json_of(StatusCode::OK, &list)
            } else {
                json_of(StatusCode::NOT_FOUND, &missing)
            });
            continue;
        }
        assert_eq!(request.uri().path(), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        let body = request.into_body().collect_bytes().await.unwrap();
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        let attributes = review["spec"]["resourceAttributes"].clone();
        review["status"] = json!({"allowed": !(scenario.denied)(&attributes)});
        asked.push(attributes);
        send.send_response(json_of(StatusCode::CREATED, &review));
    }
    asked
}

async fn checked(scenario: Scenario, installation: &Installation) -> (Vec<Finding>, Vec<Value>) {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let ask = async {
        let client = Client::new(service, "own");
        run(&client, installation).await
    };
    tokio::join!(ask, serve(scenario, server))
}

fn failed(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| finding.problem.as_ref().map(|problem| format!("{}: {problem}", finding.what));
    findings.iter().filter_map(line).collect()
}

#[tokio::test]
async fn every_rule_of_the_roles_is_asked_for_and_nothing_else() {
    let (findings, asked) = checked(COMPLETE, &installation()).await;
    assert_eq!(failed(&findings), Vec::<String>::new());
    let rules = [rbac::CLUSTER, rbac::WATCHED, rbac::OWN].concat();
    let count = |rule: &Rule| rule.resources.len() * rule.verbs.len() * rule.names.len().max(1);
    assert_eq!(asked.len(), rules.iter().map(count).sum::<usize>());
    assert_eq!(findings.len(), asked.len() + 1);
    let status = json!({"namespace": "own", "group": "mirror.openshift.io", "resource": PLURAL, "subresource": "status",
                        "verb": "patch"});
    assert!(asked.contains(&status), "{asked:#?}");
    let pools = json!({"group": "machineconfiguration.openshift.io", "resource": "machineconfigpools", "verb": "list"});
    assert!(asked.contains(&pools), "{asked:#?}");
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_told_with_what_to_do() {
    let (findings, _) = checked(WITHOUT_CRD, &installation()).await;
    assert_eq!(
        failed(&findings),
        [
            "imagesetmirrors of mirror.openshift.io/v1alpha1 are served: the CRD is not installed, or of another version: \
          apply what `imageset-mirror crd` prints"
        ]
    );
}

#[tokio::test]
async fn without_roles_every_permission_fails_by_itself() {
    let (findings, asked) = checked(WITHOUT_ROLES, &installation()).await;
    assert_eq!(failed(&findings).len(), asked.len());
    assert!(findings.iter().filter_map(|finding| finding.problem.as_ref()).all(|text| text.contains("bind the role")));
}

#[tokio::test]
async fn an_output_that_is_off_needs_no_permission_to_write() {
    let (findings, _) = checked(WITHOUT_TAG_MIRRORS, &installation()).await;
    let lines = failed(&findings);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("leave that output out of --output")), "{lines:#?}");
    let mut off = installation();
    off.outputs.remove("imagetagmirrorsets");
    let (findings, asked) = checked(WITHOUT_TAG_MIRRORS, &off).await;
    assert_eq!(failed(&findings), Vec::<String>::new());
    assert_eq!(asked.iter().filter(|asked| asked["resource"] == "imagetagmirrorsets").count(), 3, "they are looked at");
}

#[tokio::test]
async fn outputs_for_releases_are_asked_for_where_they_are_written() {
    let mut more = installation();
    more.outputs.extend(rbac::OPTIONAL.iter().map(|optional| optional.output.to_owned()));
    let (findings, asked) = checked(WITHOUT_SIGNATURES, &more).await;
    let lines = failed(&findings);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let advice = "bind the role `imageset-mirror-signatures` to this account with a RoleBinding in namespace \
                  `openshift-config-managed`, or leave that output out of --output";
    assert!(lines.iter().all(|line| line.ends_with(advice)), "{lines:#?}");
    let services: Vec<_> = asked.iter().filter(|asked| asked["resource"] == "updateservices").collect();
    assert!(services.len() == 4 && services.iter().all(|asked| asked["namespace"].is_null()), "{services:#?}");
}

#[tokio::test]
async fn secrets_and_the_lease_are_asked_for_by_the_names_they_have() {
    let mut named = installation();
    named.secrets.insert("target-push".to_owned());
    named.lease = Some("other".to_owned());
    let (findings, asked) = checked(WITHOUT_OTHER_SECRETS, &named).await;
    assert_eq!(failed(&findings), Vec::<String>::new());
    let leases: Vec<_> =
        asked.iter().filter(|asked| asked["resource"] == "leases").map(|asked| &asked["name"]).collect();
    assert_eq!(leases, [&Value::Null, &json!("other"), &json!("other")]);
    let (findings, _) = checked(WITHOUT_OTHER_SECRETS, &installation()).await;
    assert_eq!(failed(&findings).len(), 1, "all Secrets were asked for");
}

#[tokio::test]
async fn each_watched_namespace_needs_its_own_binding() {
    let mut two = installation();
    two.watched.insert("team".to_owned());
    let (findings, _) = checked(WITHOUT_A_SECOND_NAMESPACE, &two).await;
    let lines = failed(&findings);
    let needed: usize = rbac::WATCHED.iter().map(|rule| rule.resources.len() * rule.verbs.len()).sum();
    assert_eq!(lines.len(), needed);
    let binding = "bind the role `imageset-mirror-watched` to this account with a RoleBinding in namespace `team`";
    assert!(lines.iter().all(|line| line.contains(binding)), "{lines:#?}");
}

//! What Argo CD makes of an object in every state that the operator gives it, by the scripts of `config/argocd`.
//!
//! The states are the snapshots of the operator's own tests of its status. The real Argo CD has a suite of its own,
//! `make e2e-argocd`.

use std::collections::BTreeMap;
use std::fs;

use e2e::argocd::lua::run;
use e2e::argocd::settings::{ACTIONS, folder, script};
use e2e::operator::repository;
use serde_json::{Value, json};

/// Each state and its health, and the reason that the message begins with.
const STATES: [(&str, &str, &str); 23] = [
    ("content_missing", "Progressing", "Copying"),
    ("copying", "Progressing", "Copying"),
    ("deleting", "Progressing", "being deleted"),
    ("done", "Healthy", "Succeeded"),
    ("interrupted", "Progressing", "Interrupted"),
    ("invalid_spec", "Degraded", "InvalidSpec"),
    ("new", "Progressing", "Resolving"),
    ("new_content", "Healthy", "Succeeded"),
    ("plan_mode", "Healthy", "Planned"),
    ("progress_deadline", "Degraded", "ProgressDeadlineExceeded"),
    ("quiet_sync", "Healthy", "Succeeded"),
    ("refresh_failed", "Healthy", "Succeeded"),
    ("resources_AdmissionDenied", "Healthy", "Succeeded"),
    ("resources_Conflict", "Degraded", "Conflict"),
    ("resources_KindNotServed", "Healthy", "Succeeded"),
    ("resources_MirrorPolicyConflict", "Degraded", "MirrorPolicyConflict"),
    ("resources_NamespaceNotAllowed", "Healthy", "Succeeded"),
    ("resources_PendingDisruption", "Healthy", "Succeeded"),
    ("secret_missing", "Progressing", "ProgressingWithRetry"),
    ("suspended_changed", "Suspended", "suspended"),
    ("suspended_complete", "Suspended", "suspended"),
    ("target_unreachable", "Progressing", "ProgressingWithRetry"),
    ("transient_failure", "Progressing", "ProgressingWithRetry"),
];

/// Every snapshot as an object, by the name of its state.
fn captured() -> BTreeMap<String, Value> {
    let folder = repository().join("src/controller/status/snapshots");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("snapshots").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(state) = name.strip_prefix("imageset_mirror__controller__status__tests__") else { continue };
        let state = state.trim_end_matches(".snap").to_owned();
        let text = fs::read_to_string(entry.path()).expect("a snapshot");
        let yaml = text.splitn(3, "---\n").nth(2).expect("a header and a status");
        let status: Value = serde_yaml::from_str(yaml).expect("a status");
        let generation = status["observedGeneration"].clone();
        let mut object = object(&status, &generation);
        if condition(&status, "Suspended") == Some(&json!("True")) {
            object["spec"]["suspend"] = json!(true);
        }
        if state == "deleting" {
            object["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:14:30Z");
        }
        found.insert(state, object);
    }
    found
}

fn object(status: &Value, generation: &Value) -> Value {
    json!({
        "apiVersion": "mirror.openshift.io/v1alpha1",
        "kind": "ImageSetMirror",
        "metadata": {"name": "set", "namespace": "ns", "generation": generation},
        "spec": {"target": {"registry": "registry.example.com"}},
        "status": status,
    })
}

/// The status of a condition.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).map(|condition| &condition["status"])
}

/// Health and message of each.
async fn health(objects: &[Value]) -> Vec<(String, String)> {
    let script = script("health").expect("the script");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let answers = run(&script, objects).await.expect("the interpreter");
    let answers = answers.into_iter().map(|answer| answer.expect("a table"));
    answers.map(|answer| (text(&answer["status"]), text(&answer["message"]))).collect()
}

#[tokio::test]
async fn every_state_has_the_health_that_people_act_upon() {
    let captured = captured();
    let expected = STATES.map(|(state, health, _)| (state.to_owned(), health.to_owned()));
    let objects: Vec<Value> = captured.values().cloned().collect();
    let found = health(&objects).await;
    let states = || captured.keys().cloned();
    let by_state: BTreeMap<String, String> = states().zip(found.iter().map(|(health, _)| health.clone())).collect();
    assert_eq!(by_state, BTreeMap::from(expected), "a new state needs a line here");
    for ((_, _, begin), (_, message)) in STATES.iter().zip(&found) {
        assert!(message.starts_with(begin), "`{message}` does not begin with {begin}");
    }
}

#[tokio::test]
async fn nothing_is_healthy_before_the_operator_has_seen_it() {
    let mut ahead: Vec<Value> = captured().into_values().collect();
    ahead.retain(|object| object["spec"]["suspend"].is_null());
    for object in &mut ahead {
        object["metadata"]["generation"] = json!(99);
    }
    let mut nothing = object(&Value::Null, &json!(1));
    ahead.push(nothing.clone());
    nothing.as_object_mut().expect("an object").remove("status");
    ahead.push(nothing);
    ahead.push(object(&json!({"observedGeneration": -1}), &json!(1)));
    ahead.push(object(&json!({"observedGeneration": 1}), &json!(1)));
    ahead.push(object(&json!({"observedGeneration": 1, "conditions": []}), &json!(1)));
    for ((health, message), object) in health(&ahead).await.iter().zip(&ahead) {
        assert_eq!(health, "Progressing", "{message}: {object}");
        assert!(!message.is_empty());
    }
}

#[tokio::test]
async fn conditions_without_words_do_no_harm() {
    for missing in [["message", ""], ["reason", ""], ["message", "reason"]] {
        let mut objects: Vec<Value> = captured().into_values().collect();
        for condition in
            objects.iter_mut().flat_map(|object| object["status"]["conditions"].as_array_mut().expect("conditions"))
        {
            condition.as_object_mut().expect("an object").retain(|key, _| !missing.contains(&key.as_str()));
        }
        let found: Vec<String> = health(&objects).await.into_iter().map(|(health, _)| health).collect();
        assert_eq!(found, STATES.map(|(_, health, _)| health), "without {missing:?}");
    }
}

#[tokio::test]
async fn actions_change_what_they_say_and_nothing_else() {
    let done = captured().remove("done").expect("the state");
    let mut marked = done.clone();
    marked["metadata"]["annotations"] = json!({"kept": "yes", "mirror.openshift.io/requested-at": "before"});
    let requests = ["mirror.openshift.io/requested-at", "mirror.openshift.io/force-at"];
    for (action, keys) in [("sync-now", &requests[..1]), ("force-verify", &requests[..])] {
        for before in [&done, &marked] {
            let mut after = act(action, before).await;
            let mut annotations = before["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
            let value = after["metadata"]["annotations"][keys[0]].clone();
            let text = value.as_str().expect("a text");
            assert!(text.parse::<k8s_openapi::jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{text}");
            annotations.extend(keys.iter().map(|key| ((*key).to_owned(), value.clone())));
            assert_eq!(after["metadata"]["annotations"], Value::Object(annotations), "{action}");
            after["metadata"]["annotations"] = before["metadata"]["annotations"].clone();
            assert_eq!(without_nulls(after), without_nulls(before.clone()), "{action}");
        }
    }
    let mut suspended = done.clone();
    suspended["spec"]["suspend"] = json!(true);
    assert_eq!(act("suspend", &done).await, suspended);
    assert_eq!(act("resume", &suspended).await, done, "the key is gone, as it is in Git");

    let offered = |suspended: bool| BTreeMap::from(ACTIONS.map(|action| (action, suspended != (action == "resume"))));
    for (object, suspended) in [(&done, false), (&suspended, true)] {
        let found = run(&script("discovery").expect("the script"), std::slice::from_ref(object)).await;
        let found = found.expect("the interpreter").remove(0).expect("a table");
        let disabled = found.as_object().expect("actions").iter();
        let disabled: BTreeMap<&str, bool> =
            disabled.map(|(name, action)| (name.as_str(), action["disabled"] == json!(true))).collect();
        assert_eq!(disabled, offered(suspended));
    }
}

async fn act(action: &str, object: &Value) -> Value {
    let answers = run(&script(action).expect("the script"), std::slice::from_ref(object)).await;
    answers.expect("the interpreter").remove(0).expect("an object")
}

fn without_nulls(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|_, value| !value.is_null());
    object
}

#[tokio::test]
async fn scripts_have_no_more_than_argo_cd_gives_them() {
    let script = "local global = type(os)
        local os = require('os')
        return { string = type(string), io = type(io), math = type(math), debug = type(debug), os = global,
            getenv = type(os.getenv), execute = type(os.execute), date = type(os.date), ipairs = type(ipairs) }";
    let found = run(script, &[json!({})]).await.expect("the interpreter").remove(0).expect("a table");
    let nil = ["string", "io", "math", "debug", "os", "getenv", "execute"].map(|name| (name, "nil"));
    let there = ["date", "ipairs"].map(|name| (name, "function"));
    let expected: BTreeMap<&str, &str> = nil.into_iter().chain(there).collect();
    assert_eq!(found, json!(expected));
    let refused = run("return { status = string.format('%s', 1) }", &[json!({})]).await.expect("the interpreter");
    assert!(refused[0].as_ref().is_err_and(|message| message.contains("format")), "{refused:?}");
}

#[test]
fn both_forms_say_the_same() {
    let read = |name: &str| -> Value {
        serde_yaml::from_str(&fs::read_to_string(folder().join(name)).expect("a file")).expect("YAML")
    };
    let (map, argocd) = (read("argocd-cm.yaml"), read("argocd.yaml"));
    let health = &map["data"]["resource.customizations.health.mirror.openshift.io_ImageSetMirror"];
    let actions = &map["data"]["resource.customizations.actions.mirror.openshift.io_ImageSetMirror"];
    assert_eq!(health.as_str().expect("a script"), script("health").expect("the script"));
    let about =
        |key: &str, value: &Value| json!([{"group": "mirror.openshift.io", "kind": "ImageSetMirror", key: value}]);
    assert_eq!(argocd["spec"]["resourceHealthChecks"], about("check", health));
    assert_eq!(argocd["spec"]["resourceActions"], about("action", actions));
    let actions: Value = serde_yaml::from_str(actions.as_str().expect("a text")).expect("YAML");
    let definition = |name: &str| json!({"name": name, "action.lua": script(name).expect("the script")});
    let expected = json!({
        "discovery.lua": script("discovery").expect("the script"),
        "definitions": ACTIONS.map(definition),
    });
    assert_eq!(actions, expected);
    let exclusions = &read("argocd-cm-exclusions.yaml")["data"]["resource.exclusions"];
    assert_eq!(&read("argocd-exclusions.yaml")["spec"]["resourceExclusions"], exclusions);
    let exclusions: Value = serde_yaml::from_str(exclusions.as_str().expect("a text")).expect("YAML");
    assert_eq!(exclusions, read("exclusions.yaml"));
}

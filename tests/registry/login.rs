//! Challenges, tokens and credentials.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use imageset_mirror::failure::Reason;
use imageset_mirror::registry::{Problem, Refusal};

use super::fake::{Login, answer, error};
use super::*;

fn refusal(error: &Error) -> Refusal {
    match error.problem() {
        Problem::Unauthorized(refusal) => *refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

async fn with_manifest() -> FakeRegistry {
    let fake = FakeRegistry::start().await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_asked_for_and_the_challenge_is_remembered() {
    let fake = with_manifest().await;
    fake.login(Login::Basic("me:pw".to_owned()));
    let client = make(with_user(Side::Source, &fake, "pw"));
    for _ in 0..2 {
        assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
    }
    let sent: Vec<bool> = fake.seen().iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn tokens_are_given_to_everybody_where_a_registry_does_so() {
    let fake = with_manifest().await;
    fake.wants_tokens(None);
    assert!(get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap().is_some());
    let token = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query["service"], ["fake"]);
    assert_eq!(token.query["scope"], ["repository:a/b:pull"]);
    assert_eq!(token.header("authorization"), None);
}

#[tokio::test]
async fn a_token_is_reused_for_its_repository_and_scope() {
    let fake = with_manifest().await;
    fake.put_manifest("c/d", "1", IMAGE, "{}");
    fake.wants_tokens(Some("me:pw"));
    fake.expires_in(300);
    let client = make(with_user(Side::Source, &fake, "pw"));
    for repository in ["a/b", "a/b", "c/d", "c/d"] {
        assert!(get(&client, &fake.repository(repository), "1").await.unwrap().is_some());
    }
    assert_eq!(fake.count("GET /token"), 2);
    // One refused request, then none: the host is known to want tokens.
    assert_eq!(fake.count("GET /v2/"), 5);
}

#[tokio::test]
async fn a_target_is_asked_for_the_right_to_push() {
    let fake = FakeRegistry::start().await;
    fake.wants_tokens(None);
    let manifest = raw("{}");
    target(&fake).put_manifest(&fake.repository("x/y"), By::Tag(&tag("1")), &manifest).await.unwrap();
    let token = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query["scope"], ["repository:x/y:pull,push"]);
}

#[tokio::test]
async fn a_scope_that_the_registry_names_is_asked_for_too() {
    let fake = with_manifest().await;
    fake.wants_tokens(None);
    let realm = fake.url("/token");
    fake.times(1, ("GET", "manifests/1"), move || {
        let challenge = format!("Bearer realm=\"{realm}\",scope=\"repository:a/b:pull project:x:read\"");
        answer(401, &[("www-authenticate", &challenge)], "")
    });
    assert!(get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap().is_some());
    let token = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query["scope"], ["project:x:read", "repository:a/b:pull"]);
}

#[tokio::test]
async fn a_token_that_is_refused_in_between_is_renewed_once_for_all_who_wait() {
    let fake = with_manifest().await;
    fake.wants_tokens(None);
    fake.expires_in(3600);
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    get(&client, &repository, "1").await.unwrap();
    fake.forget_tokens();
    let name = tag("1");
    let all = futures::future::join_all((0..8).map(|_| client.manifest(&repository, By::Tag(&name)))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(fake.count("GET /token"), 2);
}

#[tokio::test]
async fn those_who_wait_share_the_failure_of_a_token_request() {
    let fake = with_manifest().await;
    fake.wants_tokens(Some("me:right"));
    let client = make(with_user(Side::Source, &fake, "wrong"));
    let (repository, name) = (fake.repository("a/b"), tag("1"));
    let all = futures::future::join_all((0..8).map(|_| client.manifest(&repository, By::Tag(&name)))).await;
    assert!(all.iter().all(|result| result.as_ref().is_err_and(|error| error.reason() == Reason::SourceAuth)));
    assert!(fake.count("GET /token") <= 4, "{:?}", fake.lines());
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_told_apart() {
    for login in [Login::Basic("me:right".to_owned()), Login::Anonymous] {
        let fake = with_manifest().await;
        match login {
            Login::Basic(_) => fake.login(login),
            _ => fake.wants_tokens(Some("me:right")),
        }
        let repository = fake.repository("a/b");
        let wrong = get(&make(with_user(Side::Source, &fake, "wrong")), &repository, "1").await.unwrap_err();
        assert_eq!((wrong.reason(), refusal(&wrong)), (Reason::SourceAuth, Refusal::Rejected));
        let missing = get(&source(&fake), &repository, "1").await.unwrap_err();
        assert_eq!((missing.reason(), refusal(&missing)), (Reason::SourceAuth, Refusal::NoCredentials));
        assert!(missing.failure().message.contains("spec.source.credentials"));
        let text = format!("{wrong} {wrong:?} {}", wrong.failure());
        assert!(!text.contains("wrong"), "{text}");
    }
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_ends_it() {
    let fake = with_manifest().await;
    fake.wants_tokens(Some("me:pw"));
    let realm = fake.url("/token");
    fake.rule(move |seen| {
        let challenge = format!("Bearer realm=\"{realm}\"");
        (seen.path != "/token").then(|| answer(401, &[("www-authenticate", &challenge)], ""))
    });
    let client = make(with_user(Side::Target, &fake, "pw"));
    let error = client.blob_exists(&fake.repository("x/y"), &Digest::of(b"")).await.unwrap_err();
    assert_eq!((error.reason(), refusal(&error)), (Reason::TargetAuth, Refusal::Rejected));
    assert_eq!(fake.count("GET /token"), 1);
}

#[tokio::test]
async fn a_token_that_says_what_it_lacks_names_the_reason() {
    for (actions, reason) in [(&[][..], Reason::TargetRepoMissing), (&["pull"], Reason::TargetAuth)] {
        let fake = FakeRegistry::start().await;
        let realm = fake.url("/token");
        let claims = serde_json::json!({ "access": [{ "type": "repository", "name": "x/y", "actions": actions }] });
        let token = format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string()));
        fake.rule(move |seen| {
            let challenge = format!("Bearer realm=\"{realm}\"");
            Some(match seen.path.as_str() {
                "/token" => answer(200, &[], serde_json::json!({ "token": token }).to_string()),
                _ => answer(401, &[("www-authenticate", &challenge)], ""),
            })
        });
        let client = make(with_user(Side::Target, &fake, "pw"));
        let error = client.start_upload(&fake.repository("x/y"), &Digest::of(b""), None).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_sent_as_it_is() {
    let fake = with_manifest().await;
    fake.wants_tokens(Some("nobody:else"));
    let identity = Credentials::none().with(&fake.registry(), Credential::Identity("refresh&me".to_owned().into()));
    let client = make(Settings { credentials: identity, ..settings(Side::Source, &[&fake]) });
    assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
    let token = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    let form: Vec<_> = url::form_urlencoded::parse(&token.body).into_owned().collect();
    let has = |name: &str, value: &str| form.contains(&(name.to_owned(), value.to_owned()));
    assert!(has("grant_type", "refresh_token") && has("refresh_token", "refresh&me"), "{form:?}");
    assert!(has("scope", "repository:a/b:pull") && has("service", "fake"), "{form:?}");

    let fake = with_manifest().await;
    fake.wants_tokens(Some("nobody:else"));
    fake.rule(|seen| {
        let fine = seen.header("authorization") == Some("Bearer as-it-is");
        fine.then(|| answer(200, &[("content-type", IMAGE)], "{}"))
    });
    let token = Credentials::none().with(&fake.registry(), Credential::Registry("as-it-is".to_owned().into()));
    let client = make(Settings { credentials: token, ..settings(Side::Source, &[&fake]) });
    assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
    assert_eq!(fake.count("GET /token"), 0);
}

#[tokio::test]
async fn the_credential_of_the_longest_path_is_the_one_that_is_sent() {
    let fake = with_manifest().await;
    fake.login(Login::Basic("deep:pw".to_owned()));
    let auth = |user: &str| base64::engine::general_purpose::STANDARD.encode(format!("{user}:pw"));
    let (host, shallow, deep) = (fake.host(), auth("shallow"), auth("deep"));
    let file = serde_json::json!({ "auths": { &host: { "auth": shallow }, format!("{host}/a/b"): { "auth": deep } } });
    let credentials = Credentials::parse(file.to_string().as_bytes()).unwrap();
    let client = make(Settings { credentials, ..settings(Side::Source, &[&fake]) });
    assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
    assert!(get(&client, &fake.repository("a/c"), "1").await.is_err());
}

#[tokio::test]
async fn refused_credentials_are_read_again_once_and_tried_if_they_changed() {
    for tokens in [true, false] {
        let fake = with_manifest().await;
        if tokens {
            fake.wants_tokens(Some("me:new"));
        } else {
            fake.login(Login::Basic("me:new".to_owned()));
        }
        let registry = fake.registry();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let reload: imageset_mirror::registry::Reload = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let credentials = Credentials::none().with(&registry, user("me", "new"));
            Box::pin(async move { Ok(credentials) })
        });
        let client = make(Settings { reload: Some(reload), ..with_user(Side::Source, &fake, "old") });
        for _ in 0..2 {
            assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
        }
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn credentials_that_did_not_change_are_not_tried_again() {
    let fake = with_manifest().await;
    fake.login(Login::Basic("me:new".to_owned()));
    let registry = fake.registry();
    let reload: imageset_mirror::registry::Reload = Arc::new(move || {
        let credentials = Credentials::none().with(&registry, user("me", "old"));
        Box::pin(async move { Ok(credentials) })
    });
    let client = make(Settings { reload: Some(reload), ..with_user(Side::Source, &fake, "old") });
    let error = get(&client, &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceAuth);
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn rubbish_from_a_token_service_is_a_registry_error_by_name() {
    for body in ["", "<html>", "[]", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"expires_in":5}"#] {
        let fake = with_manifest().await;
        fake.wants_tokens(None);
        fake.rule(move |seen| (seen.path == "/token").then(|| answer(200, &[], body)));
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::RegistryError, "{body}");
        assert!(error.failure().message.contains("token"), "{error}");
    }
    let fake = with_manifest().await;
    fake.wants_tokens(None);
    fake.rule(|seen| (seen.path == "/token").then(|| answer(200, &[], vec![b' '; 1 << 20])));
    let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::RegistryError);
}

#[tokio::test]
async fn a_challenge_that_cannot_be_answered_is_an_auth_failure() {
    for challenge in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"not an address\""] {
        let fake = with_manifest().await;
        fake.rule(move |_seen| Some(answer(401, &[("www-authenticate", challenge)], "")));
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert!(matches!(error.reason(), Reason::SourceAuth | Reason::RegistryError), "{challenge}: {error}");
    }
}

#[tokio::test]
async fn a_path_that_the_token_service_refuses_is_too_deep() {
    let fake = FakeRegistry::start().await;
    fake.wants_tokens(None);
    fake.rule(|seen| (seen.path == "/token").then(|| error(400, "NAME_INVALID", "too many components")));
    let error = target(&fake).blob_exists(&fake.repository("a/b/c/d"), &Digest::of(b"")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::PathTooDeep);
}

#[tokio::test]
async fn a_token_is_renewed_after_four_fifths_of_its_life() {
    let fake = with_manifest().await;
    fake.wants_tokens(None);
    fake.expires_in(100);
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    get(&client, &repository, "1").await.unwrap();
    get(&client, &repository, "1").await.unwrap();
    assert_eq!(fake.count("GET /token"), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(81)).await;
    tokio::time::resume();
    get(&client, &repository, "1").await.unwrap();
    assert_eq!(fake.count("GET /token"), 2);
}

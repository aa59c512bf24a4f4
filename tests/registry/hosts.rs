//! Which hosts are contacted and how: TLS, redirects, credentials, overrides, proxies.

use std::process::Command;

use imageset_mirror::failure::Reason;
use imageset_mirror::registry::{ConfigError, Override, Problem};

use super::fake::{Authority, Login, answer, html};
use super::*;

async fn with_manifest(repository: &str) -> FakeRegistry {
    let fake = FakeRegistry::start().await;
    fake.put_manifest(repository, "1", IMAGE, "{}");
    fake
}

async fn over_tls(authority: &Authority) -> FakeRegistry {
    let fake = FakeRegistry::start_tls(authority.server()).await;
    fake.put_manifest("a/b", "1", IMAGE, "{}");
    fake
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_trust_bundle() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let fake = over_tls(&ours).await;
    let repository = fake.repository("a/b");
    let with = |pem: &str| {
        make(Settings { trust_bundle: Some(pem.as_bytes().to_vec()), timing: timing(), ..Settings::new(Side::Target) })
    };
    // One of several, with text around it, is enough.
    let bundle = format!("# our CAs\n{}\nand\n{}", theirs.pem, ours.pem);
    assert!(get(&with(&bundle), &repository, "1").await.unwrap().is_some());
    let error = get(&with(&theirs.pem), &repository, "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::TLSUntrusted, "{error:?}");
    let message = error.failure().message;
    assert!(message.contains(&fake.host()) && message.contains("spec.target.trustBundle"), "{message}");
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_not_trusted_unless_told_so_for_this_host() {
    let fake = over_tls(&Authority::new("ours")).await;
    let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
    settings.trust_bundle = Some(Authority::new("other").pem.into_bytes());
    let error = get(&make(settings.clone()), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::TLSUntrusted);
    settings.tls.insert("127.0.0.1".parse().unwrap(), Tls::SkipVerify);
    assert!(get(&make(settings.clone()), &fake.repository("a/b"), "1").await.is_err(), "another port");
    settings.tls.insert(fake.registry(), Tls::SkipVerify);
    assert!(get(&make(settings), &fake.repository("a/b"), "1").await.unwrap().is_some());
}

#[tokio::test]
async fn plain_http_is_spoken_only_where_told_so() {
    let fake = with_manifest("a/b").await;
    let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
    settings.trust_bundle = Some(Authority::new("other").pem.into_bytes());
    let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::NetworkUnreachable);
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn a_trust_bundle_that_is_none_is_refused_at_once() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = "-----BEGIN CERTIFICATE-----\n!\n";
    for (text, none) in [("", true), ("no PEM at all", true), (broken, false), (torn, false)] {
        let settings = Settings { trust_bundle: Some(text.into()), ..Settings::new(Side::Target) };
        let error = Client::new(settings, Arc::new(Limits::default())).unwrap_err();
        assert!(error.to_string().contains("target"), "{error}");
        assert_eq!(matches!(error, ConfigError::NoCertificate { .. }), none, "{text}: {error:?}");
    }
}

/// A registry that sends blobs and manifests elsewhere.
fn redirect(fake: &FakeRegistry, status: u16, to: String) {
    fake.rule(move |seen| {
        let away = seen.path.starts_with("/v2/") && seen.header("authorization").is_some();
        away.then(|| answer(status, &[("location", &to)], ""))
    });
}

#[tokio::test]
async fn a_redirect_is_followed_without_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let (fake, cdn) = (FakeRegistry::start().await, with_manifest("c/d").await);
        fake.login(Login::Basic("me:pw".to_owned()));
        redirect(&fake, status, cdn.url("/v2/c/d/manifests/1?signature=s3cret"));
        let mut settings = with_user(Side::Source, &fake, "pw");
        settings.tls.insert(cdn.registry(), Tls::Plain);
        assert!(get(&make(settings), &fake.repository("a/b"), "1").await.unwrap().is_some());
        let seen = cdn.seen();
        assert_eq!((seen.len(), seen[0].header("authorization")), (1, None), "{status}");
    }
}

#[tokio::test]
async fn a_secret_in_the_body_of_a_token_request_is_not_sent_on() {
    for (status, leads) in [(301, false), (302, false), (307, false), (308, false), (303, true)] {
        let (fake, away) = (with_manifest("a/b").await, FakeRegistry::start().await);
        let to = away.url("/token");
        fake.wants_tokens(None);
        fake.rule(move |seen| (seen.path == "/token").then(|| answer(status, &[("location", &to)], "")));
        let mut settings = settings(Side::Source, &[&fake, &away]);
        settings.credentials = Credentials::none().with(&fake.registry(), Credential::Identity("s3cret".into()));
        let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason() == Reason::PolicyDenied, !leads, "{status}: {error:?}");
        assert_eq!(away.seen().is_empty(), !leads, "{status}");
        assert!(away.seen().iter().all(|seen| seen.body.is_empty()), "{status}");
    }
}

#[tokio::test]
async fn a_request_that_was_led_elsewhere_is_sent_whole_when_it_is_tried_again() {
    let fake = FakeRegistry::start().await;
    fake.times(1, ("PUT", ""), || answer(303, &[("location", "/busy")], ""));
    fake.times(1, ("GET /busy", ""), || answer(503, &[], ""));
    let manifest = raw("{}");
    target(&fake).put_manifest(&fake.repository("a/b"), By::Tag(&tag("1")), &manifest).await.unwrap();
    assert_eq!(fake.manifest("a/b", "1").unwrap(), manifest.bytes());
    let busy = fake.seen().into_iter().find(|seen| seen.path == "/busy").unwrap();
    assert_eq!((busy.header("content-type"), busy.header("content-length")), (None, None));
}

#[tokio::test]
async fn what_is_secret_in_an_address_is_not_shown() {
    let (fake, cdn) = (FakeRegistry::start().await, FakeRegistry::start().await);
    fake.login(Login::Basic("me:pw".to_owned()));
    let to = cdn.url("/x?signature=s3cret").replace("://", "://user:s3cret@");
    redirect(&fake, 307, to);
    cdn.rule(|_seen| Some(html(403)));
    let mut settings = with_user(Side::Source, &fake, "pw");
    settings.tls.insert(cdn.registry(), Tls::Plain);
    let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
    let text = format!("{error} {error:?} {}", error.failure());
    assert!(text.contains(&cdn.host()) && !text.contains("s3cret"), "{text}");
    assert_eq!(cdn.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_relative_redirect_stays_at_the_registry_with_credentials() {
    let fake = with_manifest("c/d").await;
    fake.login(Login::Basic("me:pw".to_owned()));
    fake.rule(|seen| {
        let away = seen.path.starts_with("/v2/a/b/") && seen.header("authorization").is_some();
        away.then(|| answer(307, &[("location", "../../c/../../c/d/manifests/1")], ""))
    });
    let client = make(with_user(Side::Source, &fake, "pw"));
    assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
}

#[tokio::test]
async fn redirects_in_a_circle_or_without_end_are_a_named_error() {
    for circle in [true, false] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |seen| {
            let next = if circle { seen.path.clone() } else { format!("{}x", seen.path) };
            Some(answer(307, &[("location", &next)], ""))
        });
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::RegistryError);
        assert!(matches!(error.problem(), Problem::RedirectLoop { .. }));
        assert!(fake.seen().len() <= 11);
    }
}

#[tokio::test]
async fn https_is_never_left_for_plain_http_unless_the_host_is_set_so() {
    let authority = Authority::new("ours");
    let (fake, cdn) = (FakeRegistry::start_tls(authority.server()).await, with_manifest("c/d").await);
    let to = cdn.url("/v2/c/d/manifests/1");
    fake.rule(move |_seen| Some(answer(307, &[("location", &to)], "")));
    let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
    settings.trust_bundle = Some(authority.pem.clone().into_bytes());
    let error = get(&make(settings.clone()), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::PolicyDenied);
    assert!(error.failure().message.contains(&cdn.host()), "{}", error.failure());
    assert!(cdn.seen().is_empty());
    settings.tls.insert(cdn.registry(), Tls::Plain);
    assert!(get(&make(settings), &fake.repository("a/b"), "1").await.unwrap().is_some());
}

#[tokio::test]
async fn nobody_sends_us_to_metadata_services() {
    for address in ["http://169.254.169.254/latest", "https://169.254.169.254/", "https://[::ffff:169.254.169.254]/"] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(answer(307, &[("location", address)], "")));
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::PolicyDenied, "{address}");
    }
    // Nor by a realm or an upload location.
    let fake = FakeRegistry::start().await;
    fake.login(Login::Bearer { realm: "https://169.254.169.254/token".to_owned(), user: None });
    let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::PolicyDenied);
    assert!(error.failure().message.contains("169.254.169.254"), "{}", error.failure());
    let fake = FakeRegistry::start().await;
    fake.rule(|_seen| Some(answer(202, &[("location", "https://169.254.169.254/up")], "")));
    let bytes = Bytes::from_static(b"x");
    let put = target(&fake).put_bytes(&fake.repository("x/y"), &Digest::of(&bytes), bytes).await;
    assert_eq!(put.unwrap_err().reason(), Reason::PolicyDenied);
}

#[tokio::test]
async fn a_redirect_to_something_else_than_http_is_refused() {
    for address in ["file:///etc/passwd", "ftp://h/x", "data:text/plain,x"] {
        let fake = FakeRegistry::start().await;
        fake.rule(move |_seen| Some(answer(302, &[("location", address)], "")));
        let error = get(&source(&fake), &fake.repository("a/b"), "1").await.unwrap_err();
        assert_eq!(error.reason(), Reason::PolicyDenied, "{address}");
    }
}

#[tokio::test]
async fn a_realm_on_another_host_gets_the_credentials_of_the_registry() {
    let (fake, auth) = (with_manifest("a/b").await, FakeRegistry::start().await);
    fake.login(Login::Bearer { realm: auth.url("/token?keep=1"), user: None });
    auth.rule(|_seen| Some(answer(200, &[], r#"{"token":"t"}"#)));
    fake.rule(|seen| (seen.header("authorization") == Some("Bearer t")).then(|| answer(200, &[], "{}")));
    let client = make(with_user(Side::Source, &fake, "pw"));
    assert!(get(&client, &fake.repository("a/b"), "1").await.unwrap().is_some());
    let seen = auth.seen();
    assert!(seen[0].header("authorization").unwrap().starts_with("Basic "));
    assert_eq!(seen[0].query["keep"], ["1"]);
}

#[tokio::test]
async fn a_plain_realm_of_a_registry_with_tls_gets_nothing() {
    let authority = Authority::new("ours");
    let (fake, auth) = (FakeRegistry::start_tls(authority.server()).await, FakeRegistry::start().await);
    fake.login(Login::Bearer { realm: auth.url("/token"), user: None });
    let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
    settings.credentials = Credentials::none().with(&fake.registry(), user("me", "pw"));
    settings.trust_bundle = Some(authority.pem.clone().into_bytes());
    let error = get(&make(settings), &fake.repository("a/b"), "1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::PolicyDenied);
    assert!(auth.seen().is_empty());
}

#[tokio::test]
async fn an_upload_may_lead_elsewhere_and_gets_no_credentials_there() {
    let (fake, store) = (FakeRegistry::start().await, FakeRegistry::start().await);
    fake.login(Login::Basic("me:pw".to_owned()));
    let to = store.url("/up?state=1");
    fake.rule(move |seen| {
        let begins = seen.method == "POST" && seen.header("authorization").is_some();
        begins.then(|| answer(202, &[("location", &to)], ""))
    });
    store.rule(|_seen| Some(answer(201, &[], "")));
    let mut settings = with_user(Side::Target, &fake, "pw");
    settings.tls.insert(store.registry(), Tls::Plain);
    let bytes = Bytes::from_static(b"x");
    make(settings).put_bytes(&fake.repository("x/y"), &Digest::of(&bytes), bytes.clone()).await.unwrap();
    let seen = store.seen();
    assert_eq!((seen.len(), seen[0].header("authorization")), (1, None));
    assert_eq!(seen[0].query["digest"], [Digest::of(&bytes).to_string()]);
    assert_eq!(seen[0].query["state"], ["1"]);
}

#[tokio::test]
async fn mirrors_are_read_in_order_and_the_original_only_if_listed() {
    let (original, first, second) =
        (with_manifest("acme/tool").await, FakeRegistry::start().await, with_manifest("x/tool").await);
    let rule = Override {
        source: format!("{}/acme", original.host()).parse().unwrap(),
        mirrors: vec![first.host().parse().unwrap(), format!("{}/x", second.host()).parse().unwrap()],
    };
    let mut settings = settings(Side::Source, &[&original, &first, &second]);
    settings.overrides = vec![rule];
    let client = make(settings);
    let repository = original.repository("acme/tool");
    assert!(get(&client, &repository, "1").await.unwrap().is_some());
    assert_eq!(client.resolve(&repository, &tag("2")).await.unwrap(), None);
    assert_eq!((first.seen().len(), second.seen().len(), original.seen().len()), (2, 2, 0));
    // A mirror that is out of order does not make anything absent.
    first.rule(|_seen| Some(html(404)));
    assert!(client.resolve(&repository, &tag("2")).await.is_err());
    assert!(get(&client, &repository, "1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_target_is_not_overridden() {
    let (original, mirror) = (with_manifest("a/b").await, with_manifest("a/b").await);
    let mut settings = settings(Side::Target, &[&original, &mirror]);
    let mirrors = vec![mirror.host().parse().unwrap()];
    settings.overrides = vec![Override { source: original.host().parse().unwrap(), mirrors }];
    assert!(get(&make(settings), &original.repository("a/b"), "1").await.unwrap().is_some());
    assert!(mirror.seen().is_empty());
}

/// Set in the process that runs one of the tests below with other variables.
const INNER: &str = "IMAGESET_MIRROR_TEST_REGISTRY";

/// Runs a test of this program in a process with these variables.
async fn rerun(name: &str, variables: Vec<(&'static str, String)>) {
    let name = format!("hosts::{name}");
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        for variable in ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(variable);
        }
        command.args(["--exact", &name, "--nocapture"]).envs(variables).output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_except_where_it_says_no() {
    if let Ok(host) = std::env::var(INNER) {
        let repository: Repository = format!("{host}/a/b").parse().unwrap();
        let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
        settings.tls.insert(repository.registry().clone(), Tls::Plain);
        assert!(get(&make(settings), &repository, "1").await.unwrap().is_some());
        return;
    }
    let name = "the_proxy_of_the_environment_is_used_except_where_it_says_no";
    for (proxy_variable, no_proxy_variable) in [("HTTP_PROXY", "NO_PROXY"), ("http_proxy", "no_proxy")] {
        let (proxy, fake) = (with_manifest("a/b").await, with_manifest("a/b").await);
        let proxied = vec![(INNER, "registry.invalid".to_owned()), (proxy_variable, proxy.url("/"))];
        rerun(name, proxied).await;
        assert_eq!(proxy.seen()[0].header("host"), Some("registry.invalid"));
        let direct = vec![
            (INNER, fake.host()),
            (proxy_variable, proxy.url("/")),
            (no_proxy_variable, "example.com,127.0.0.1".to_owned()),
        ];
        rerun(name, direct).await;
        assert_eq!((proxy.seen().len(), fake.seen().len()), (1, 1));
    }
}

#[tokio::test]
async fn the_systems_certificates_are_those_of_the_environment_and_a_bundle_adds_to_them() {
    if let Ok(host) = std::env::var(INNER) {
        let repository: Repository = format!("{host}/a/b").parse().unwrap();
        let mut settings = Settings { timing: timing(), ..Settings::new(Side::Source) };
        assert!(get(&make(settings.clone()), &repository, "1").await.unwrap().is_some());
        settings.trust_bundle = Some(Authority::new("other").pem.into_bytes());
        assert!(get(&make(settings), &repository, "1").await.unwrap().is_some());
        return;
    }
    let authority = Authority::new("system");
    let fake = over_tls(&authority).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &authority.pem).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let name = "the_systems_certificates_are_those_of_the_environment_and_a_bundle_adds_to_them";
    rerun(name, vec![(INNER, fake.host()), ("SSL_CERT_FILE", path)]).await;
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_long_stay_at_one_registry_uses_few_connections() {
    // Answers are read to their end, errors and redirects too, so that connections can be used again.
    let fake = with_manifest("a/b").await;
    fake.wants_tokens(None);
    fake.expires_in(3600);
    let (client, repository) = (source(&fake), fake.repository("a/b"));
    for name in ["1", "2", "1", "2"] {
        get(&client, &repository, name).await.unwrap();
    }
    let ports: std::collections::BTreeSet<_> = fake.seen().into_iter().map(|seen| seen.peer).collect();
    assert_eq!(ports.len(), 1);
}

//! Passwords and tokens are in no log line, however much is logged, and in nothing that is written to the API server.

use e2e::image::ImageSpec;
use e2e::operator::Overrides;
use e2e::registry::{Options, login};
use e2e::wait::{LONG, until_ready, until_reason};
use e2e::world::{Setup, World, logins};
use serde_json::json;

const GUESS: &str = "a-guess-that-nobody-may-see";

#[tokio::test]
async fn passwords_and_tokens_are_in_no_log_and_in_no_object() {
    let setup = Setup {
        source: Options::distribution("source").tls().basic("puller", "source-password"),
        target: Options::distribution("target").token("pusher", "target-password"),
        ..Setup::default()
    };
    let world = World::start_with(setup).await.expect("the world starts");
    let operator = world.operator_with(&Overrides::default().flag("--log-level", "trace")).await.expect("it starts");
    world.source().expect("a client").push_image("app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let namespace = world.namespace();
    let mirrors = world.mirrors(namespace).await.expect("a client");
    world.apply(&world.image_set_mirror(namespace, "right", &["app:v1"])).await.expect("accepted");
    until_ready(&mirrors, "right", LONG).await.expect("Ready");
    assert!(world.target.token_server().expect("there is one").issued() > 0);
    let wrong = login("somebody", GUESS);
    for (side, host) in [("source", &world.source_host), ("target", &world.target_host)] {
        let name = format!("wrong-{side}");
        world.apply(&logins(namespace, &name, &[(host, &wrong)])).await.expect("accepted");
        let mut object = world.image_set_mirror(namespace, &name, &["app:v1"]);
        object["spec"]["target"]["pathPrefix"] = json!(name);
        object["spec"][side]["credentials"] = json!({"name": name});
        world.apply(&object).await.expect("accepted");
        let refused = until_reason(&mirrors, &name, ("Ready", "False", "AuthenticationFailed"), LONG);
        refused.await.expect("the password is refused");
    }

    let written = ["get", "imagesetmirrors,configmaps,events,leases,imagedigestmirrorsets", "-A", "-o", "yaml"];
    let written = world.cluster.kubectl(&written).await.expect("kubectl").ok().expect("objects");
    assert!(written.contains("AuthenticationFailed") && written.contains("right-report-0"));
    let logged = operator.log();
    assert!(
        logged.contains(r#""level":"trace""#) && logged.contains("\"msg\":"),
        "too little is logged to prove anything"
    );
    // Every token begins like this, those of Kubernetes too.
    let mut secrets = vec!["eyJ".to_owned(), GUESS.to_owned()];
    let known = [&world.source, &world.target].map(|registry| registry.login().expect("a login").clone());
    for login in [&wrong, &known[0], &known[1]] {
        secrets.extend([login.password.clone(), login.basic()]);
    }
    for secret in secrets {
        for (place, text) in [("log", &logged), ("object", &written)] {
            let line = text.lines().find(|line| line.contains(&secret));
            assert_eq!(line, None, "`{secret}` is in a line of the {place}");
        }
    }
}

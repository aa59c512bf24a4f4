//! What is missing or wrong is named; once it is repaired the object becomes Ready, and the operator is never restarted.

use e2e::image::{ImageSpec, Login};
use e2e::operator::Operator;
use e2e::pki::Authority;
use e2e::registry::login;
use e2e::wait::{LONG, condition, has_condition, until, until_ready, until_reason};
use e2e::world::{CA_KEY, SOURCE_CA, SOURCE_LOGIN, TARGET_CA, TARGET_LOGIN, World, config_map, logins};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

/// An object that is Ready all along.
const STEADY: &str = "steady";

/// A world in which one object is Ready, whatever happens to others.
struct Scene {
    world: World,
    operator: Operator,
    mirrors: Api<DynamicObject>,
    steady: Option<String>,
}

impl Scene {
    async fn start() -> Self {
        let world = World::start().await.expect("the world starts");
        let operator = world.operator().await.expect("the operator starts");
        world.source().expect("a client").push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
        let mirrors = world.mirrors(world.namespace()).await.expect("a client");
        world.apply(&world.image_set_mirror(world.namespace(), STEADY, &["team/app:v1"])).await.expect("it is taken");
        let steady = until_ready(&mirrors, STEADY, LONG).await.expect("it becomes Ready");
        let steady = steady.metadata.resource_version;
        Self { world, operator, mirrors, steady }
    }

    /// An object that differs from the steady one in its prefix, and in what `change` does to its spec.
    async fn apply(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.world.image_set_mirror(self.world.namespace(), name, &["team/app:v1"]);
        object["spec"]["target"]["pathPrefix"] = json!(name);
        change(&mut object["spec"]);
        self.world.apply(&object).await.expect("the object is taken");
    }

    /// Waits until the object says why it is not Ready; the message must have all of `parts`.
    async fn until_not_ready(&self, name: &str, reason: &str, parts: &[&str]) {
        until(&self.mirrors, name, LONG, &format!("not Ready for {reason} ({})", parts.join(", ")), |object| {
            condition(object, "Ready").is_some_and(|ready| {
                let told = parts.iter().all(|part| ready.message.contains(part));
                ready.status == "False" && ready.reason == reason && told
            })
        })
        .await
        .expect("it is named");
    }

    /// Waits until the object is Ready and what it wants is in the target.
    async fn until_ready(&self, name: &str) {
        until_ready(&self.mirrors, name, LONG).await.expect("it becomes Ready");
        let target = self.world.target().expect("a client");
        target.walk(&format!("{name}/team/app"), "v1").await.expect("it is in the target");
    }

    /// Asks for a sync, as somebody does who does not want to wait, and waits until its start is noted.
    async fn request(&self, name: &str, token: &str) {
        let patch = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": token}}});
        self.mirrors.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the annotation");
        until(&self.mirrors, name, LONG, "asked", |object| object.data["status"]["lastHandledRequest"] == token)
            .await
            .expect("the request is seen");
    }

    /// The steady object was not even written to, and the operator is the process it was.
    async fn assert_undisturbed(&mut self) {
        let steady = self.mirrors.get(STEADY).await.expect("the object");
        assert_eq!(steady.metadata.resource_version, self.steady, "{:#?}", steady.data["status"]);
        assert_eq!(self.operator.process().try_wait().expect("its state"), None, "the operator runs");
        assert!(self.operator.is_ready().await);
    }

    async fn logins(&self, name: &str, host: &str, login: &Login) {
        self.world.apply(&logins(self.world.namespace(), name, &[(host, login)])).await.expect("a Secret");
    }

    async fn bundle(&self, name: &str, key: &str, pem: &str) {
        self.world.apply(&config_map(self.world.namespace(), name, key, pem)).await.expect("a ConfigMap");
    }
}

#[tokio::test]
async fn a_missing_secret_is_named_and_taken_as_soon_as_it_is_there() {
    let mut scene = Scene::start().await;
    for side in ["source", "target"] {
        let (name, secret) = (format!("secret-{side}"), format!("late-{side}"));
        scene.apply(&name, |spec| spec[side]["credentials"] = json!({"name": secret})).await;
        let field = format!("spec.{side}.credentials");
        scene.until_not_ready(&name, "SecretNotFound", &[&field, &secret, scene.world.namespace()]).await;
    }
    // One that is there and of no use is another matter.
    let useless = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late-source", "namespace": scene.world.namespace()},
        "stringData": {"password": "x"},
    });
    scene.world.apply(&useless).await.expect("a Secret");
    scene.until_not_ready("secret-source", "SecretInvalid", &["late-source", ".dockerconfigjson"]).await;
    // The type of a Secret cannot be changed.
    let delete = ["delete", "secret", "late-source", "-n", scene.world.namespace()];
    scene.world.cluster.kubectl(&delete).await.expect("kubectl").ok().expect("it goes");
    for (registry, side) in [(&scene.world.source, "source"), (&scene.world.target, "target")] {
        scene.logins(&format!("late-{side}"), &registry.host(), registry.login().expect("a login")).await;
    }
    // Nobody asks: it is looked for again and again.
    scene.until_ready("secret-source").await;
    scene.until_ready("secret-target").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_missing_or_broken_trust_bundle_is_named_and_taken_once_it_is_repaired() {
    let mut scene = Scene::start().await;
    scene.apply("bundle", |spec| spec["source"]["trustBundle"] = json!({"name": "late-ca", "key": "ca.pem"})).await;
    scene.until_not_ready("bundle", "ConfigMapNotFound", &["spec.source.trustBundle", "late-ca"]).await;
    let pem = scene.world.source.ca_pem().expect("it speaks TLS");
    scene.bundle("late-ca", "other.pem", &pem).await;
    scene.until_not_ready("bundle", "ConfigMapNotFound", &["late-ca", "has no key `ca.pem`"]).await;
    scene.bundle("late-ca", "ca.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n").await;
    scene.until_not_ready("bundle", "TrustBundleInvalid", &["spec.source.trustBundle"]).await;
    scene.bundle("late-ca", "ca.pem", &pem).await;
    scene.until_ready("bundle").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_wrong_password_is_named_with_its_side_and_host_and_the_right_one_helps() {
    let mut scene = Scene::start().await;
    let (source, target) = (scene.world.source.host(), scene.world.target.host());
    for (side, host) in [("source", &source), ("target", &target)] {
        let secret = format!("wrong-{side}");
        scene.logins(&secret, host, &login("somebody", "a guess")).await;
        scene.apply(&format!("password-{side}"), |spec| spec[side]["credentials"] = json!({"name": secret})).await;
    }
    let parts = [source.as_str(), "credentials are refused", "spec.source.credentials"];
    let named = until_reason(&scene.mirrors, "password-source", ("Ready", "False", "AuthenticationFailed"), LONG);
    let named = named.await.expect("it is named");
    let failures = named.data["status"]["failures"].to_string();
    assert!(failures.contains("SourceAuth") && parts.iter().all(|part| failures.contains(part)), "{failures}");
    let parts = [target.as_str(), "credentials are refused", "spec.target.credentials"];
    scene.until_not_ready("password-target", "AuthenticationFailed", &parts).await;
    for (side, registry) in [("source", &scene.world.source), ("target", &scene.world.target)] {
        scene.logins(&format!("wrong-{side}"), &registry.host(), registry.login().expect("a login")).await;
    }
    // Nobody asks: it is tried again and again, with what the Secret has by then.
    for name in ["password-source", "password-target"] {
        scene.until_ready(name).await;
    }
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_named_and_the_right_bundle_helps() {
    let mut scene = Scene::start().await;
    let stranger = Authority::new("a stranger").expect("an authority").pem();
    for side in ["source", "target"] {
        scene.bundle(&format!("{side}-stranger"), CA_KEY, &stranger).await;
        let bundle = json!({"name": format!("{side}-stranger"), "key": CA_KEY});
        scene.apply(&format!("stranger-{side}"), |spec| spec[side]["trustBundle"] = bundle).await;
    }
    let hosts = [("source", scene.world.source.host()), ("target", scene.world.target.host())];
    for (side, host) in &hosts {
        let name = format!("stranger-{side}");
        let named = until(&scene.mirrors, &name, LONG, "not Ready", |object| {
            condition(object, "Ready").is_some_and(|ready| ready.status == "False")
        });
        let status = named.await.expect("it is named").data["status"].to_string();
        for part in [host.as_str(), "not trusted", &format!("spec.{side}.trustBundle")] {
            assert!(status.contains(part), "no `{part}` in {status}");
        }
    }
    for (side, registry) in [("source", &scene.world.source), ("target", &scene.world.target)] {
        scene.bundle(&format!("{side}-stranger"), CA_KEY, &registry.ca_pem().expect("it speaks TLS")).await;
    }
    for (side, _) in &hosts {
        scene.until_ready(&format!("stranger-{side}")).await;
    }
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_named_and_used_once_it_is_up() {
    let mut scene = Scene::start().await;
    scene.world.target.stop().await.expect("it stops");
    scene.apply("target-down", |_| {}).await;
    let host = scene.world.target.host();
    scene.until_not_ready("target-down", "TargetUnreachable", &[&host, "no connection"]).await;
    scene.world.target.restart().await.expect("it starts");
    // Nobody asks: the sync is tried again by itself.
    scene.until_ready("target-down").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_is_named_and_used_once_it_is_up() {
    let mut scene = Scene::start().await;
    scene.world.source.stop().await.expect("it stops");
    scene.apply("source-down", |_| {}).await;
    let host = scene.world.source.host();
    scene.until_not_ready("source-down", "SourceUnreachable", &[&host, "no connection"]).await;
    scene.world.source.restart().await.expect("it starts");
    scene.until_ready("source-down").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn passwords_and_authorities_may_change_while_the_operator_runs() {
    let mut scene = Scene::start().await;
    scene.apply("rotated", |_| {}).await;
    scene.until_ready("rotated").await;
    scene.world.source.change_password("another source password").await.expect("a new password");
    scene.world.source.change_ca().await.expect("a new CA");
    scene.world.target.change_password("another target password").await.expect("a new password");
    scene.world.target.change_ca().await.expect("a new CA");
    let namespace = scene.world.namespace().to_owned();
    let before = read(&scene.world, &namespace).await;
    scene.world.add_access(&namespace).await.expect("the new Secrets and ConfigMaps");
    assert_ne!(read(&scene.world, &namespace).await, before, "they have changed");

    // New content, so that the sync needs both sides for more than a look.
    let image = ImageSpec::seeded(2);
    let moved = scene.world.source().expect("a client").push_image("team/app", "v1", image).await.expect("an image");
    let mirrored = scene.mirrors.get("rotated").await.expect("the object").data["status"]["mirrored"]["digest"].clone();
    scene.request("rotated", "after the rotation").await;
    until(&scene.mirrors, "rotated", LONG, "synced after the rotation", |object| {
        let status = &object.data["status"];
        status["mirrored"]["digest"] != mirrored && has_condition(object, "UpToDate", "True")
    })
    .await
    .expect("the next sync succeeds");
    let target = scene.world.target().expect("a client");
    assert_eq!(target.walk("rotated/team/app", "v1").await.expect("it is there").root, moved.digest);
    scene.assert_undisturbed().await;
}

async fn read(world: &World, namespace: &str) -> String {
    let names = [
        format!("secret/{SOURCE_LOGIN}"),
        format!("secret/{TARGET_LOGIN}"),
        format!("configmap/{SOURCE_CA}"),
        format!("configmap/{TARGET_CA}"),
    ];
    let args = ["get", "-n", namespace, "-o", "jsonpath={.items[*].data}"];
    let args: Vec<&str> = args.into_iter().chain(names.iter().map(String::as_str)).collect();
    world.cluster.kubectl(&args).await.expect("kubectl").ok().expect("they are there")
}

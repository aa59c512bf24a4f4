//! The session that `README.md` shows is one that took place: run here again, with nothing replaced but the names of hosts and the
//! time that has passed.

use std::process::{Command, Stdio};

use e2e::image::{ImageSpec, docker_config};
use e2e::operator::binary;
use e2e::readme;
use e2e::wait::{LONG, until_ready};
use e2e::world::World;
use serde_json::json;

/// The names that hosts have in the session: as long as the ones here, so that columns stay where they are.
const SOURCE: &str = "source.lab:5000";
const TARGET: &str = "mirror.lab:5000";

const FILE: &str = "
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror:
  additionalImages:
  - name: SOURCE/team/app:1.2
  - name: SOURCE/team/web:2.0
  - name: SOURCE/tools/cli:1.0
    targetRepo: cli
";

/// What the program prints on standard output, and at its end as in a terminal.
async fn print(world: &World, line: &str) -> String {
    let folder = world.cluster.run().folder("session").expect("a folder");
    let words: Vec<String> = line.split(' ').map(|word| word.replace(TARGET, &world.target_host)).collect();
    let mut command = Command::new(binary().expect("the binary"));
    command.args(&words[1..]).env_clear().current_dir(&folder).stdin(Stdio::null());
    command.env("REGISTRY_AUTH_FILE", "auth.json").env("SSL_CERT_FILE", "ca.pem");
    command.env("KUBECONFIG", world.cluster.kubeconfig());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let text = text.replace(&world.source_host, SOURCE).replace(&world.target_host, TARGET);
    format!("$ {line}\n{text}")
}

#[tokio::test]
async fn the_session_in_the_readme_is_what_the_program_prints() {
    let world = World::start().await.expect("the world starts");
    assert_eq!((world.source_host.len(), world.target_host.len()), (SOURCE.len(), TARGET.len()));
    let source = world.source().expect("a client");
    source.push_image("team/app", "1.2", ImageSpec::seeded(1).layers(2, 900_000)).await.expect("an image");
    source
        .push_index("team/web", "2.0", ImageSpec::seeded(2).layers(1, 700_000), &["amd64", "arm64"])
        .await
        .expect("an index");
    source.push_image("tools/cli", "1.0", ImageSpec::seeded(3).layers(1, 300_000)).await.expect("an image");
    let folder = world.cluster.run().folder("session").expect("a folder");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a file");
    let logins = [&world.source, &world.target].map(|registry| (registry.host(), registry.login().expect("a login")));
    let logins = logins.each_ref().map(|(host, login)| (host.as_str(), *login));
    write("auth.json", docker_config(&logins));
    write("ca.pem", [&world.source, &world.target].map(|registry| registry.ca_pem().expect("a CA")).concat());
    write("imageset.yaml", FILE.replace("SOURCE", &world.source_host));

    let plan = format!("imageset-mirror plan -f imageset.yaml --to {TARGET}/ocp");
    let mirror = format!("imageset-mirror mirror -f imageset.yaml --to {TARGET}/ocp --out resources/");
    let mut session = Vec::new();
    for line in [&plan, &mirror, &format!("{plan} --diff")] {
        session.push(print(&world, line).await);
    }

    // What is in the folder can be applied as a whole.
    let resources = folder.join("resources").display().to_string();
    let applied = world.cluster.kubectl(&["apply", "--server-side", "--dry-run=server", "-k", &resources]).await;
    let applied = applied.expect("kubectl").ok().expect("the API server takes it");
    assert!(applied.contains("imagetagmirrorset.config.openshift.io/"), "{applied}");

    let mut object = world.image_set_mirror(world.namespace(), "team", &["team/app:1.2", "team/web:2.0"]);
    object["spec"]["target"]["pathPrefix"] = json!("ocp");
    let _operator = world.operator().await.expect("the operator starts");
    world.apply(&object).await.expect("the object is taken");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    until_ready(&mirrors, "team", LONG).await.expect("it becomes Ready");
    let status = print(&world, &format!("imageset-mirror status -n {} team", world.namespace())).await;
    let passed =
        |line: &str| if line.starts_with("  synced ") { "  synced     12s ago".to_owned() } else { line.to_owned() };
    session.push(status.lines().map(|line| passed(line) + "\n").collect());
    readme::session("### A session", &session.join("\n")).expect("it is the one in the README");
}

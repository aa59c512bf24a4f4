//! The command line against real registries: what it copies, what it prints, and the codes it exits with.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::image::{ImageSpec, docker_config, signature_tag};
use e2e::mirrorconf;
use e2e::operator::{binary, repository};
use e2e::process::RunFolder;
use e2e::registry::{Options, Registry};
use serde_json::Value;

/// Two registries and a folder with what a user would have there: an auth file, and the certificates.
struct Desk {
    source: Registry,
    target: Registry,
    run: RunFolder,
    auth: String,
    ca: String,
    /// The flag for the server that gives the target's tokens, which has no certificate.
    tokens: String,
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Desk {
    async fn start() -> Self {
        let source = Options::distribution("source").tls().basic("puller", "source-password");
        let target = Options::distribution("target").tls().token("pusher", "target-password");
        let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
        let run = RunFolder::create("command-line").expect("a folder");
        let login = |registry: &Registry| registry.login().expect("a login").clone();
        let logins = docker_config(&[(&source.host(), &login(&source)), (&target.host(), &login(&target))]);
        let auth = path(&run.write("auth.json", logins).expect("a file"));
        let pem = [&source, &target].map(|registry| registry.ca_pem().expect("a certificate")).concat();
        let ca = path(&run.write("ca.pem", pem).expect("a file"));
        let realm = target.token_server().expect("a token server").realm().to_owned();
        let host = realm.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("a host");
        let tokens = format!("--tls={host}=plain");
        Self { source, target, run, auth, ca, tokens }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let text = text.replace("SOURCE", &self.source.host()).replace("TARGET", &self.target.host());
        path(&self.run.write(name, text).expect("a file"))
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[]).await
    }

    /// The usual flags for credentials and certificates, and these.
    async fn go(&self, args: &[&str]) -> Ran {
        self.run(&[args, &["--authfile", &self.auth, "--ca", &self.ca, &self.tokens]].concat()).await
    }

    async fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(binary().expect("the binary"));
        command.args(args).env_clear().env("HOME", self.run.path()).envs(env.iter().copied());
        command.current_dir(self.run.path()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Fills the source: an image, an index with a signature, and gives their digests.
    async fn fill(&self) -> [String; 2] {
        let source = self.source.remote().expect("a client");
        let app = source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
        let tool = source.push_index("tools/tool", "v1", ImageSpec::seeded(2), &["amd64", "arm64"]).await;
        let tool = tool.expect("an index");
        source.push_signature("tools/tool", &tool.digest, 3).await.expect("a signature");
        [app.digest, tool.digest]
    }

    /// Everything written to the target after `mark`.
    async fn written(&self, mark: e2e::registry::LogMark) -> Vec<String> {
        let requests = self.target.requests_since(mark).await.expect("the log");
        let written = requests.iter().filter(|request| request.is_write());
        written.map(|request| format!("{} {}", request.method, request.path)).collect()
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

const HEAD: &str = "
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  additionalImages:
";

const TWO: &str = "
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  additionalImages:
  - name: SOURCE/team/app@DIGEST
  - name: SOURCE/tools/tool:v1
";

#[tokio::test]
async fn a_file_of_oc_mirror_is_mirrored_and_the_second_run_sends_nothing() {
    let desk = Desk::start().await;
    let [app, tool] = desk.fill().await;
    let file = desk.file("imageset.yaml", &TWO.replace("DIGEST", &app));
    let to = format!("{}/ocp", desk.target.host());
    let out = desk.run.path().join("new/resources");
    let args = ["mirror", "-f", &file, "--to", &to, "--out", &path(&out)];
    let ran = desk.go(&args).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.starts_with("2 images: 2 copied, 0 present, 0 failed"), "{ran:#?}");
    for destination in ["ocp/team/app", "ocp/tools/tool:v1"] {
        assert!(ran.err.contains(&format!("copied   {}/{destination}", desk.target.host())), "{ran:#?}");
    }
    let (source, target) = (desk.source.remote().expect("a client"), desk.target.remote().expect("a client"));
    let there = source.walk("tools/tool", "v1").await.expect("the source has it");
    assert_eq!(target.walk("ocp/tools/tool", "v1").await.expect("everything is there"), there);
    assert!(target.manifest("ocp/team/app", &app).await.expect("an answer").is_some());

    // What a cluster needs lies in the folder, and leads nodes to the target.
    let digests = fs::read_to_string(out.join("idms.yaml")).expect("the digest rules");
    let tags = fs::read_to_string(out.join("itms.yaml")).expect("the tag rules");
    let specs = [format!("{}/team/app@{app}", desk.source.host()), format!("{}/tools/tool:v1", desk.source.host())];
    let specs = specs.each_ref().map(String::as_str);
    let verdict = mirrorconf::judge(&format!("{digests}\n---\n{tags}"), &specs).await.expect("a verdict");
    assert_eq!(verdict.first(specs[0]), Some(format!("{to}/team/app@{app}").as_str()));
    assert_eq!(verdict.first(specs[1]), Some(format!("{to}/tools/tool:v1").as_str()));

    let folder = desk.source.host().replace(':', "_");
    let hosts = fs::read_to_string(out.join(format!("certs.d/{folder}_/hosts.toml"))).expect("a file for containerd");
    assert!(hosts.contains(&format!("[host.\"https://{}/v2/ocp\"]", desk.target.host())), "{hosts}");

    let mark = desk.target.mark().await.expect("a mark");
    let again = desk.go(&args).await;
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert!(again.out.starts_with("2 images: 0 copied, 2 present, 0 failed"), "{again:#?}");
    assert_eq!(desk.written(mark).await, Vec::<String>::new());

    let json = desk.go(&[args.as_slice(), &["-o", "json"]].concat()).await;
    assert_eq!(json.code, Some(0), "{json:#?}");
    let value: Value = serde_json::from_str(&json.out).expect("one JSON document and nothing else");
    assert_eq!(value["complete"], true, "{value:#}");
    let items = value["report"]["items"].as_array().expect("items");
    assert_eq!(items.len(), 2, "{value:#}");
    assert!(json.out.contains(&tool) && json.out.contains(&app), "digests are part of it: {value:#}");
}

#[tokio::test]
async fn a_plan_says_what_would_be_copied_and_writes_nothing() {
    let desk = Desk::start().await;
    let [app, tool] = desk.fill().await;
    let file = desk.file("imageset.yaml", &TWO.replace("DIGEST", &app));
    let (host, target) = (desk.source.host(), desk.target.host());
    let args = ["plan", "-f", &file, "--to", &target];
    let mark = desk.target.mark().await.expect("a mark");

    let table = desk.go(&args).await;
    assert_eq!(table.code, Some(0), "{table:#?}");
    let rows: Vec<_> = table.out.lines().filter(|line| line.starts_with("missing")).collect();
    assert_eq!(rows.len(), 2, "{table:#?}");
    assert!(rows[1].contains(&format!("{target}/tools/tool:v1")) && rows[1].contains(&format!("{host}/tools/tool")));
    assert!(table.out.contains("2 images"), "{table:#?}");
    assert!(table.out.contains(&format!("{host}/team -> {target}/team")), "the rules are shown: {table:#?}");

    let mapping = desk.go(&[args.as_slice(), &["-o", "mapping"]].concat()).await;
    assert_eq!(mapping.code, Some(0), "{mapping:#?}");
    let lines: Vec<_> = mapping.out.lines().collect();
    assert_eq!(lines.len(), 2, "{mapping:#?}");
    assert!(
        lines.is_sorted()
            && lines[0].starts_with(&format!("docker://{host}/team/app@{app}=docker://{target}/team/app"))
    );
    assert!(lines[1].contains(&format!("=docker://{target}/tools/tool:v1")), "{mapping:#?}");

    let json = desk.go(&[args.as_slice(), &["-o", "json"]].concat()).await;
    assert_eq!(json.code, Some(0), "{json:#?}");
    let value: Value = serde_json::from_str(&json.out).expect("one JSON document and nothing else");
    assert_eq!(value["plan"]["items"].as_array().map(Vec::len), Some(2), "{value:#}");
    assert!(value["missingBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{value:#}");
    assert_eq!(value["presentBytes"], 0, "{value:#}");
    assert!(value["resources"]["idms.yaml"].as_str().is_some_and(|text| text.contains("/team")), "{value:#}");
    assert!(json.out.contains(&tool), "{value:#}");
    assert_eq!(desk.written(mark).await, Vec::<String>::new());

    assert_eq!(desk.go(&["mirror", "-f", &file, "--to", &target]).await.code, Some(0));
    let table = desk.go(&args).await;
    assert_eq!(table.code, Some(0), "{table:#?}");
    assert_eq!(table.out.lines().filter(|line| line.starts_with("present")).count(), 2, "{table:#?}");
    assert!(table.out.contains("0 B to copy"), "{table:#?}");
}

#[tokio::test]
async fn an_object_is_mirrored_with_flags_in_place_of_what_only_a_cluster_has() {
    let desk = Desk::start().await;
    let [app, tool] = desk.fill().await;
    let text = format!(
        "
apiVersion: mirror.openshift.io/v1alpha1
kind: ImageSetMirror
metadata: {{name: app, namespace: team}}
spec:
  mirror:
    additionalImages:
    - name: quay.io/team/app@{app}
    - name: quay.io/tools/tool:v1
  target:
    registry: TARGET
    credentials: {{name: push-secret}}
    trustBundle: {{name: corporate-ca}}
"
    );
    let file = desk.file("object.yaml", &text);
    let over = format!("quay.io={}", desk.source.host());
    let source_tls = format!("{}=skip-verify", desk.source.host());
    let target_tls = format!("{}=skip-verify", desk.target.host());
    let args = [
        "mirror",
        "-f",
        &file,
        "--override",
        &over,
        "--tls",
        &source_tls,
        "--tls",
        &target_tls,
        "--attachments",
        "skip",
        &desk.tokens,
    ];
    let ran = desk.run_with(&args, &[("REGISTRY_AUTH_FILE", &desk.auth)]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for line in [
        "spec.target.credentials: Secret `push-secret` is not looked up",
        "spec.target.trustBundle: ConfigMap `corporate-ca` is not looked up",
    ] {
        assert!(ran.err.contains(line), "{ran:#?}");
    }
    let target = desk.target.remote().expect("a client");
    assert_eq!(target.digest("tools/tool", "v1").await.expect("an answer"), Some(tool.clone()));
    assert_eq!(target.tags("tools/tool").await.expect("tags"), ["v1"], "the signature is left out");

    // The same with certificates and with attachments.
    let args = ["mirror", "-f", &file, "--override", &over, "--ca", &desk.ca, "--attachments", "copy", &desk.tokens];
    let ran = desk.run_with(&args, &[("REGISTRY_AUTH_FILE", &desk.auth)]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let mut tags = target.tags("tools/tool").await.expect("tags");
    tags.sort();
    assert_eq!(tags, [signature_tag(&tool), "v1".to_owned()]);
}

#[tokio::test]
async fn everything_wrong_with_the_input_is_said_at_once_and_nothing_is_done() {
    let desk = Desk::start().await;
    let mark = (desk.source.mark().await.expect("a mark"), desk.target.mark().await.expect("a mark"));
    let cases: [(&str, &[&str]); 4] = [
        (
            "
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror:
  additionalImages:
  - nam: quay.io/a/b:1
  - name: quay.io/A/b:1
  colour: red
",
            &[
                "bad.yaml:6:5: mirror.additionalImages[0].nam: there is no key `nam` here: did you mean `name`?",
                "bad.yaml:8:3: mirror.colour: there is no key `colour` here",
            ],
        ),
        (
            "
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror:
  additionalImages:
  - name: quay.io/A/b:1
  - name: https://quay.io/a/b:1
  blockedImages:
  - name: '('
",
            &[
                "bad.yaml:6:5: mirror.additionalImages[0].name:",
                "bad.yaml:7:5: mirror.additionalImages[1].name:",
                "bad.yaml:9:5: mirror.blockedImages[0].name:",
            ],
        ),
        ("kind: [\n", &["bad.yaml:", "not YAML"]),
        ("kind: Pod\n", &["bad.yaml:1:1: kind: `Pod`"]),
    ];
    for (text, expected) in cases {
        let file = desk.file("bad.yaml", text);
        for command in ["mirror", "plan"] {
            let ran = desk.go(&[command, "-f", &file, "--to", &desk.target.host()]).await;
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{text}{ran:#?}");
            for part in expected {
                assert!(ran.err.contains(part), "{part:?} of {text}{ran:#?}");
            }
        }
    }
    // Faults of flags are found together with those of the file.
    let file = desk.file("bad.yaml", "kind: ImageSetConfiguration\nmirror: {colour: red}\n");
    let args =
        ["plan", "-f", &file, "--tls", "host", "--override", "a", "--ca", "nowhere.pem", "--authfile", "none.json"];
    let ran = desk.run(&args).await;
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    for part in ["mirror.colour", "--tls host", "--override a", "nowhere.pem", "none.json", "--to"] {
        assert!(ran.err.contains(part), "{part} of {ran:#?}");
    }
    assert!(ran.err.lines().all(|line| line.starts_with("error: ")), "one line for each: {ran:#?}");
    let ran = desk.run(&["mirror", "-f", "nowhere.yaml"]).await;
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.err.contains("nowhere.yaml"), "{ran:#?}");
    assert_eq!(desk.run(&["mirror"]).await.code, Some(2));
    assert_eq!(desk.run(&["mirrror"]).await.code, Some(2));
    assert_eq!(desk.source.requests_since(mark.0).await.expect("the log"), []);
    assert_eq!(desk.target.requests_since(mark.1).await.expect("the log"), []);
}

#[tokio::test]
async fn two_images_for_one_place_are_both_named_before_anything_is_copied() {
    let desk = Desk::start().await;
    desk.fill().await;
    let text =
        format!("{HEAD}  - name: SOURCE/team/app:v1\n  - name: SOURCE/tools/tool:v1\n    targetRepo: team/app\n");
    let file = desk.file("twice.yaml", &text);
    let mark = desk.target.mark().await.expect("a mark");
    for command in ["mirror", "plan"] {
        let ran = desk.go(&[command, "-f", &file, "--to", &desk.target.host()]).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:#?}");
        let place = format!("{}/team/app:v1", desk.target.host());
        for part in
            [place, format!("{}/team/app:v1", desk.source.host()), format!("{}/tools/tool:v1", desk.source.host())]
        {
            assert!(ran.err.contains(&part), "{part} of {ran:#?}");
        }
    }
    assert_eq!(desk.written(mark).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_fails_is_named_and_does_not_stop_the_rest() {
    let desk = Desk::start().await;
    let [app, _] = desk.fill().await;
    let text = format!("{TWO}  - name: SOURCE/team/nothing:v1\n").replace("DIGEST", &app);
    let file = desk.file("imageset.yaml", &text);
    let to = desk.target.host();
    let missing = format!("{}/team/nothing:v1", desk.source.host());
    let out = desk.run.path().join("resources");
    let ran = desk.go(&["mirror", "-f", &file, "--to", &to, "--out", &path(&out)]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.out.starts_with("3 images: 2 copied, 0 present, 1 failed"), "{ran:#?}");
    assert!(ran.out.contains(&missing) && ran.out.contains("SourceNotFound"), "{ran:#?}");
    desk.target.remote().expect("a client").walk("tools/tool", "v1").await.expect("the others are there");
    let rules = fs::read_to_string(out.join("itms.yaml")).expect("the tag rules");
    assert!(rules.contains("/tools") && !rules.contains("/team"), "only what is there has a rule: {rules}");

    let ran = desk.go(&["mirror", "-f", &file, "--to", &to, "-o", "json"]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let value: Value = serde_json::from_str(&ran.out).expect("JSON also then");
    assert_eq!(value["complete"], false);
    let unresolved = &value["unresolved"][0];
    assert_eq!((&unresolved["name"], &unresolved["reason"]), (&missing.as_str().into(), &"SourceNotFound".into()));
    assert_eq!(desk.go(&["plan", "-f", &file, "--to", &to]).await.code, Some(1));

    // Credentials that are wrong, or not there, are said to be.
    let none = path(&desk.run.write("empty.json", "{}").expect("a file"));
    let args = ["mirror", "-f", &file, "--to", &to, "--ca", &desk.ca, "--authfile", &none, &desk.tokens];
    let ran = desk.run(&args).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let said = format!("{}{}", ran.out, ran.err);
    assert!(said.contains("wants credentials and there are none"), "{ran:#?}");
    // And so is a certificate that nobody trusts.
    let ran = desk.run(&["mirror", "-f", &file, "--to", &to, "--authfile", &desk.auth, &desk.tokens]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(format!("{}{}", ran.out, ran.err).to_lowercase().contains("certificate"), "{ran:#?}");
}

#[tokio::test]
async fn the_definition_that_is_printed_is_the_one_in_the_repository() {
    let run = RunFolder::create("crd").expect("a folder");
    let mut command = Command::new(binary().expect("the binary"));
    command.arg("crd").env_clear().current_dir(run.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
    assert!(output.status.success());
    let file = repository().join("crds/mirror.openshift.io_imagesetmirrors.yaml");
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), fs::read_to_string(file).expect("the file"));
}

#[tokio::test]
async fn an_auth_file_without_logins_is_no_obstacle() {
    let desk = Desk::start().await;
    let anonymous = Options::distribution("anonymous").start().await.expect("a registry");
    let source = anonymous.remote().expect("a client");
    source.push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let file = desk.file("open.yaml", &format!("{HEAD}  - name: {}/team/app:v1\n", anonymous.host()));
    let plain = format!("--tls={}=plain", anonymous.host());
    let to = format!("{}/copies", anonymous.host());
    desk.run.write(".docker/config.json", r#"{"credsStore": "desktop"}"#).expect("a file");
    let ran = desk.run(&["mirror", "-f", &file, "--to", &to, &plain]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains(".docker/config.json: credential helpers are not asked"), "{ran:#?}");
    source.walk("copies/team/app", "v1").await.expect("it is there");
}

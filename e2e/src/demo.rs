//! `e2e demo`: the sample of the repository, mirrored by the real operator into a real registry.

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;

use anyhow::{Context, Result, bail};
use e2e::chart::{self, NAME};
use e2e::cluster::Cluster;
use e2e::image::ImageSpec;
use e2e::node::Node;
use e2e::operator::{Operator, owners_are_taken, parse_deployment, repository};
use e2e::wait::{LONG, condition, eventually, has_condition};
use e2e::world::{CA_KEY, SOURCE_CA, SOURCE_LOGIN, Setup, TARGET_CA, TARGET_LOGIN, World};
use e2e::{container, mirrorconf, pods, tools};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{STARTING, build_operator, describe, print, setup};

/// Runs the demo to its end, or with `KEEP=1` until Ctrl-C.
pub(crate) async fn run() -> Result<()> {
    let keep = std::env::var("KEEP").is_ok_and(|value| !value.is_empty() && value != "0");
    tokio::task::spawn_blocking(build_operator).await??;
    tokio::task::spawn_blocking(tools::ensure_all).await??;
    let (world, mut operator) = match Node::available() {
        Ok(()) => (Box::pin(on_a_node()).await?, None),
        Err(reason) => {
            tools::say(&format!("there are no pods to be seen here, since {reason}; the operator is a process"));
            let (world, operator) = as_a_process().await?;
            (world, Some(operator))
        }
    };
    let mut sample = Sample::read(&world)?;
    sample.prepare(&world).await?;

    let changes = format!("with {} as its target, and one more image, by digest", world.target_host);
    print(&format!("\n# kubectl apply -f config/samples/additional-images.yaml   ({changes})"));
    print(serde_yaml::to_string(&sample.object)?.trim_end());
    world.apply(&sample.object).await?;

    sample.watch(&world).await?;
    sample.show(&world).await?;
    if keep {
        print("\nKEEP=1: everything stays up until Ctrl-C");
        describe(&world.cluster, &world.source, &world.target);
        return pending().await;
    }
    if let Some(operator) = &mut operator {
        operator.terminate().await?;
    }
    print("\nDone; everything is stopped and removed. KEEP=1 keeps it up.");
    Ok(())
}

/// The chart, installed on a real node.
async fn on_a_node() -> Result<World> {
    tools::say(&format!("{STARTING}, and a node"));
    let (cluster, source, target) = Setup { node: true, ..setup() }.start().await?;
    let chart = chart::folder().display().to_string();
    let name = parse_deployment(&helm(&cluster, &["template", NAME, &chart, "--namespace", NAME])?)?.image;
    tools::say(&format!("making the image {name}"));
    match tokio::task::spawn_blocking(|| container::operator_image(0, "demo")).await? {
        Ok(image) => pods::node(&cluster)?.push(&image, &name).await?,
        Err(error) => {
            tools::say(&format!("it cannot be made here ({error:#}); one with the operator alone takes its place"));
            pods::node(&cluster)?.push_operator(&name).await?;
        }
    }
    let install = ["install", NAME, &chart, "--namespace", NAME, "--create-namespace", "--wait"];
    print(&format!("\n# helm {}", install.join(" ").replace(&chart, "charts/imageset-mirror")));
    print(helm(&cluster, &install)?.trim_end());
    let deployment = parse_deployment(&helm(&cluster, &["get", "manifest", NAME, "--namespace", NAME])?)?;
    owners_are_taken(&cluster, &deployment, NAME).await?;
    let world = World::around(cluster, source, target, deployment).await?;
    pods::until_available(&world).await?;
    let get = ["get", "pods", "--namespace", NAME, "--output", "wide"];
    print(&format!("\n# kubectl {}", get.join(" ")));
    print(world.cluster.kubectl(&get).await?.ok()?.trim_end());
    print(&pods::figures(&world).await?.join("\n"));
    Ok(world)
}

fn helm(cluster: &Cluster, args: &[&str]) -> Result<String> {
    tokio::task::block_in_place(|| chart::helm(Some(cluster), args))?.ok()
}

/// `config/default`, and what its Deployment says as a process under its `ServiceAccount`.
async fn as_a_process() -> Result<(World, Operator)> {
    tools::say(STARTING);
    tools::say("applying config/default");
    let world = World::start_with(setup()).await?;
    let operator = world.operator().await?;
    Ok((world, operator))
}

/// The sample, with the registries of this run.
struct Sample {
    object: Value,
    namespace: String,
    name: String,
    /// The references that the user wrote.
    images: Vec<Reference>,
}

/// A reference, taken apart; what is named by digest has a tag in the source all the same.
struct Reference {
    text: String,
    host: String,
    repository: String,
    tag: String,
}

impl Sample {
    fn read(world: &World) -> Result<Self> {
        let file = repository().join("config/samples/additional-images.yaml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let mut found = None;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).context("the sample is not YAML")?;
            if value.get("kind").and_then(Value::as_str) == Some("ImageSetMirror") {
                found = Some(value);
            }
        }
        let mut object = found.context("the sample has no ImageSetMirror")?;
        let name = object.pointer("/metadata/name").and_then(Value::as_str).context("the sample has no name")?;
        let name = name.to_owned();
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = namespace.unwrap_or(world.namespace()).to_owned();
        let listed = object.pointer("/spec/mirror/additionalImages").and_then(Value::as_array);
        let names = listed.into_iter().flatten().filter_map(|image| image.get("name")?.as_str());
        let images = names.map(Reference::parse).collect::<Result<Vec<_>>>()?;

        // The names stay those of the sample: the mirror sets are about them. Overrides lead to the registry of the demo.
        let hosts: BTreeSet<&str> = images.iter().map(|image| image.host.as_str()).collect();
        let overrides: Vec<Value> =
            hosts.iter().map(|host| json!({"source": host, "mirrors": [world.source_host]})).collect();
        put(&mut object, "metadata", "namespace", json!(namespace))?;
        let spec = object.get_mut("spec").context("the sample has no spec")?;
        put(spec, "target", "registry", json!(world.target_host))?;
        put(spec, "target", "credentials", json!({"name": TARGET_LOGIN}))?;
        put(spec, "target", "trustBundle", json!({"name": TARGET_CA, "key": CA_KEY}))?;
        put(spec, "source", "credentials", json!({"name": SOURCE_LOGIN}))?;
        put(spec, "source", "trustBundle", json!({"name": SOURCE_CA, "key": CA_KEY}))?;
        put(spec, "source", "overrides", json!(overrides))?;
        Ok(Self { object, namespace, name, images })
    }

    /// Puts images into the source registry, and credentials and CAs into the namespace. The sample names tags only, and
    /// rules for digests are what is written to a cluster by default, so one image by digest is added.
    async fn prepare(&mut self, world: &World) -> Result<()> {
        tools::say(&format!("pushing {} images to the source registry", self.images.len()));
        let remote = world.source()?;
        for (seed, image) in (1..).zip(&self.images) {
            let spec = ImageSpec::seeded(seed).layers(3, 300_000);
            let pushed = remote.push_index(&image.repository, &image.tag, spec, &["amd64", "arm64"]).await?;
            remote.push_signature(&image.repository, &pushed.digest, seed).await?;
        }
        let last = self.images.last().context("the sample has no images")?;
        let repository = format!("{}-by-digest", last.repository);
        let pushed = remote.push_image(&repository, "latest", ImageSpec::seeded(99).layers(3, 300_000)).await?;
        let text = format!("{}/{repository}@{}", last.host, pushed.digest);
        let listed = self.object.pointer_mut("/spec/mirror/additionalImages").and_then(Value::as_array_mut);
        listed.context("the sample has no images")?.push(json!({"name": text}));
        let (host, tag) = (last.host.clone(), "latest".to_owned());
        self.images.push(Reference { text, host, repository, tag });
        world.add_access(&self.namespace).await
    }

    /// Prints every change of the Ready condition until it is True.
    async fn watch(&self, world: &World) -> Result<()> {
        let api = world.mirrors(&self.namespace).await?;
        let last = std::sync::Mutex::new(String::new());
        eventually(LONG, &format!("{} to become Ready", self.name), || async {
            let object = api.get(&self.name).await?;
            if let Some(ready) = condition(&object, "Ready") {
                let line = format!("Ready={} {}: {}", ready.status, ready.reason, ready.message);
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *last != line {
                    print(&line);
                    *last = line;
                }
            }
            Ok(has_condition(&object, "Ready", "True").then_some(()))
        })
        .await
    }

    /// Shows what there is now.
    async fn show(&self, world: &World) -> Result<()> {
        for args in [
            vec!["get", "imagesetmirrors", "--namespace", &self.namespace],
            vec!["get", "imagedigestmirrorsets", "--output", "yaml"],
        ] {
            print(&format!("\n# kubectl {}", args.join(" ")));
            print(world.cluster.kubectl(&args).await?.ok()?.trim_end());
        }
        print(&format!("\n# images in {}", world.target_host));
        let remote = world.target()?;
        for repository in remote.repositories().await? {
            for tag in remote.tags(&repository).await? {
                let digest = remote.digest(&repository, &tag).await?.unwrap_or_default();
                print(&format!("{repository}:{tag} {digest}"));
            }
        }
        print("\n# where a node of this cluster now looks first");
        let specs: Vec<&str> = self.images.iter().map(|image| image.text.as_str()).collect();
        let verdict = mirrorconf::judge_cluster(&world.cluster, &specs).await?;
        if let Some(error) = verdict.error {
            bail!("the mirror sets cannot be merged: {error}");
        }
        for pull in verdict.pulls {
            print(&format!("{} -> {}", pull.spec, pull.lookups.first().map_or("nowhere", String::as_str)));
        }
        let manifests = format!("configmap/{}-manifests", self.name);
        print(&format!(
            "(rules for tags drain nodes when they are written, so by default they are only published, in {manifests})"
        ));
        Ok(())
    }
}

impl Reference {
    fn parse(text: &str) -> Result<Self> {
        let name = text.strip_prefix("docker://").unwrap_or(text);
        if name.contains('@') {
            bail!("`{text}`: the demo can make images for tags only");
        }
        let (host, path) = name.split_once('/').with_context(|| format!("`{text}` has no host"))?;
        let (repository, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
        Ok(Self {
            text: name.to_owned(),
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// Sets `object.part.key`, and makes `part` if it is missing.
fn put(object: &mut Value, part: &str, key: &str, value: Value) -> Result<()> {
    let fields = object.as_object_mut().context("not an object")?;
    let part_fields = fields.entry(part).or_insert_with(|| json!({}));
    part_fields.as_object_mut().with_context(|| format!("{part} is not an object"))?.insert(key.to_owned(), value);
    Ok(())
}

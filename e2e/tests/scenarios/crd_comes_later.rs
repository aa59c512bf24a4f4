//! An operator that is there before its kind is not ready and says why; when the kind is installed it goes to work, unasked.

use std::fs;

use e2e::chart::{NAME, folder, helm};
use e2e::image::ImageSpec;
use e2e::operator::{Operator, Overrides, owners_are_taken, parse_deployment, repository};
use e2e::wait::{LONG, SHORT, eventually, until_ready};
use e2e::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_crd_the_operator_says_so_and_recovers_when_it_is_installed() {
    let (cluster, source, target) = Setup::default().start().await.expect("servers");
    let chart = folder().display().to_string();
    let install = ["install", NAME, &chart, "--namespace", NAME, "--create-namespace", "--set=crds.install=false"];
    let notes = tokio::task::block_in_place(|| helm(Some(&cluster), &install)).expect("helm").ok().expect("a release");
    assert!(notes.contains("the operator is not ready until the CRD is there"), "{notes}");
    let manifest = ["get", "manifest", NAME, "--namespace", NAME];
    let manifest =
        tokio::task::block_in_place(|| helm(Some(&cluster), &manifest)).expect("helm").ok().expect("a release");
    let deployment = parse_deployment(&manifest).expect("a Deployment");
    let mut operator = Operator::start(&cluster, &deployment, &Overrides::default()).await.expect("it starts");
    {
        let operator = &operator;
        eventually(SHORT, "the operator to miss its kind", || async move {
            let said = operator.readiness().await?;
            Ok(said.contains("the API server does not serve ImageSetMirror").then_some(()))
        })
        .await
        .expect("it says so");
    }
    assert!(!operator.is_ready().await);
    assert!(operator.log().contains("is the CRD installed"), "{}", operator.log());

    let crd = repository().join("crds/mirror.openshift.io_imagesetmirrors.yaml");
    cluster.add_crd(&fs::read_to_string(crd).expect("the CRD")).await.expect("it is served");
    operator.until_ready(LONG).await.expect("it is ready by itself");
    owners_are_taken(&cluster, &deployment, NAME).await.expect("a namespace in order");
    let world = World::around(cluster, source, target, deployment).await.expect("access");
    let app =
        world.source().expect("a client").push_image("team/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let object = world.image_set_mirror(NAME, "app", &[&format!("team/app@{}", app.digest)]);
    world.apply(&object).await.expect("an object");
    until_ready(&world.mirrors(NAME).await.expect("a client"), "app", LONG).await.expect("it is mirrored");
    assert!(operator.terminate().await.expect("it ends").success());
}

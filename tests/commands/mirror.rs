//! `mirror`: what a run leaves, and how it ends early.

use std::fmt::Write as _;

use serde_json::Value;

use super::Desk;

#[tokio::test]
async fn the_first_failure_for_good_ends_a_run_that_is_to_fail_fast() {
    let desk = Desk::new().await;
    // More than are looked at together, after one that cannot be copied.
    let broken = desk.image("a/broken", "v1", "gone");
    desk.source.lose_blob("a/broken", &imageset_mirror::oci::Digest::of(b"gone"));
    let names: Vec<_> = (0..60).map(|number| format!("team/app-{number}")).collect();
    let mut list = format!("  additionalImages:\n  - name: SOURCE/a/broken@{broken}\n");
    for name in &names {
        desk.image(name, "v1", name);
        writeln!(list, "  - name: SOURCE/{name}:v1").unwrap();
    }
    desk.file(&list);
    let ran = desk.run(&["mirror", "--fail-fast", "--out", "out"]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let report: Value = serde_json::from_str(&desk.read("out/report.json")).unwrap();
    let items = report["report"]["items"].as_array().unwrap();
    let outcomes = |name: &str| items.iter().filter(|item| item["outcome"] == name).count();
    assert!(outcomes("cancelled") > 0, "{ran:#?}");
    assert_eq!(items.iter().filter(|item| item["outcome"].get("failed").is_some()).count(), 1, "{ran:#?}");
    assert_eq!(desk.target.torn(), [""; 0], "what was under way has ended");
    assert!(
        ran.out.contains("1 × SourceNotFound: ") && ran.out.contains("goes on where this one has ended"),
        "{ran:#?}"
    );

    // Without it, one failure stops nothing.
    let ran = desk.run(&["mirror"]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.out.contains(" 1 failed, 0 stopped"), "{ran:#?}");

    // What could not even be resolved has failed before anything is begun.
    desk.image("team/new", "v1", "new");
    desk.file("  additionalImages:\n  - name: SOURCE/team/new:v1\n  - name: SOURCE/team/nothing:v1\n");
    desk.target.clear();
    let ran = desk.run(&["mirror", "--fail-fast"]).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.out.contains("0 copied, 0 present, 1 failed, 1 stopped"), "{ran:#?}");
    assert_eq!(desk.writes(), [""; 0]);
}

#[tokio::test]
async fn a_run_over_one_kind_of_content_takes_nothing_away() {
    let desk = Desk::new().await;
    let digest = desk.image("team/app", "v1", "one");
    let images = format!("  additionalImages:\n  - name: SOURCE/team/app@{digest}\n");
    let removing = |mirror: &str| {
        let text = format!(
            "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nmetadata: {{name: set}}\nspec:\n  target: \
             {{registry: m.io}}\n  clusterResources: {{removal: Remove}}\n  mirror:\n{mirror}"
        );
        std::fs::write(desk.path("set.yaml"), text.replace("SOURCE", &desk.source.host())).unwrap();
    };
    let indented = images.replace("  ", "    ");
    removing(&indented);
    assert_eq!(desk.run(&["mirror", "--out", "out"]).await.code, Some(0));
    let rules = desk.read("out/idms.yaml");
    // An image less, and catalogs that are left alone.
    let other = desk.image("more/tool", "v1", "two");
    let rest = format!(
        "    additionalImages:\n    - name: SOURCE/more/tool@{other}\n    operators:\n    - catalog: SOURCE/index:v1\n"
    );
    removing(&rest);
    let ran = desk.run(&["mirror", "--only", "additional", "--out", "out"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains("--only: the rest of the file is not looked at"), "{ran:#?}");
    let wider = desk.read("out/idms.yaml");
    assert!(wider.contains("/more") && wider.contains("/team"), "{wider}");
    assert!(rules.contains("/team") && !rules.contains("/more"), "{rules}");
    // And the plan before is still the last one.
    removing(&indented);
    let diff = desk.run(&["plan", "--diff"]).await;
    assert_eq!(diff.out, "nothing changes\n", "{diff:#?}");

    // All of the file is all there is: rules may go.
    removing(&format!("    additionalImages:\n    - name: SOURCE/more/tool@{other}\n"));
    let ran = desk.run(&["mirror", "--only", "additional", "--out", "out"]).await;
    assert_eq!((ran.code, ran.err.contains("--only")), (Some(0), false), "{ran:#?}");
    assert!(!desk.read("out/idms.yaml").contains("/team"));

    let ran = desk.run(&["mirror", "--only", "helm", "--only", "release"]).await;
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    for line in ["error: --only release: the file has no `platform`", "error: --only helm: the file has no `helm`"] {
        assert!(ran.err.contains(line), "{ran:#?}");
    }
}

#[tokio::test]
async fn the_folder_has_a_kustomization_and_the_report_that_is_printed() {
    let desk = Desk::new().await;
    let digest = desk.image("team/app", "v1", "one");
    desk.file(&format!("  additionalImages:\n  - name: SOURCE/team/app@{digest}\n  - name: SOURCE/team/app:v1\n"));
    let ran = desk.run(&["mirror", "--out", "out", "-o", "json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert_eq!(desk.read("out/report.json"), ran.out);
    let kustomization: Value = serde_yaml::from_str(&desk.read("out/kustomization.yaml")).unwrap();
    assert_eq!(kustomization["resources"], serde_json::json!(["idms.yaml", "itms.yaml"]));
    std::fs::write(desk.path("out/kustomization.yaml"), "resources: []\n").unwrap();
    desk.target.clear();
    let ran = desk.run(&["mirror", "--out", "out"]).await;
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.err.contains("kustomization.yaml was not written by an earlier run"), "{ran:#?}");
    assert_eq!(desk.target.lines(), [""; 0], "before anything is done");
}

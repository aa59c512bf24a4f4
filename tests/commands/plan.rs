//! `plan`: looks, and writes nothing.

use serde_json::Value;

use super::Desk;

const TWO: &str = "  additionalImages:\n  - name: SOURCE/team/app:v1\n  - name: SOURCE/team/tool:v1\n";

#[tokio::test]
async fn what_changes_is_shown_against_what_the_last_run_left() {
    let desk = Desk::new().await;
    desk.image("team/app", "v1", "one");
    desk.image("team/tool", "v1", "two");
    desk.file(TWO);
    let first = desk.run(&["plan", "--diff"]).await;
    assert_eq!(first.code, Some(0), "{first:#?}");
    assert!(first.err.contains("no earlier `mirror` of `set` has left a plan in the target"), "{first:#?}");
    assert!(first.out.ends_with("\n\n2 added\n"), "{first:#?}");
    assert_eq!(desk.run(&["mirror"]).await.code, Some(0));
    let same = desk.run(&["plan", "--diff"]).await;
    assert_eq!((same.code, same.out.as_str(), same.err.as_str()), (Some(0), "nothing changes\n", ""));

    let moved = desk.image("team/app", "v1", "three");
    desk.image("team/more", "v1", "four");
    desk.file("  additionalImages:\n  - name: SOURCE/team/app:v1\n  - name: SOURCE/team/more:v1\n");
    let table = desk.run(&["plan", "--diff"]).await;
    assert_eq!(table.code, Some(0), "{table:#?}");
    for (what, place) in [("added", "team/more:v1"), ("changed", "team/app:v1"), ("removed", "team/tool:v1")] {
        let destination = format!("{}/ocp/{place}", desk.target.host());
        let line = table.out.lines().find(|line| line.starts_with(what));
        assert!(line.is_some_and(|line| line.contains(&destination)), "{what} {destination}: {table:#?}");
    }
    assert!(table.out.ends_with("\n\n1 added, 1 changed, 1 removed\n"), "{table:#?}");

    let machine = desk.run(&["plan", "--diff", "-o", "json"]).await;
    let value: Value = serde_json::from_str(&machine.out).unwrap();
    assert_eq!(value["changed"][0]["after"]["digest"], moved.to_string());
    assert_ne!(value["planDigest"], value["previousDigest"]);
    assert!(["added", "removed"].iter().all(|list| value[*list].as_array().is_some_and(|list| list.len() == 1)));

    // What cannot be looked at is not gone.
    desk.file("  additionalImages:\n  - name: SOURCE/team/app:v1\n  - name: SOURCE/team/nothing:v1\n");
    let failing = desk.run(&["plan", "--diff"]).await;
    assert_eq!(failing.code, Some(1), "{failing:#?}");
    assert!(failing.out.contains("1 changed, 1 undecided") && !failing.out.contains("removed"), "{failing:#?}");
}

#[tokio::test]
async fn no_form_of_a_plan_writes_anything() {
    let desk = Desk::new().await;
    desk.image("team/app", "v1", "one");
    desk.image("team/tool", "v1", "two");
    desk.file(TWO);
    assert_eq!(desk.run(&["mirror"]).await.code, Some(0));
    desk.image("team/tool", "v1", "three");
    desk.target.clear();
    desk.source.clear();
    let forms: [&[&str]; 6] = [
        &["plan"],
        &["plan", "-o", "json"],
        &["plan", "-o", "mapping"],
        &["plan", "-o", "dot"],
        &["plan", "--diff"],
        &["plan", "--resources"],
    ];
    for form in forms {
        let ran = desk.run(form).await;
        assert_eq!(ran.code, Some(0), "{form:?}: {ran:#?}");
        assert!(!ran.out.is_empty(), "{form:?}");
    }
    assert!(desk.target.lines().len() >= 3, "the target was asked: {:?}", desk.target.lines());
    assert_eq!(desk.writes(), [""; 0]);
    let reads = |line: &String| line.starts_with("GET") || line.starts_with("HEAD");
    assert!(desk.source.lines().iter().all(reads), "{:?}", desk.source.lines());
}

#[tokio::test]
async fn resources_are_those_of_a_run_in_which_everything_arrives() {
    let desk = Desk::new().await;
    let digest = desk.image("team/app", "v1", "one");
    desk.image("team/tool", "v1", "two");
    desk.file(&format!("{TWO}  - name: SOURCE/team/app@{digest}\n"));
    let planned = desk.run(&["plan", "--resources"]).await;
    assert_eq!(planned.code, Some(0), "{planned:#?}");
    assert_eq!(desk.run(&["mirror", "--out", "out"]).await.code, Some(0));
    assert_eq!(planned.out, desk.read("out/idms.yaml") + &desk.read("out/itms.yaml"));
    let both = desk.run(&["plan", "--resources", "--diff"]).await;
    assert_eq!((both.code, both.out.as_str()), (Some(2), ""));
    let drawn = desk.run(&["plan", "--diff", "-o", "mapping"]).await;
    assert_eq!(drawn.code, Some(2), "{drawn:#?}");
    assert!(drawn.err.contains("--diff: is shown with `-o table` or `-o json`"), "{drawn:#?}");
}

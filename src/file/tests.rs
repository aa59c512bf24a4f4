use super::*;
use crate::request::Request;

const TO: &str = "registry.example.com:5000/ocp";

fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
    parse(text, "My Set_4.18", To::Given(&TO.parse().unwrap()))
}

fn errors(text: &str) -> Vec<String> {
    let found = load(text).map_or_else(|problems| problems, |loaded| loaded.errors);
    found.iter().map(ToString::to_string).collect()
}

/// Everything that is wrong with an `ImageSetConfiguration`.
fn problems(text: &str, to: To<'_>) -> Vec<String> {
    let text = format!("kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\n{text}");
    let loaded = parse(&text, "set", to).unwrap();
    let faults = Request::of_file(&loaded.object).err().map(|invalid| invalid.faults).unwrap_or_default();
    loaded.problems(&faults).iter().map(ToString::to_string).collect()
}

#[test]
fn an_oc_mirror_file_becomes_an_object() {
    let loaded = load(
        "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\narchiveSize: 4\nmirror:\n  additionalImages:\n  \
         - name: quay.io/a/b:1\n    targetTag: '9'\n  blockedimages:\n  - name: legacy\n  helm:\n",
    )
    .unwrap();
    assert_eq!(loaded.object.metadata.name.as_deref(), Some("my-set-4-18"));
    assert_eq!(loaded.object.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(loaded.object.spec.target.registry, "registry.example.com:5000");
    assert_eq!(loaded.object.spec.target.path_prefix.as_deref(), Some("ocp"));
    assert_eq!(loaded.object.spec.mirror.additional_images[0].target_tag.as_deref(), Some("9"));
    assert_eq!(loaded.object.spec.mirror.blocked_images[0].name, "legacy");
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "3:1: archiveSize: has no effect: no archive is written",
            "8:3: mirror.blockedImages: `blockedimages` is read as `blockedImages`: write it that way",
        ]
    );
    Request::try_new(&loaded.object).unwrap();
}

#[test]
fn everything_wrong_with_a_file_is_said_at_once_with_its_place() {
    let found = errors(
        "apiVersion: mirror.openshift.io/v1alpha2
kind: ImageSetConfiguration
storageConfig:
  local: {path: /tmp}
mirror:
  platform:
    channels:
    - name: stable-4.18
      minVersion: 4.18
      type: OCP
  operators:
  - catalog: h/a:1
    targetName: x
    headsOnly: true
    packages: {}
  additionalImages:
  - nam: quay.io/a:1
  - name: quay.io/a:1
    name: quay.io/b:1
  helm:
    repos: []
  colour: red
  samples:
  Samples: []
",
    );
    assert_eq!(
        found,
        [
            "3:1: storageConfig: is not read: nothing is stored on disk, and what was mirrored is seen in the target; remove the \
             block",
            "9:19: mirror.platform.channels[0].minVersion: must be a text, and is a number: put it into quotes",
            "10:13: mirror.platform.channels[0].type: `OCP` is not possible here: write `ocp`",
            "13:5: mirror.operators[0].targetName: is a key of oc-mirror v1: write `targetCatalog`, with the whole path in the \
             target",
            "14:5: mirror.operators[0].headsOnly: is a key of oc-mirror v1: leave it out for `headsOnly: true`, and write `full: \
             true` for `headsOnly: false`",
            "15:15: mirror.operators[0].packages: must be a list, and is a map of keys",
            "17:5: mirror.additionalImages[0].nam: there is no key `nam` here: did you mean `name`?",
            "17:5: mirror.additionalImages[0].name: is missing",
            "19:5: mirror.additionalImages[1].name: is there twice: keep one of them",
            "21:5: mirror.helm.repos: is a key of oc-mirror v1: write `repositories`",
            "22:3: mirror.colour: there is no key `colour` here: known are additionalImages, blockedImages, helm, operators, \
             platform, samples",
            "24:3: mirror.samples: is there twice: keep one of them",
        ]
    );
}

#[test]
fn an_object_is_read_strictly() {
    let good = "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nmetadata: {name: a, namespace: b}\nspec:\n  \
                mirror:\n    additionalImages: [{name: 'quay.io/a:1'}]\n  target: {registry: other.example.com, pathPrefix: x}\n";
    let loaded = load(good).unwrap();
    assert_eq!(loaded.object.spec.target.registry, "registry.example.com:5000");
    let loaded = parse(good, "", To::Absent).unwrap();
    assert_eq!(loaded.object.spec.target.registry, "other.example.com");
    assert_eq!(loaded.object.metadata.namespace.as_deref(), Some("b"));
    let bad = good.replace("additionalImages:", "additionalimages:").replace("v1alpha1", "v1");
    assert_eq!(
        errors(&bad),
        [
            "1:13: apiVersion: `mirror.openshift.io/v1` is not a version that is read here: write \
             `mirror.openshift.io/v1alpha1`",
            "6:5: spec.mirror.additionalimages: there is no key `additionalimages` here: did you mean `additionalImages`?",
        ]
    );
    let status = format!("{good}status: {{observedGeneration: 3}}\n");
    assert_eq!(load(&status).unwrap().object.status, None);
}

#[test]
fn what_is_not_yaml_is_said_with_its_place() {
    for (text, expected) in [
        ("kind: a: b\n", "1:8: not YAML"),
        ("kind: [\n", "not YAML"),
        ("", "the file is empty"),
        ("# nothing\n---\n", "the file is empty"),
        ("- a\n", "1:1: the file is not a map"),
        ("a: 1\n---\nb: 2\n", "3:1: the file has more than one document"),
        ("mirror: {}\n", "kind: is missing"),
        ("kind: Pod\n", "1:1: kind: `Pod` is not a kind that is read here"),
        ("kind: DeleteImageSetConfiguration\n", "nothing is deleted from a file"),
        ("kind: ImageSetConfiguration\n", "mirror: is missing"),
        (
            "kind: ImageSetConfiguration\nmirrors: {}\n",
            "2:1: mirrors: there is no key `mirrors` here: did you mean `mirror`?",
        ),
    ] {
        let found = errors(text);
        assert!(found.iter().any(|error| error.contains(expected)), "{text:?}: {found:?}");
    }
}

#[test]
fn faults_of_the_object_have_a_place_in_the_file() {
    let loaded = load(
        "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n  additionalImages:\n  - name: \
         quay.io/a/b:1\n  - name: quay.io/B:1\n",
    )
    .unwrap();
    let invalid = Request::try_new(&loaded.object).unwrap_err();
    let problems: Vec<_> = loaded.problems(&invalid.faults).iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("6:5: mirror.additionalImages[1].name: `B` is not"), "{problems:?}");
}

#[test]
fn a_destination_is_a_host_and_a_path() {
    assert_eq!("h:5000/a/b".parse::<Destination>().unwrap().prefix.unwrap().as_str(), "a/b");
    for (text, expected) in [
        ("docker://h/a", "`docker://h/a` has a scheme: write HOST[:PORT][/PATH], without a scheme"),
        ("H.io/a", "`H.io` is not the host of a registry: write HOST[:PORT][/PATH]"),
        ("h/", "`` is not a repository path"),
    ] {
        let error = text.parse::<Destination>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn what_cannot_be_read_hides_no_fault_and_makes_none() {
    let text =
        "mirror:\n  colour: red\n  additionalImages:\n  - nam: quay.io/a:1\n  - name: quay.io/B:1\n  - name: 5\n";
    let of_content = [
        "4:3: mirror.colour: there is no key `colour` here: known are additionalImages, blockedImages, helm, operators, platform, \
         samples",
        "6:5: mirror.additionalImages[0].nam: there is no key `nam` here: did you mean `name`?",
        "6:5: mirror.additionalImages[0].name: is missing",
        "7:5: mirror.additionalImages[1].name: `B` is not a repository path",
        "8:11: mirror.additionalImages[2].name: must be a text, and is a number: put it into quotes",
    ];
    let given = TO.parse().unwrap();
    for (to, more) in [(To::Given(&given), 0), (To::Wrong, 0), (To::Absent, 1)] {
        let found = problems(text, to);
        assert_eq!(found.len(), of_content.len() + more, "{found:?}");
        assert!(found.iter().take(more).all(|line| line.contains("give `--to HOST[/PATH]`")), "{found:?}");
        assert!(found.iter().skip(more).zip(of_content).all(|(line, start)| line.starts_with(start)), "{found:#?}");
    }
    // What nothing could be read of is not also said to be empty.
    assert_eq!(problems("mirror:\n  additionalImage: []\n", To::Given(&given)).len(), 1);
}

#[test]
fn a_target_from_the_command_line_need_not_be_in_the_object() {
    let text = "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nmetadata: {name: a}\nspec:\n  mirror:\n    \
                additionalImages: [{name: 'quay.io/a:1'}]\n";
    assert!(load(text).unwrap().errors.is_empty());
    assert_eq!(parse(text, "", To::Absent).unwrap().errors[0].field, "spec.target");
}

#[test]
fn files_of_oc_mirror_are_read_as_go_reads_them() {
    let given = TO.parse().unwrap();
    let text = "kind: ImageSetConfiguration\napiversion: mirror.openshift.io/v2alpha1\narchivesize: 4\nmirror:\n  \
                platform: {graph: yes}\n  operators:\n  - {catalog: 'h/a:1', targetCatalogSourceTemplate: ./a.yaml}\n  \
                additionalImages:\n  - &base {name: 'quay.io/a:1', targetRepo: '', targetTag: x}\n  - <<: *base\n    name: \
                quay.io/b:1\n  - <<: [{name: 'quay.io/c:1'}, *base]\n    targetTag: ''\n  - <<: 3\n    name: quay.io/d:1\n";
    let loaded = parse(text, "", To::Given(&given)).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(warnings, ["apiVersion", "archiveSize", "archiveSize"]);
    assert_eq!(loaded.errors.len(), 1, "{:?}", loaded.errors);
    assert_eq!(loaded.errors[0].field, "mirror.additionalImages[3].<<");
    let content = &loaded.object.spec.mirror;
    assert!(content.platform.as_ref().unwrap().graph);
    assert_eq!(content.operators[0].target_catalog_source_template, None);
    let images: Vec<_> = content
        .additional_images
        .iter()
        .map(|image| (image.name.as_str(), image.target_repo.as_deref(), image.target_tag.as_deref()))
        .collect();
    assert_eq!(
        images,
        [
            ("quay.io/a:1", None, Some("x")),
            ("quay.io/b:1", None, Some("x")),
            ("quay.io/c:1", None, None),
            ("quay.io/d:1", None, None),
        ]
    );
}

#[test]
fn lists_of_files_may_be_longer_than_those_of_objects() {
    let images: Vec<_> = (0..1025).map(|n| format!("  - name: quay.io/a:{n}\n")).collect();
    assert_eq!(
        problems(&format!("mirror:\n  additionalImages:\n{}", images.concat()), To::Given(&TO.parse().unwrap())),
        [""; 0]
    );
}

#[test]
fn an_object_gets_a_name_from_any_file() {
    for (stem, name) in [("", "imageset"), ("---", "imageset"), ("ISC", "isc"), ("ü.yaml", "yaml"), ("a_b", "a-b")] {
        assert_eq!(object_name(stem), name);
    }
    assert_eq!(object_name(&"x".repeat(80)).len(), api::MAX_NAME);
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(text in r"(kind: ImageSet(Mirror|Configuration)\n)?([a-zA-Z&*!{}\[\]:, '-]{0,12}\n? {0,4}){0,12}") {
        drop(load(&text));
    }
}

//! The committed manifests are what the code generates. `UPDATE=1 cargo test --test crds` writes them.
#![cfg(test)]

use std::path::Path;

use imageset_mirror::api::{crd, rbac};
use serde_json::Value;

fn check(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == expected, "{path} is not what the code generates; run `UPDATE=1 cargo test --test crds`");
}

#[test]
fn the_committed_crd_is_the_generated_one() {
    check(&crd::file_name(), &crd::crd_yaml());
}

#[test]
fn the_committed_roles_are_the_generated_ones() {
    for (path, text) in rbac::files() {
        check(&path, &text);
        for document in serde_yaml::Deserializer::from_str(&text) {
            <Value as serde::Deserialize>::deserialize(document).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
}

#[test]
fn the_chart_has_the_generated_crd_and_rules() {
    for (path, text) in [crd::chart_template(), rbac::chart_rules()] {
        check(&path, &text);
    }
}

#[test]
fn no_role_of_the_operator_has_a_wildcard_or_lists_secrets() {
    for rule in [rbac::CLUSTER, rbac::WATCHED, rbac::OWN, rbac::SIGNATURES, rbac::UPDATE_SERVICE].concat() {
        assert!(!rule.resources.iter().chain(rule.verbs).any(|word| word.contains('*')), "{rule:?}");
        assert!(!rule.resources.contains(&"secrets") || rule.verbs == ["get"], "{rule:?}");
    }
}

#[test]
fn the_crd_survives_client_side_apply() {
    // `kubectl apply` keeps the whole object in an annotation of at most 256 KiB.
    assert!(crd::crd_yaml().len() < 250 * 1024);
}

#[test]
fn the_typed_crd_is_the_written_one() {
    let typed = serde_json::to_value(crd::crd()).unwrap();
    let mut written: Value = serde_yaml::from_str(&crd::crd_yaml()).unwrap();
    // Types print whole numbers of a schema as fractions; the values are equal.
    let normal = |value: &Value| -> Value {
        serde_json::from_str(&value.to_string().replace(".0,", ",").replace(".0}", "}")).unwrap()
    };
    written = normal(&written);
    assert_eq!(normal(&typed), written);
}

#[test]
fn nothing_is_nullable_and_a_new_object_is_not_current() {
    let crd = serde_json::to_value(crd::crd()).unwrap();
    assert!(!crd.to_string().contains("nullable"));
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    assert_eq!(schema["status"]["default"], serde_json::json!({"observedGeneration": -1}));
    assert!(!schema["spec"].to_string().contains("\"default\":"), "a default would be written back into the spec");
}

#[test]
fn every_field_is_explained() {
    let crd = serde_json::to_value(crd::crd()).unwrap();
    let mut fields = 0;
    let mut open = vec![(String::new(), &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])];
    while let Some((path, schema)) = open.pop() {
        // `metadata` is explained by Kubernetes.
        if path != ".metadata" {
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty() || path.ends_with("[]"), "`kubectl explain` has nothing to say about {path}");
            fields += 1;
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            open.push((format!("{path}.{name}"), inner));
        }
        if schema["items"].is_object() {
            open.push((format!("{path}[]"), &schema["items"]));
        }
    }
    assert!(fields > 100, "{fields} fields");
}

#[test]
fn every_key_of_an_oc_mirror_file_is_there_and_nothing_of_ours_but_chart_values() {
    let crd = serde_json::to_value(crd::crd()).unwrap();
    let mirror = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mirror"];
    let mut found = Vec::new();
    keys(mirror, "", &mut found);
    found.sort();
    let chart = "{imagePaths,name,path,platforms.{architecture,os},platforms,values,version}";
    let range = "{maxVersion,minVersion,name}";
    let mut expected: Vec<String> = Vec::new();
    for text in [
        "additionalImages",
        "additionalImages.{name,platforms,platforms.{architecture,os},targetRepo,targetTag}",
        "blockedImages",
        "blockedImages.name",
        "helm",
        "helm.{local,repositories}",
        &format!("helm.local.{chart}"),
        "helm.repositories.{charts,name,url}",
        &format!("helm.repositories.charts.{chart}"),
        "operators",
        "operators.{catalog,full,packages,platforms,platforms.{architecture,os},skipDependencies,targetCatalog}",
        "operators.{targetCatalogSourceTemplate,targetTag}",
        "operators.packages.{channels,defaultChannel,maxVersion,minVersion,name}",
        &format!("operators.packages.channels.{range}"),
        "platform",
        "platform.{architectures,channels,graph,kubeVirtContainer,platforms,platforms.{architecture,os},release}",
        "platform.channels.{full,maxVersion,minVersion,name,shortestPath,type}",
        "samples",
        "samples.name",
    ] {
        braces(text, &mut expected);
    }
    expected.sort();
    assert_eq!(found, expected);
}

/// Writes out `a.{b,c.{d,e}}`.
fn braces(text: &str, out: &mut Vec<String>) {
    let Some(open) = text.find('{') else { return out.push(text.to_owned()) };
    let (head, rest) = text.split_at(open);
    let mut depth = 0;
    let mut start = 1;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                braces(&format!("{head}{}", &rest[start..at]), out);
                start = at + 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    braces(&format!("{head}{}{}", &rest[start..at], &rest[at + 1..]), out);
                    return;
                }
            }
            _ => {}
        }
    }
}

fn keys(schema: &Value, path: &str, found: &mut Vec<String>) {
    let schema = if schema["items"].is_object() { &schema["items"] } else { schema };
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        keys(inner, &path, found);
        found.push(path);
    }
}

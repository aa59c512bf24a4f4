use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::api::content::Operator;
use crate::catalog::{Loader, validate};

/// A case of `testdata/operators.json`: what oc-mirror makes of a catalog and a selection.
#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    note: String,
    catalog: Vec<Value>,
    config: Value,
    expect: Expected,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Expected {
    error: Option<String>,
    #[serde(default)]
    packages: BTreeMap<String, ExpectedPackage>,
    #[serde(default)]
    bundles: BTreeMap<String, BTreeSet<String>>,
    opm_valid: Option<bool>,
    deprecations: Option<BTreeSet<String>>,
    others: Option<BTreeSet<String>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExpectedPackage {
    default_channel: String,
    channels: BTreeMap<String, BTreeSet<String>>,
}

fn load(catalog: &[Value]) -> Catalog {
    let mut loader = Loader::new(None);
    for (index, blob) in catalog.iter().enumerate() {
        loader.file(&format!("{index}.json"), blob.to_string().as_bytes());
    }
    loader.finish().unwrap().0
}

fn run(catalog: &[Value], config: &Value) -> Result<Filtered, Vec<&'static str>> {
    let mut operator = config.clone();
    operator["catalog"] = json!("registry.test/index:v1");
    let operator: Operator = serde_json::from_value(operator).unwrap();
    let selection = Selection::new(&operator)
        .map_err(|errors| errors.iter().map(super::super::SelectionError::code).collect::<Vec<_>>())?;
    filter(load(catalog), &selection).map_err(|errors| errors.iter().map(FilterError::code).collect())
}

fn packages(catalog: &Catalog) -> BTreeMap<String, ExpectedPackage> {
    let channels = |content: &Content| {
        let names = |channel: &Channel| channel.entries.iter().map(|entry| entry.name.clone()).collect();
        content.channels.iter().map(|channel| (channel.blob.name.clone(), names(channel))).collect()
    };
    let of = |content: &Content| ExpectedPackage {
        default_channel: content.default_channel().to_owned(),
        channels: channels(content),
    };
    catalog.packages.iter().map(|(name, content)| (name.clone(), of(content))).collect()
}

fn bundles(catalog: &Catalog) -> BTreeMap<String, BTreeSet<String>> {
    let of = |content: &Content| content.bundles.iter().map(|bundle| bundle.blob.name.clone()).collect();
    catalog.packages.iter().map(|(name, content)| (name.clone(), of(content))).collect()
}

#[test]
fn every_case_recorded_from_oc_mirror_comes_out_the_same() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../testdata/operators.json")).unwrap();
    assert_eq!(cases.len(), 46);
    for Case { name, note, catalog, config, expect } in cases {
        // What no server could use may be refused or left out.
        let stricter = note.starts_with("upstream quirk");
        let filtered = match (run(&catalog, &config), &expect.error) {
            (Err(codes), Some(code)) => {
                assert!(codes.contains(&code.as_str()), "{name}: {codes:?}");
                continue;
            }
            (Err(_), None) if stricter => continue,
            (Err(codes), None) => panic!("{name}: {codes:?}"),
            (Ok(_), Some(code)) => panic!("{name}: not {code}"),
            (Ok(filtered), None) => filtered.catalog,
        };
        assert_eq!(packages(&filtered), expect.packages, "{name}");
        if !stricter {
            assert_eq!(bundles(&filtered), expect.bundles, "{name}");
            let faults = validate(&filtered);
            assert_eq!(Some(faults.is_empty()), expect.opm_valid, "{name}: {faults:?}");
        }
        if let Some(expected) = expect.deprecations {
            let entries = filtered.packages.values().flat_map(|content| &content.deprecations);
            let entries = entries.flat_map(|deprecations| &deprecations.entries).map(|entry| &entry.reference);
            let found: BTreeSet<_> =
                entries.map(|reference| format!("{}:{}", reference.schema, reference.name)).collect();
            assert_eq!(found, expected, "{name}");
        }
        if let Some(expected) = expect.others {
            let of = |(name, content): (&String, &Content)| {
                let line = |blob: &Blob| format!("{}/{name}/{}", blob.schema, blob.name);
                content.others.iter().map(line).collect::<Vec<_>>()
            };
            let loose = filtered.others.iter().map(|blob| format!("{}//{}", blob.schema, blob.name));
            let found: BTreeSet<_> = filtered.packages.iter().flat_map(of).chain(loose).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}

/// A package `p` whose channels are chains, the newest first; `name@version` where the version is not that of the name.
fn chains(default: &str, channels: &[(&str, &[&str])]) -> Vec<Value> {
    let mut blobs = vec![json!({"schema": "olm.package", "name": "p", "defaultChannel": default})];
    let mut bundles: BTreeSet<&str> = BTreeSet::new();
    for (channel, names) in channels {
        let entries: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(index, name)| match names.get(index + 1) {
                Some(below) => json!({"name": format!("p.v{name}"), "replaces": format!("p.v{below}")}),
                None => json!({"name": format!("p.v{name}")}),
            })
            .collect();
        blobs.push(json!({"schema": "olm.channel", "package": "p", "name": channel, "entries": entries}));
        bundles.extend(*names);
    }
    for name in bundles {
        blobs.push(json!({
            "schema": "olm.bundle", "package": "p", "name": format!("p.v{name}"), "image": format!("q.test/p:{name}"),
            "properties": [{"type": "olm.package", "value": {"packageName": "p", "version": name}}], "x": {"kept": 1},
        }));
    }
    blobs
}

fn kept(catalog: &[Value], package: &Value) -> Result<BTreeMap<String, BTreeSet<String>>, Vec<&'static str>> {
    let filtered = run(catalog, &json!({"packages": [package]}))?;
    Ok(packages(&filtered.catalog).remove("p").unwrap_or_default().channels)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("p.v{name}")).collect()
}

#[test]
fn one_version_keeps_one_bundle_and_drops_the_channels_without_it() {
    let catalog = chains("a", &[("a", &["1.1.0", "1.0.0+2", "1.0.0+1"]), ("b", &["2.0.0"])]);
    let pinned = |version: &str| kept(&catalog, &json!({"name": "p", "minVersion": version, "maxVersion": version}));
    assert_eq!(pinned("1.0.0"), Ok(BTreeMap::from([("a".to_owned(), names(&["1.0.0+2"]))])));
    assert_eq!(pinned("1.0.0+1"), Ok(BTreeMap::from([("a".to_owned(), names(&["1.0.0+1"]))])));
    assert_eq!(pinned("1.0.1"), Err(vec!["pinned-version-not-found"]));
    assert_eq!(pinned("2.0.0"), Err(vec!["empty-default-channel"]));
}

#[test]
fn a_channel_that_is_left_empty_goes_with_all_that_names_it() {
    let mut catalog = chains("a", &[("a", &["1.1.0", "1.0.0"]), ("b", &["2.0.0"])]);
    let reference = |schema: &str, name: &str| json!({"reference": {"schema": schema, "name": name}, "message": "m"});
    catalog.push(json!({"schema": "olm.deprecations", "package": "p", "entries": [
        {"reference": {"schema": "olm.package"}, "message": "m"}, reference("olm.channel", "a"), reference("olm.channel", "b"),
        reference("olm.bundle", "p.v1.0.0"), reference("olm.bundle", "p.v2.0.0"),
    ]}));
    let filtered = run(&catalog, &json!({"packages": [{"name": "p", "maxVersion": "1.0.0"}]})).unwrap().catalog;
    assert_eq!(validate(&filtered), []);
    let left = &filtered.packages["p"].deprecations[0];
    assert_eq!(left.entries.len(), 3);
    assert_eq!(left.blob.json.get().matches("reference").count(), 3);
}

#[test]
fn what_nobody_here_knows_stays_as_it_is() {
    let mut catalog = chains("a", &[("a", &["1.1.0", "1.0.0"])]);
    catalog[1]["properties"] = json!([{"type": "x"}]);
    catalog[1]["entries"][0]["unknown"] = json!(true);
    catalog.push(json!({"schema": "my.own", "package": "p", "name": "n", "big": 12_345_678_901_234_567_890_u64}));
    catalog.push(json!({"schema": "loose"}));
    let filtered = run(&catalog, &json!({"packages": [{"name": "p"}]})).unwrap().catalog;
    let lines: Vec<_> = filtered.lines().collect();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[1].contains(r#""unknown":true"#) && lines[1].contains(r#""properties""#));
    assert!(lines[2].contains(r#""x":{"kept":1}"#));
    assert!(lines[3].contains("12345678901234567890"));
    assert_eq!(lines[4], r#"{"schema":"loose"}"#);
}

#[test]
fn what_is_not_there_is_told_with_what_is_like_it() {
    let catalog = chains("stable", &[("stable", &["1.0.0"])]);
    let config =
        json!({"packages": [{"name": "p", "channels": [{"name": "stable"}, {"name": "stabel"}]}, {"name": "q"}]});
    let unknown: Vec<_> = run(&catalog, &config).unwrap().unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        ["the catalog has no package `q`; there is `p`", "package `p` has no channel `stabel`; there is `stable`"]
    );
}

#[test]
fn errors_name_what_there_is() {
    let catalog = chains("a", &[("a", &["1.1.0", "1.0.0"]), ("b", &["2.0.0"])]);
    let error = |package: Value| {
        let operator = json!({"catalog": "r.test/i:1", "packages": [package]});
        let selection = Selection::new(&serde_json::from_value(operator).unwrap()).unwrap();
        filter(load(&catalog), &selection).unwrap_err()[0].to_string()
    };
    let text = error(json!({"name": "p", "minVersion": "3.0.0"}));
    assert!(text.contains("3.0.0 and above (it has 1.0.0 to 1.1.0)"), "{text}");
    let text = error(json!({"name": "p", "channels": [{"name": "b"}]}));
    assert!(text.contains("default channel `a`") && text.contains("one of `b`"), "{text}");
}

//! The images in what a chart renders to.
//!
//! What runs is found wherever it stands: every list of containers, in whatever kind of workload or template of one, and every
//! image that is mounted as a volume. Custom resources that name images elsewhere need an expression.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde_json::Value;

use crate::request::ImagePath;

/// The longest document that is parsed.
const MAX_DOCUMENT: usize = 8 << 20;
/// Lists of what has an `image`.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// What was found, in words that may or may not be images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where only images stand.
    pub images: BTreeSet<String>,
    /// Where an expression led.
    pub more: BTreeSet<String>,
}

/// Looks for images in documents that are divided by `---`.
///
/// # Errors
/// A document that is not YAML or too long, with where it comes from.
pub fn find(rendered: &str, paths: &[ImagePath]) -> Result<Found, String> {
    let mut found = Found::default();
    for text in documents(rendered) {
        let from = text.lines().find_map(|line| line.strip_prefix("# Source: ")).unwrap_or("one of its documents");
        if text.len() > MAX_DOCUMENT {
            return Err(format!("`{from}` renders to more than {} MiB", MAX_DOCUMENT >> 20));
        }
        let document = Value::deserialize(serde_yaml::Deserializer::from_str(text));
        let document = document.map_err(|error| format!("`{from}` does not render to YAML: {error}"))?;
        look(&document, &mut found.images);
        found.more.extend(paths.iter().flat_map(|path| path.find(&document)).map(str::to_owned));
    }
    Ok(found)
}

fn documents(rendered: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(rendered);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = if text.starts_with("---") { Some(0) } else { text.find("\n---").map(|at| at + 1) };
        let Some(at) = at else {
            rest = None;
            return Some(text);
        };
        let (document, marked) = text.split_at(at);
        rest = marked.find('\n').and_then(|end| marked.get(end..));
        Some(document)
    })
    .filter(|text| text.lines().any(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with('#')))
}

fn look(value: &Value, images: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| look(value, images)),
        Value::Object(members) => {
            for (key, value) in members {
                let path = match key.as_str() {
                    key if CONTAINERS.contains(&key) => "/image",
                    "volumes" => "/image/reference",
                    _ => "",
                };
                if let (Value::Array(values), false) = (value, path.is_empty()) {
                    let texts = values.iter().filter_map(|value| value.pointer(path)?.as_str());
                    images.extend(texts.flat_map(str::split_whitespace).map(str::to_owned));
                }
                look(value, images);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rendered: &str, paths: &[&str]) -> Found {
        let paths: Vec<_> = paths.iter().map(|path| ImagePath::parse(path).unwrap()).collect();
        find(rendered, &paths).unwrap()
    }

    #[test]
    fn every_kind_of_workload_gives_its_images() {
        let rendered = "---\n# Source: c/templates/deployment.yaml\nkind: Deployment\nspec: {template: {spec: {\
             initContainers: [{image: q/init:1}], containers: [{image: q/main:1}, {name: none}]}}}\n\
             ---\nkind: CronJob\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{image: q/cron:1}]}}}}}\n\
             --- # marked\nkind: Pod\nspec:\n  ephemeralContainers: [{image: q/debug:1}]\n  volumes: [{image: {reference: q/data:1}}, {name: x}]\n  containers: []\n\
             ---\nkind: List\nitems: [{kind: Pod, spec: {containers: [{image: q/listed:1}]}}]\n\
             ---\nkind: Rollout\nspec: {workload: {deep: {template: {spec: {containers: [{image: \"q/nested:1\"}]}}}}}\n\
             ---\nkind: CustomResourceDefinition\nspec: {schema: {containers: {type: array, items: {image: {type: string}}}}}\n\
             ---\n# Source: c/templates/empty.yaml\n\n---\nkind: ConfigMap\ndata: {image: q/not:1, text: \"a\\n--- b\"}\n";
        let names = ["cron", "data", "debug", "init", "listed", "main", "nested"];
        let images: Vec<_> = found(rendered, &[]).images.into_iter().collect();
        assert_eq!(images, names.map(|name| format!("q/{name}:1")));
    }

    #[test]
    fn expressions_find_more() {
        let rendered =
            "kind: Thing\nspec: {image: q/a:1, env: [{value: q/b:1}, {value: debug}, {value: 7}]}\n---\nkind: Other\n";
        let more = found(rendered, &["{.spec.image}", "{.spec.env[*].value}"]).more;
        assert_eq!(more.into_iter().collect::<Vec<_>>(), ["debug", "q/a:1", "q/b:1"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let error = find("a: 1\n---\n# Source: c/templates/x.yaml\na: [\n", &[]).unwrap_err();
        assert!(error.starts_with("`c/templates/x.yaml` does not render to YAML: "), "{error}");
        let long = format!("# Source: c/templates/y.yaml\na: {}", "x".repeat(MAX_DOCUMENT));
        assert_eq!(find(&long, &[]).unwrap_err(), "`c/templates/y.yaml` renders to more than 8 MiB");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z:\\-\\n {}\\[\\]#]{0,120}") {
            find(&text, &[]).ok();
        }
    }
}

//! The validated request of `helm`: which charts of which repositories.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use url::Url;

use crate::api::Charts;
use crate::api::content as api;
use crate::oci::{NameError, Platform, Registry, Repository, RepositoryPath};

use super::build::Faults;
use super::chart_version::Constraint;
use super::content::platforms;
use super::image_path::ImagePath;

/// What the whole of `helm` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelmRequest {
    /// The repositories, in the user's order.
    pub repositories: Vec<ChartRepository>,
    /// Whether the charts themselves are wanted, or only the images in them.
    pub charts: Charts,
}

/// A repository and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartRepository {
    /// Its name, part of the charts' path in the target.
    pub name: String,
    /// Where it is.
    pub place: ChartPlace,
    /// Charts, in the user's order; empty for all of them in every version.
    pub charts: Vec<ChartRequest>,
}

/// Where charts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChartPlace {
    /// In a folder with an index; its address ends with `/`.
    Http(Url),
    /// In a registry, each in a repository of its own name.
    Oci {
        /// The registry.
        registry: Registry,
        /// The path above the charts.
        path: Option<RepositoryPath>,
    },
}

/// One chart, in one version or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartRequest {
    /// Its name.
    pub name: String,
    /// The newest that fits; the newest of all if none.
    pub version: Option<Constraint>,
    /// Where to look for further images.
    pub image_paths: Vec<ImagePath>,
    /// Platforms to copy of its images; empty for all.
    pub platforms: BTreeSet<Platform>,
    /// What to render it with.
    pub values: Map<String, Value>,
}

impl ChartPlace {
    /// The host, for rules about hosts.
    pub fn registry(&self) -> Option<Registry> {
        match self {
            Self::Oci { registry, .. } => Some(registry.clone()),
            Self::Http(url) => match url.port() {
                Some(port) => format!("{}:{port}", url.host_str()?).parse().ok(),
                None => url.host_str()?.parse().ok(),
            },
        }
    }

    /// The repository of a chart in a registry; none in a folder.
    ///
    /// # Errors
    /// A chart whose name cannot be part of a path.
    pub fn repository(&self, chart: &str) -> Result<Option<Repository>, NameError> {
        match self {
            Self::Http(_) => Ok(None),
            Self::Oci { registry, path } => {
                let path = match path {
                    Some(path) => format!("{path}/{chart}").parse()?,
                    None => chart.parse()?,
                };
                Ok(Some(Repository::new(registry.clone(), path)))
            }
        }
    }
}

/// Checks `helm`; none if it asks for no chart.
pub(super) fn read(
    helm: &api::Helm,
    charts: Charts,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Option<HelmRequest> {
    if !helm.local.is_empty() {
        faults.invalid(
            "spec.mirror.helm.local",
            "charts on disk cannot be read here: use `repositories`, with an https:// or oci:// address",
        );
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut repositories = Vec::with_capacity(helm.repositories.len());
    for (index, entry) in helm.repositories.iter().enumerate() {
        let field = format!("spec.mirror.helm.repositories[{index}]");
        let first = *names.entry(&entry.name).or_insert(index);
        if helm.repositories.get(first).is_some_and(|other| other.url != entry.url) {
            faults.invalid(
                format!("{field}.name"),
                format!(
                    "`{}` is the name of repositories[{first}] too, which is elsewhere: give them two names",
                    entry.name
                ),
            );
        }
        if charts == Charts::Copy && entry.name.parse::<RepositoryPath>().is_err() {
            faults.invalid(
                format!("{field}.name"),
                format!(
                    "`{}` is to be part of the charts' path in the target: write lower-case letters, digits, `-`, `_` and `.`, or \
                     set `copy.charts` to `Skip`",
                    entry.name
                ),
            );
        }
        let place = place(&format!("{field}.url"), &entry.url, faults);
        if entry.charts.is_empty() && matches!(place, Some(ChartPlace::Oci { .. })) {
            faults.invalid(
                format!("{field}.charts"),
                "a registry does not list the charts below a path: name those that are wanted",
            );
        }
        let wanted = entry.charts.iter().enumerate();
        let wanted = wanted
            .map(|(index, entry)| chart(&format!("{field}.charts[{index}]"), entry, place.as_ref(), faults, warnings));
        let wanted: Vec<_> = wanted.collect();
        if let Some(place) = place {
            let charts = wanted.into_iter().flatten().collect();
            repositories.push(ChartRepository { name: entry.name.clone(), place, charts });
        }
    }
    (!repositories.is_empty()).then_some(HelmRequest { repositories, charts })
}

fn place(field: &str, text: &str, faults: &mut Faults) -> Option<ChartPlace> {
    let wrong = |faults: &mut Faults, why: &str| faults.invalid(field, format!("`{text}` {why}"));
    let Some(mut url) = Url::parse(text).ok().filter(|url| url.host().is_some()) else {
        wrong(faults, "is not the address of a chart repository: write https://HOST/PATH or oci://HOST/PATH");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: it holds a secret.
        faults.invalid(field, "has credentials in it: put them into the Secret that `source.credentials` names");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        wrong(faults, "has a query or a fragment: leave it out");
        return None;
    }
    match url.scheme() {
        "http" | "https" => {
            let path = url.path();
            let folder = path.strip_suffix("index.yaml").filter(|rest| rest.ends_with('/')).unwrap_or(path);
            let folder = format!("{}/", folder.trim_end_matches('/'));
            url.set_path(&folder);
            Some(ChartPlace::Http(url))
        }
        "oci" => {
            let rest = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let registry = faults.parse::<Registry>(field, host)?;
            let path = match path {
                Some(path) => Some(faults.parse::<RepositoryPath>(field, path)?),
                None => None,
            };
            if registry.is_ipv6() {
                wrong(faults, "has an IPv6 address, which mirror sets cannot express: use a host name");
                return None;
            }
            Some(ChartPlace::Oci { registry, path })
        }
        _ => {
            wrong(faults, "is not the address of a chart repository: write https://HOST/PATH or oci://HOST/PATH");
            None
        }
    }
}

fn chart(
    field: &str,
    entry: &api::Chart,
    place: Option<&ChartPlace>,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Option<ChartRequest> {
    if entry.path.is_some() {
        warnings.push(format!("{field}.path has no effect here, as in oc-mirror: it can be left out"));
    }
    if let Some(Err(error)) = place.map(|place| place.repository(&entry.name)) {
        faults.invalid(format!("{field}.name"), error.to_string());
    }
    let mut image_paths = Vec::with_capacity(entry.image_paths.len());
    for (index, text) in entry.image_paths.iter().enumerate() {
        match ImagePath::parse(text) {
            Ok(path) => image_paths.push(path),
            Err(why) => faults.invalid(format!("{field}.imagePaths[{index}]"), why),
        }
    }
    let version = match entry.version.as_deref().map(Constraint::parse) {
        Some(Err(why)) => {
            faults.invalid(format!("{field}.version"), why);
            return None;
        }
        Some(Ok(constraint)) => Some(constraint),
        None => None,
    };
    Some(ChartRequest {
        name: entry.name.clone(),
        version,
        image_paths,
        platforms: platforms(&entry.platforms),
        values: entry.values.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::request::{ChartPlace, HelmRequest, Request};

    fn read(helm: &serde_json::Value, copy: &str) -> Result<HelmRequest, Vec<String>> {
        let object = json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "a"},
            "spec": {"mirror": {"helm": helm}, "target": {"registry": "h"}, "copy": {"charts": copy}},
        });
        match Request::try_new(&serde_json::from_value(object).unwrap()) {
            Ok(request) => Ok(request.helm.unwrap()),
            Err(invalid) => Err(invalid.faults.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn addresses_are_those_of_the_folder_with_the_index() {
        for (url, expected) in [
            ("https://h.test", "https://h.test/"),
            ("https://h.test/charts", "https://h.test/charts/"),
            ("https://h.test/charts/index.yaml", "https://h.test/charts/"),
            ("http://h.test:8080/a/b//", "http://h.test:8080/a/b/"),
        ] {
            let request = read(&json!({"repositories": [{"name": "a", "url": url}]}), "Copy").unwrap();
            let ChartPlace::Http(folder) = &request.repositories[0].place else { panic!("{url}") };
            assert_eq!(folder.as_str(), expected);
        }
        for (url, repository) in [("oci://h.test:5000/a/b/", "h.test:5000/a/b/web"), ("oci://h.test", "h.test/web")] {
            let charts = json!([{"name": "web"}]);
            let request =
                read(&json!({"repositories": [{"name": "a", "url": url, "charts": charts}]}), "Copy").unwrap();
            let place = &request.repositories[0].place;
            assert_eq!(place.repository("web").unwrap().unwrap().to_string(), repository);
        }
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let repository = |name: &str, url: &str, charts: serde_json::Value| json!({"repositories": [{"name": name, "url": url, "charts": charts}]});
        let with = |key: &str, value: serde_json::Value| {
            let mut chart = json!({"name": "web"});
            chart[key] = value;
            repository("a", "https://h", json!([chart]))
        };
        for (helm, expected) in [
            (
                repository("a", "ftp://h/x", json!([])),
                "repositories[0].url: `ftp://h/x` is not the address of a chart repository",
            ),
            (
                repository("a", "https://me:secret@h/x", json!([])),
                "repositories[0].url: has credentials in it: put them into the Secret",
            ),
            (repository("a", "https://h/x?y=z", json!([])), "repositories[0].url: `https://h/x?y=z` has a query"),
            (repository("a", "oci://h/Upper", json!([{"name": "web"}])), "repositories[0].url: "),
            (repository("a", "oci://h/x", json!([])), "repositories[0].charts: a registry does not list the charts"),
            (repository("a", "oci://h/x", json!([{"name": "Web"}])), "repositories[0].charts[0].name: "),
            (
                repository("My Charts", "https://h", json!([])),
                "repositories[0].name: `My Charts` is to be part of the charts' path",
            ),
            (
                with("version", json!("newest")),
                "repositories[0].charts[0].version: `newest` is not a version or a range",
            ),
            (
                with("imagePaths", json!(["{.a}", ".b"])),
                "repositories[0].charts[0].imagePaths[1]: `.b` is not a JSONPath",
            ),
            (
                json!({"repositories": [{"name": "a", "url": "https://h"}, {"name": "a", "url": "https://i"}]}),
                "repositories[1].name: `a` is the name of repositories[0] too",
            ),
            (json!({"local": [{"name": "a", "path": "/srv"}]}), "local: charts on disk cannot be read here"),
        ] {
            let faults = read(&helm, "Copy").unwrap_err();
            assert!(
                faults.iter().any(|fault| fault.starts_with(&format!("spec.mirror.helm.{expected}"))),
                "{expected}: {faults:?}"
            );
            assert!(!faults.concat().contains("secret"), "{faults:?}");
        }
        assert!(read(&repository("My Charts", "https://h", json!([])), "Skip").is_ok());
    }
}

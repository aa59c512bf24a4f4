//! The images that a catalog needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use semver::Version;

use super::Catalog;
use crate::oci::Reference;

/// An image that bundles need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// The image.
    pub image: Reference,
    /// The bundles that need it.
    pub bundles: BTreeSet<BundleName>,
    /// The highest version of these bundles; none if no version is known.
    pub newest: Option<Version>,
}

/// Names a bundle within a catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleName {
    /// Its package.
    pub package: Arc<str>,
    /// Its own name.
    pub bundle: Arc<str>,
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.package, self.bundle)
    }
}

/// An image that cannot be had whatever a registry has: its name is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("package `{package}`, bundle `{bundle}`: {}", unusable(image, why))]
pub struct BadImage {
    /// The package.
    pub package: String,
    /// The bundle.
    pub bundle: String,
    /// What it names.
    pub image: String,
    /// What is wrong with that.
    pub why: String,
}

fn unusable(image: &str, why: &str) -> String {
    if image.is_empty() {
        "it lists an image without a name".to_owned()
    } else {
        format!("the image `{image}` cannot be mirrored: {why}")
    }
}

/// Every image that the bundles of a catalog list, and their own, each once and as written.
///
/// oc-mirror takes only those that are listed; the bundle's own is one of them in whatever `opm` has made.
///
/// # Errors
/// All images that are no names with a tag or a digest.
pub fn related(catalog: &Catalog) -> Result<BTreeMap<String, Related>, Vec<BadImage>> {
    let mut found: BTreeMap<String, Related> = BTreeMap::new();
    let mut bad = Vec::new();
    for (package, content) in &catalog.packages {
        let package: Arc<str> = package.as_str().into();
        for bundle in &content.bundles {
            let name = bundle.named(&package);
            let version = bundle.version.as_ref().ok();
            let own = Some(&bundle.image).filter(|image| !image.is_empty());
            for image in bundle.related.iter().chain(own) {
                if let Some(known) = found.get_mut(image) {
                    known.bundles.insert(name.clone());
                    known.newest = known.newest.take().max(version.cloned());
                    continue;
                }
                match read(image) {
                    Ok(reference) => {
                        let bundles = BTreeSet::from([name.clone()]);
                        found.insert(image.clone(), Related { image: reference, bundles, newest: version.cloned() });
                    }
                    Err(why) => bad.push(BadImage {
                        package: package.to_string(),
                        bundle: bundle.blob.name.clone(),
                        image: image.clone(),
                        why,
                    }),
                }
            }
        }
    }
    bad.sort();
    bad.dedup();
    if bad.is_empty() { Ok(found) } else { Err(bad) }
}

fn read(image: &str) -> Result<Reference, String> {
    if image.contains("oci://") {
        return Err("it is on a disk; push it to a registry and name it there".to_owned());
    }
    let bare = image.strip_prefix("docker://").unwrap_or(image);
    bare.parse::<Reference>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::Loader;

    fn images(bundles: &[(&str, &str, &[&str])]) -> Result<Vec<String>, Vec<String>> {
        let mut loader = Loader::new(None);
        for (name, image, listed) in bundles {
            let listed: Vec<_> = listed.iter().map(|image| json!({"name": "", "image": image})).collect();
            let blob =
                json!({"schema": "olm.bundle", "package": "p", "name": name, "image": image, "relatedImages": listed});
            loader.file("f", blob.to_string().as_bytes());
        }
        let found = related(&loader.finish().unwrap().0);
        let text = |(image, related): (String, Related)| format!("{image} {}", related.bundles.len());
        found
            .map(|found| found.into_iter().map(text).collect())
            .map_err(|bad| bad.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_image_is_there_once_and_the_bundle_itself_too() {
        let found = images(&[("a", "q.test/a:1", &["q.test/x:1", "q.test/a:1"]), ("b", "q.test/b:1", &["q.test/x:1"])]);
        assert_eq!(found.unwrap(), ["q.test/a:1 1", "q.test/b:1 1", "q.test/x:1 2"]);
    }

    #[test]
    fn what_is_no_image_is_told_with_its_bundle() {
        for image in ["", "oci:///srv/x", "q.test/x", "q.test/x@sha256:12"] {
            let bad = images(&[("a", "q.test/a:1", &[image])]).unwrap_err();
            assert!(bad[0].contains("package `p`, bundle `a`") && bad[0].contains(image), "{bad:?}");
        }
    }
}

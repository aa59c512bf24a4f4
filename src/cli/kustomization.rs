//! The `kustomization.yaml` beside the cluster resources, so that a folder of them can be applied or built upon as a whole.

use std::path::Path;

use serde_json::json;

use crate::request::Identity;
use crate::resources::object_keys;

/// The name that kustomize looks for.
pub(super) const FILE: &str = "kustomization.yaml";
/// How the files begin that were written here.
const MARK: &str = "# ImageSetMirror ";

/// Refuses a folder that has a kustomization of somebody else.
pub(super) fn check(directory: &Path) -> Result<(), String> {
    let path = directory.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.starts_with(MARK) => Ok(()),
        Ok(_) => Err(format!(
            "--out: {} was not written by an earlier run: move it to another folder and name this one in its `resources`",
            path.display()
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("--out: reading {}: {error}", path.display())),
    }
}

/// Writes it for the resources that are in the folder; none for none, which kustomize would not take.
pub(super) fn write(directory: &Path, identity: &Identity) -> Result<(), String> {
    let path = directory.join(FILE);
    let files: Vec<_> = object_keys().filter(|key| directory.join(key).exists()).collect();
    let done = if !files.is_empty() {
        std::fs::write(&path, text(identity, files))
    } else if path.exists() {
        std::fs::remove_file(&path)
    } else {
        Ok(())
    };
    done.map_err(|error| format!("writing {}: {error}", path.display()))
}

fn text(identity: &Identity, mut files: Vec<String>) -> String {
    files.sort_unstable();
    let Identity { namespace, name, .. } = identity;
    let kustomization =
        json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": files});
    // A map of texts can be written.
    format!("{MARK}{namespace}/{name}\n{}", serde_yaml::to_string(&kustomization).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_what_is_there_in_order_and_goes_with_the_last_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { namespace: "ns".to_owned(), name: "set".to_owned(), uid: String::new() };
        let path = dir.path().join(FILE);
        write(dir.path(), &identity).unwrap();
        assert!(!path.exists());
        for name in ["updateservice.yaml", "idms.yaml", "idms-pending.yaml", "applied.yaml", "mine.yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        write(dir.path(), &identity).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("resources:\n- idms.yaml\n- updateservice.yaml\n"), "{text}");
        check(dir.path()).unwrap();
        for name in ["updateservice.yaml", "idms.yaml"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        write(dir.path(), &identity).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "resources: []\n").unwrap();
        assert!(check(dir.path()).unwrap_err().contains("was not written by an earlier run"));
    }
}

//! `containerd-hosts`: brings published files to the node that it runs on, and keeps them there.
//!
//! containerd reads the files at every pull, so nothing is restarted. A file is replaced as a whole, its certificates before it.
//! Files that we did not write stay, and so do those of objects that are not named. While a `ConfigMap` cannot be read nothing
//! changes; what is not published any more is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};

use super::output::{fail, print, refuse, warn};
use super::{ContainerdHostsArgs, DONE, FAILED};
use crate::failure::chain;
use crate::resources::containerd::{self, CA_KEY, HOSTS_FILE, folder_of, owner_of};

/// Runs the command.
pub(super) async fn run(args: ContainerdHostsArgs) -> u8 {
    let unique: BTreeSet<&String> = args.objects.iter().collect();
    if unique.len() < args.objects.len() {
        return refuse(&["--object: each once".to_owned()]);
    }
    let client = match kube::Config::infer().await.map_err(kube::Error::InferConfig).and_then(Client::try_from) {
        Ok(client) => client,
        Err(error) => return fail(&format!("finding the API server (in a pod, or by KUBECONFIG): {}", chain(&error))),
    };
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return fail(&format!("listening for signals: {error}")),
    };
    let maps: Api<ConfigMap> = Api::namespaced(client, &args.namespace);
    let mut told = Vec::new();
    loop {
        let mut faults = Vec::new();
        for name in &args.objects {
            let done = match published(&maps, name).await {
                Ok(files) => install(&args.to, &format!("{}/{name}", args.namespace), &files),
                Err(fault) => Done { faults: vec![fault], ..Done::default() },
            };
            for change in &done.changes {
                print(&format!("{change}\n"));
            }
            faults.extend(done.faults);
        }
        if faults != told {
            warn(&faults);
        }
        let Some(every) = args.every else { return if faults.is_empty() { DONE } else { FAILED } };
        told = faults;
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = terminate.recv() => return DONE,
            _ = tokio::signal::ctrl_c() => return DONE,
        }
    }
}

/// What is published for an object.
async fn published(maps: &Api<ConfigMap>, object: &str) -> Result<BTreeMap<String, String>, String> {
    let name = containerd::config_map(object);
    match maps.get_opt(&name).await {
        Ok(Some(map)) => Ok(map.data.unwrap_or_default()),
        Ok(None) => Err(format!("ConfigMap `{name}` is not there: what is on the node stays")),
        Err(error) => Err(format!("reading ConfigMap `{name}`: {}", chain(&error))),
    }
}

/// What was done, and what could not be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    changes: Vec<String>,
    faults: Vec<String>,
}

/// Makes a folder hold the files of an object, `owner` as `namespace/name`.
fn install(to: &Path, owner: &str, files: &BTreeMap<String, String>) -> Done {
    let mut done = Done::default();
    let bundle = files.get(CA_KEY).map(String::as_str);
    let wanted: BTreeMap<&str, &str> =
        files.iter().filter_map(|(key, text)| Some((folder_of(key)?, text.as_str()))).collect();
    for (folder, text) in &wanted {
        match put(&to.join(folder), owner, text, bundle) {
            Ok(true) => done.changes.push(format!("{folder}: written")),
            Ok(false) => {}
            Err(fault) => done.faults.push(format!("{folder}: {fault}")),
        }
    }
    let there = match fs::read_dir(to) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return done,
        Err(error) => {
            done.faults.push(format!("reading {}: {error}", to.display()));
            return done;
        }
    };
    let names = there.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| !wanted.contains_key(name.as_str())).collect::<BTreeSet<_>>() {
        match remove(&to.join(&name), owner) {
            Ok(true) => done.changes.push(format!("{name}: removed")),
            Ok(false) => {}
            Err(error) => done.faults.push(format!("{name}: {error}")),
        }
    }
    done
}

/// Writes one file and its certificates; false if it is there already.
fn put(folder: &Path, owner: &str, text: &str, bundle: Option<&str>) -> Result<bool, String> {
    if owner_of(text) != Some(owner) {
        return Err("what is published is not of the object".to_owned());
    }
    let file = folder.join(HOSTS_FILE);
    let found = read(&file).map_err(|error| error.to_string())?;
    if let Some(found) = &found {
        match owner_of(found) {
            Some(other) if other != owner => return Err(format!("the node has a file of {other}, which stays")),
            None => return Err("the node has a file that was not written by this, which stays".to_owned()),
            Some(_) => {}
        }
    }
    let certificates = folder.join(CA_KEY);
    let trusted = bundle.is_none_or(|bundle| read(&certificates).is_ok_and(|found| found.as_deref() == Some(bundle)));
    if trusted && found.as_deref() == Some(text) {
        return Ok(false);
    }
    write(folder, text, bundle).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Writes one file, its certificates before it.
pub(super) fn write(folder: &Path, text: &str, bundle: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if let Some(bundle) = bundle {
        replace(&folder.join(CA_KEY), bundle)?;
    }
    replace(&folder.join(HOSTS_FILE), text)
}

/// Removes one file and its certificates, if they are the object's.
fn remove(folder: &Path, owner: &str) -> io::Result<bool> {
    let file = folder.join(HOSTS_FILE);
    if read(&file)?.as_deref().and_then(owner_of) != Some(owner) {
        return Ok(false);
    }
    fs::remove_file(file)?;
    match fs::remove_file(folder.join(CA_KEY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Somebody else's files may be there, too.
    fs::remove_dir(folder).ok();
    Ok(true)
}

/// The text of a file, if it is there.
fn read(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A reader sees the old text or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(owner: &str, keys: &[&str]) -> BTreeMap<String, String> {
        let file = |key: &&str| ((*key).to_owned(), format!("# ImageSetMirror {owner}\n\n[host.\"https://m.io\"]\n"));
        keys.iter().map(file).chain([(CA_KEY.to_owned(), "a certificate\n".to_owned())]).collect()
    }

    #[test]
    fn files_come_change_and_go_and_nothing_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("certs.d");
        let both = files("ns/a", &["quay.io.hosts.toml", "r.io_5000_.hosts.toml"]);
        let done = install(&to, "ns/a", &both);
        assert_eq!(done.changes, ["quay.io: written", "r.io_5000_: written"]);
        assert!(done.faults.is_empty(), "{done:?}");
        assert_eq!(fs::read_to_string(to.join("r.io_5000_/ca.crt")).unwrap(), "a certificate\n");
        assert_eq!(install(&to, "ns/a", &both), Done::default());

        let mut other = files("ns/a", &["quay.io.hosts.toml"]);
        other.insert(CA_KEY.to_owned(), "another\n".to_owned());
        let done = install(&to, "ns/a", &other);
        assert_eq!(done.changes, ["quay.io: written", "r.io_5000_: removed"]);
        assert!(!to.join("r.io_5000_").exists());
        let left: BTreeSet<_> =
            fs::read_dir(to.join("quay.io")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, BTreeSet::from([CA_KEY.into(), HOSTS_FILE.into()]));
    }

    #[test]
    fn what_is_not_ours_stays_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, text) in [("_default", "mine\n"), ("ghcr.io", "mine\n"), ("quay.io", "# ImageSetMirror ns/b\n")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(HOSTS_FILE), text).unwrap();
        }
        let wanted = files("ns/a", &["_default.hosts.toml", "ghcr.io.hosts.toml", "quay.io.hosts.toml"]);
        let done = install(dir.path(), "ns/a", &wanted);
        assert!(done.changes.is_empty(), "{done:?}");
        assert_eq!(
            done.faults,
            [
                "ghcr.io: the node has a file that was not written by this, which stays",
                "quay.io: the node has a file of ns/b, which stays",
            ]
        );
        assert_eq!(install(dir.path(), "ns/a", &BTreeMap::new()), Done::default());
        let foreign = files("ns/b", &["r.io.hosts.toml"]);
        assert_eq!(install(dir.path(), "ns/a", &foreign).faults, ["r.io: what is published is not of the object"]);
    }
}

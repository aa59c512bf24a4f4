//! The archive of a chart: what it says of itself, and that nothing in it leads out of it.

use std::io::{self, Read};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::request::loose;

/// Unpacked bytes that are taken; Helm takes as many.
const MAX_BYTES: u64 = 100 << 20;
/// Entries that are taken.
const MAX_ENTRIES: usize = 20_000;
/// The longest `Chart.yaml`.
const MAX_CHART: u64 = 1 << 20;

/// Looks into the archive of version `version` of the chart `name`; returns its `Chart.yaml`.
///
/// # Errors
/// What is wrong with it, in words: no archive, another chart, too large, or with names that lead elsewhere.
pub fn inspect(archive: &[u8], name: &str, version: &str) -> Result<Value, String> {
    let chart = chart_yaml(archive).map_err(|error| format!("its archive cannot be used: {error}"))?;
    let chart: Value =
        serde_yaml::from_slice(&chart).map_err(|error| format!("its Chart.yaml cannot be read: {error}"))?;
    let text = |key: &str| match chart.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let (own, own_version) = (text("name"), text("version"));
    if own != name || (own_version != version && loose(&own_version) != loose(version)) {
        return Err(format!("its archive holds `{own}` {own_version} instead"));
    }
    Ok(chart)
}

fn chart_yaml(archive: &[u8]) -> io::Result<Vec<u8>> {
    let other = |text: String| io::Error::other(text);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(archive).take(MAX_BYTES + 1));
    let mut found = None;
    let mut total = 0;
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        total += entry.size();
        if total > MAX_BYTES || count >= MAX_ENTRIES {
            return Err(other(format!("it has more than {} MiB or {MAX_ENTRIES} entries", MAX_BYTES >> 20)));
        }
        let path = inside(Path::new(""), &entry.path()?)?;
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let link = entry.link_name()?.unwrap_or_default().into_owned();
            // A symbolic link starts where it is, a hard link at the top.
            let from =
                if kind.is_symlink() { Path::new(&path).parent().unwrap_or(Path::new("")) } else { Path::new("") };
            let target = inside(from, &link)
                .ok()
                .filter(|target| target.split('/').next() == path.split('/').next() && !link.is_absolute());
            if target.is_none() {
                return Err(other(format!(
                    "`{path}` is a link to `{}`, which lies outside of the chart",
                    link.display()
                )));
            }
            continue;
        }
        if kind.is_file() && path.split('/').nth(1) == Some("Chart.yaml") && path.matches('/').count() == 1 {
            if entry.size() > MAX_CHART {
                return Err(other(format!("`{path}` has more than {MAX_CHART} bytes")));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found = Some(content);
        }
    }
    found.ok_or_else(|| other("it has no Chart.yaml in a folder at its top".to_owned()))
}

/// `path` as seen from `base`, without leaving the top.
fn inside(base: &Path, path: &Path) -> io::Result<String> {
    let mut parts: Vec<String> =
        base.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    for component in path.components() {
        let left = match component {
            Component::Normal(part) => {
                parts.push(part.to_string_lossy().into_owned());
                false
            }
            Component::CurDir => false,
            Component::ParentDir => parts.pop().is_none(),
            Component::RootDir | Component::Prefix(_) => true,
        };
        if left {
            return Err(io::Error::other(format!("`{}` lies outside of it", path.display())));
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As it is, with parts that the library would refuse to write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn packed(entries: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            entry(&mut builder, tar::EntryType::Regular, name, "", content.as_bytes());
        }
        for (name, link) in links {
            entry(&mut builder, tar::EntryType::Symlink, name, link, b"");
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&builder.into_inner().unwrap()).unwrap();
        encoder.finish().unwrap()
    }

    const CHART: (&str, &str) = ("web/Chart.yaml", "name: web\nversion: 1.2.3+b\ntype: application\n");

    #[test]
    fn a_chart_tells_what_it_is() {
        let links = [("web/a", "templates/x"), ("web/templates/b", "../values.yaml")];
        let archive = packed(&[CHART, ("web/templates/x", "y"), ("web/charts/sub/Chart.yaml", "name: sub")], &links);
        assert_eq!(inspect(&archive, "web", "1.2.3+b").unwrap()["type"], "application");
        assert_eq!(inspect(&archive, "web", "v1.2.3+b").unwrap()["name"], "web");
    }

    #[test]
    fn what_is_no_such_chart_or_leads_out_of_it_is_refused() {
        let good = packed(&[CHART], &[]);
        let bomb = packed(&[CHART, ("web/zeros", &"0".repeat((100 << 20) + 1))], &[]);
        for (archive, why) in [
            (b"<html>".to_vec(), "cannot be used"),
            (good[..good.len() / 2].to_vec(), "cannot be used"),
            (packed(&[("web/values.yaml", "")], &[]), "no Chart.yaml"),
            (packed(&[("Chart.yaml", "name: web")], &[]), "no Chart.yaml"),
            (packed(&[("web/Chart.yaml", "name: other\nversion: 1.2.3")], &[]), "holds `other` 1.2.3 instead"),
            (packed(&[("web/Chart.yaml", "name: web\nversion: 1.2.4")], &[]), "holds `web` 1.2.4 instead"),
            (packed(&[("web/Chart.yaml", "a: [")], &[]), "Chart.yaml cannot be read"),
            (packed(&[CHART, ("web/../../etc/passwd", "")], &[]), "outside of it"),
            (packed(&[CHART, ("/etc/passwd", "")], &[]), "outside of it"),
            (packed(&[CHART], &[("web/a", "../../etc/passwd")]), "link to `../../etc/passwd`, which lies outside"),
            (packed(&[CHART], &[("web/a", "../other/x")]), "outside of the chart"),
            (packed(&[CHART], &[("web/a", "/etc/passwd")]), "outside of the chart"),
            (bomb, "more than 100 MiB"),
        ] {
            let error = inspect(&archive, "web", "1.2.3").unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}

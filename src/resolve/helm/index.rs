//! `index.yaml` of a chart repository: <https://helm.sh/docs/topics/chart_repository/#the-index-file>.
//!
//! Those of large repositories have 30 MB, of which a few charts are wanted. So it is cut at the names of the charts, which
//! stand alone on their lines, and only what is wanted is parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use semver::Version;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use url::Url;

use crate::request::loose;

/// The most versions that are taken in; the largest public repositories have 20,000.
const MAX_VERSIONS: usize = 200_000;
/// The longest index that is parsed as a whole, for one that is YAML and not laid out as Helm does.
const MAX_WHOLE: usize = 4 << 20;

/// Names an index, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey {
    /// The folder it is in.
    pub folder: Url,
    /// Names of charts; empty for all.
    pub charts: BTreeSet<String>,
}

/// The charts of a repository that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChartIndex(BTreeMap<String, Result<Vec<Entry>, String>>);

/// One version of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The version, as written.
    pub written: String,
    /// The same.
    pub version: Version,
    /// The first of its addresses, which may be relative to the index; none if it has none.
    pub url: Option<String>,
    /// What the archive hashes to, as written.
    pub digest: Option<String>,
    /// True if it cannot be installed by itself.
    pub library: bool,
}

/// An entry as it is written.
#[derive(Deserialize)]
struct Written {
    version: Option<String>,
    #[serde(default)]
    urls: Option<Vec<String>>,
    digest: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl ChartIndex {
    /// Reads what `key` wants.
    ///
    /// # Errors
    /// What is no index, in words. One chart that cannot be read is no error of the others.
    pub fn parse(bytes: &[u8], key: &IndexKey) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not text: {error}"))?;
        let text = text.trim_start_matches('\u{feff}');
        match text.trim_start().chars().next() {
            Some('<') => return Err("it is a page and not an index".to_owned()),
            Some('{') => return json(text, key),
            _ => {}
        }
        match blocks(text) {
            Some(blocks) => {
                let wanted = blocks.into_iter().filter(|(name, _)| key.wants(name));
                let mut index = Self::default();
                for (name, block) in wanted {
                    let entries = serde_yaml::from_str::<BTreeMap<String, Option<Vec<Written>>>>(block);
                    let entries = entries.map(|found| found.into_values().flatten().flatten().collect());
                    index.put(name, entries.map_err(|error| error.to_string()))?;
                }
                Ok(index)
            }
            None if text.len() <= MAX_WHOLE => whole(text, key),
            None => Err("it is not laid out as `helm repo index` does, and too long to be read otherwise".to_owned()),
        }
    }

    /// The names of the charts.
    pub fn charts(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The versions of a chart, the newest first; none if it is not there.
    pub fn versions(&self, chart: &str) -> Option<Result<&[Entry], &str>> {
        self.0.get(chart).map(|found| found.as_deref().map_err(String::as_str))
    }

    fn put(&mut self, name: String, written: Result<Vec<Written>, String>) -> Result<(), String> {
        let entries = written.map(|written| {
            let mut entries: Vec<_> = written.into_iter().filter_map(entry).collect();
            entries.sort_by(|a, b| b.version.cmp(&a.version));
            entries
        });
        self.0.insert(name, entries);
        let count: usize = self.0.values().flatten().map(Vec::len).sum();
        if count > MAX_VERSIONS { Err(format!("it has more than {MAX_VERSIONS} versions of charts")) } else { Ok(()) }
    }
}

impl IndexKey {
    fn wants(&self, name: &str) -> bool {
        self.charts.is_empty() || self.charts.contains(name)
    }
}

/// What has no version that can be compared is not there, as for Helm.
fn entry(written: Written) -> Option<Entry> {
    let text = written.version?;
    Some(Entry {
        version: loose(&text)?,
        written: text,
        url: written.urls.into_iter().flatten().next(),
        digest: written.digest.filter(|digest| !digest.is_empty()),
        library: written.kind.as_deref() == Some("library"),
    })
}

/// The charts with the lines that they stand on; none if the text is laid out differently.
fn blocks(text: &str) -> Option<Vec<(String, &str)>> {
    let mut found: Vec<(String, usize, usize)> = Vec::new();
    let mut within = false;
    let mut indent = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let body = line.trim_end();
        let content = body.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let depth = body.len() - content.len();
        if depth == 0 && !content.starts_with("- ") {
            if let Some(last) = found.last_mut().filter(|_| within) {
                last.2 = start;
            }
            within = content == "entries:";
            if !within && content.starts_with("entries:") && content != "entries: {}" {
                return None;
            }
            continue;
        }
        if !within {
            continue;
        }
        let level = *indent.get_or_insert(depth);
        if depth < level {
            return None;
        }
        if depth > level || content.starts_with("- ") || content == "-" {
            continue;
        }
        // A name, alone on its line or with an empty list.
        let name = content.strip_suffix(':').or_else(|| content.strip_suffix(": []"))?;
        let name = name.trim_matches(['"', '\'']);
        if let Some(last) = found.last_mut() {
            last.2 = start;
        }
        found.push((name.to_owned(), start, text.len()));
    }
    if found.is_empty() && !text.lines().any(|line| line.starts_with("entries:")) {
        return None;
    }
    found.into_iter().map(|(name, start, end)| Some((name, text.get(start..end)?))).collect()
}

#[derive(Deserialize)]
struct Whole {
    entries: BTreeMap<String, Option<Vec<Written>>>,
}

fn whole(text: &str, key: &IndexKey) -> Result<ChartIndex, String> {
    let Whole { entries } = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut index = ChartIndex::default();
    for (name, written) in entries.into_iter().filter(|(name, _)| key.wants(name)) {
        index.put(name, Ok(written.unwrap_or_default()))?;
    }
    Ok(index)
}

/// An index in JSON, of which nothing is kept but what is wanted.
fn json(text: &str, key: &IndexKey) -> Result<ChartIndex, String> {
    let mut index = None;
    let top = Top { key, index: &mut index };
    top.deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())?;
    index.ok_or_else(|| "it has no `entries`".to_owned())
}

struct Top<'a> {
    key: &'a IndexKey,
    index: &'a mut Option<ChartIndex>,
}

struct Charts<'a>(&'a IndexKey);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index of charts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "entries" {
                *self.index = Some(map.next_value_seed(Charts(self.key))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Charts<'_> {
    type Value = ChartIndex;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<ChartIndex, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Charts<'_> {
    type Value = ChartIndex;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("charts by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChartIndex, A::Error> {
        let mut index = ChartIndex::default();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.wants(&name) {
                let written = map.next_value::<Option<Vec<Written>>>()?.unwrap_or_default();
                index.put(name, Ok(written)).map_err(serde::de::Error::custom)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "apiVersion: v1\nentries:\n  web:\n  - apiVersion: v2\n    name: web\n    version: 1.2.0\n    digest: aa\n    \
         description: |\n      entries:\n      other:\n    urls:\n    - web-1.2.0.tgz\n  - name: web\n    version: v1.10.0\n    \
         urls: [https://elsewhere/web-1.10.0.tgz]\n  - name: web\n    version: latest\n  \"lib\":\n    - version: 1.0\n      type: library\n  \
         empty: []\n  broken:\n  - version: [1]\ngenerated: \"2026-01-01T00:00:00Z\"\n";

    fn key(charts: &[&str]) -> IndexKey {
        IndexKey {
            folder: "https://charts.test/".parse().unwrap(),
            charts: charts.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn versions(index: &ChartIndex, chart: &str) -> Vec<String> {
        index.versions(chart).unwrap().unwrap().iter().map(|entry| entry.written.clone()).collect()
    }

    #[test]
    fn only_what_is_wanted_is_read_and_the_newest_comes_first() {
        let index = ChartIndex::parse(INDEX.as_bytes(), &key(&["web"])).unwrap();
        assert_eq!(index.charts().collect::<Vec<_>>(), ["web"]);
        let [newest, older] = index.versions("web").unwrap().unwrap() else { panic!("two versions") };
        assert_eq!(
            (newest.written.as_str(), newest.url.as_deref()),
            ("v1.10.0", Some("https://elsewhere/web-1.10.0.tgz"))
        );
        assert_eq!((older.url.as_deref(), older.digest.as_deref()), (Some("web-1.2.0.tgz"), Some("aa")));
    }

    #[test]
    fn without_names_all_charts_are_read_and_a_broken_one_is_no_fault_of_the_others() {
        let index = ChartIndex::parse(INDEX.as_bytes(), &key(&[])).unwrap();
        assert_eq!(index.charts().collect::<Vec<_>>(), ["broken", "empty", "lib", "web"]);
        assert!(index.versions("broken").unwrap().unwrap_err().contains("version"));
        assert!(index.versions("empty").unwrap().unwrap().is_empty());
        assert_eq!(versions(&index, "lib"), ["1.0"]);
        assert!(index.versions("lib").unwrap().unwrap()[0].library);
        assert!(index.versions("absent").is_none());
    }

    #[test]
    fn other_layouts_are_read_too() {
        let json = r#"{"apiVersion":"v1","generated":"x","entries":{"other":[{"version":7}],"web":[{"version":"1.0.0","urls":["a"]}]}}"#;
        let flow = "apiVersion: v1\nentries: {web: [{version: 1.0.0, urls: [a]}]}\n";
        let tight = "entries:\n web:\n - version: 1.0.0\n   urls:\n   - a\n";
        for text in [json, flow, tight] {
            let index = ChartIndex::parse(text.as_bytes(), &key(&["web"])).unwrap();
            assert_eq!(versions(&index, "web"), ["1.0.0"], "{text}");
        }
        assert_eq!(ChartIndex::parse(b"apiVersion: v1\nentries: {}\n", &key(&[])).unwrap(), ChartIndex::default());
    }

    #[test]
    fn what_is_no_index_is_told() {
        for (text, why) in [
            ("<!DOCTYPE html><html>", "a page"),
            ("", "entries"),
            ("hello", "expected"),
            ("apiVersion: v1\n", "entries"),
            ("{\"a\": 1}", "no `entries`"),
            ("{\"entries\": [", "expected charts"),
            ("entries: [1\n", "expected"),
        ] {
            let error = ChartIndex::parse(text.as_bytes(), &key(&[])).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(ChartIndex::parse(&[0xff, 0xfe, 0], &key(&[])).unwrap_err().contains("not text"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z :\\-\\n{}\\[\\]\"'#|>&*!%]{0,200}") {
            for text in [text.clone(), format!("entries:\n{text}")] {
                ChartIndex::parse(text.as_bytes(), &key(&[])).ok();
            }
        }
    }
}

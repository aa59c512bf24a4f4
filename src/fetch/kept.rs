//! What was fetched, for other processes: lines of JSON, and the layers of catalogs beside them.
//!
//! Kept is what has a digest for a name, so that it never changes, and what takes long to find out: what payloads of releases
//! consist of, images to build on, and what is selected of catalogs. Manifests and configs are verified by the digest again, and
//! layers by theirs; lists of images cannot be. Signatures are not kept: somebody may sign again.
//!
//! Another version of this program reads everything anew: what it makes of a catalog may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::build::{self, Base, BaseImage, Layer};
use crate::catalog::BundleName;
use crate::oci::{Digest, Manifest, RawManifest, Reference};
use crate::resolve::operators::{Needed, PackageSummary, Selected};
use crate::resolve::payload::{Component, Payload};
use crate::resolve::{Document, DocumentKey};

/// Who has written it. The number is raised with each change of what these documents mean within a version.
const WRITER: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), " 1");
/// Documents with a longer line are not kept; real ones have some 10 KiB.
const MAX_LINE: usize = 128 << 10;
/// The most bytes of all lines and layers together; what does not fit is not kept.
pub const MAX_KEPT: u64 = 64 << 20;
/// Bytes of these for the first line and the names of what is left out.
const SPARE: u64 = 1 << 20;
/// The most bytes that the layers may have together when they are unpacked.
const MAX_UNPACKED: u64 = 256 << 20;

/// Documents by the names of their keys.
pub type Named = BTreeMap<String, Document>;

/// Documents as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// JSON, one object each.
    pub lines: Vec<String>,
    /// What the lines name by its digest.
    pub blobs: Vec<Bytes>,
}

/// Under which name the document of a key is kept; none if what it names may change, or is found out quickly.
pub(super) fn name(key: &DocumentKey) -> Option<String> {
    let name = match key {
        DocumentKey::Payload(key) => serde_json::json!(["payload", key.repository, key.digest]),
        DocumentKey::Base(image) => serde_json::json!(["base", image]),
        DocumentKey::Catalog(key) => serde_json::json!(["catalog", key.image, key.folder, *key.selection]),
        DocumentKey::TagDigest(_)
        | DocumentKey::Graph(_)
        | DocumentKey::GraphData
        | DocumentKey::Signatures(_)
        | DocumentKey::Charts(_)
        | DocumentKey::Tags(_)
        | DocumentKey::Chart(_) => return None,
    };
    Some(name.to_string())
}

/// One line. A document begins with its name, and consists of what follows.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Line {
    /// The first of all.
    Writer(String),
    /// The name of a document that is not kept, and is not missed because of that.
    LeftOut(String),
    Payload {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_images: Option<BTreeMap<String, Reference>>,
    },
    Component {
        name: String,
        image: Reference,
    },
    Base {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<Text>,
    },
    Image {
        manifest: Text,
        config: String,
    },
    Catalog {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<Digest>,
    },
    Package(PackageSummary),
    Needed {
        written: String,
        image: Reference,
        bundles: Vec<(String, String)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        newest: Option<Version>,
    },
    Note(String),
}

/// A manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    media_type: String,
    text: String,
}

impl Text {
    fn of(manifest: &RawManifest) -> Option<Self> {
        let text = std::str::from_utf8(manifest.bytes()).ok()?.to_owned();
        Some(Self { media_type: manifest.media_type().to_owned(), text })
    }

    fn read(self) -> RawManifest {
        RawManifest::new(Bytes::from(self.text), self.media_type)
    }
}

impl Kept {
    /// The documents as they are written; those that do not fit are left out.
    pub fn of(documents: &Named) -> Self {
        let Some(writer) = text(&Line::Writer(WRITER.to_owned())) else { return Self::default() };
        let mut kept = Self { lines: vec![writer], blobs: Vec::new() };
        let mut room = Room::default();
        for (name, document) in documents {
            match room.take(name, document) {
                Some((lines, blob)) => {
                    kept.lines.extend(lines);
                    kept.blobs.extend(blob);
                }
                None => kept.lines.extend(text(&Line::LeftOut(name.clone()))),
            }
        }
        kept
    }

    /// The documents, as far as they can be read and are what they are said to be, and the names of those and of what was left
    /// out; nothing that another version has written.
    pub fn read(&self) -> (Named, BTreeSet<String>) {
        let mut lines = self.lines.iter().map(|line| serde_json::from_str(line).ok());
        match lines.next() {
            Some(Some(Line::Writer(writer))) if writer == WRITER => {}
            _ => return Default::default(),
        }
        let mut room = Room::default();
        let layer = |bytes: &Bytes| {
            let diff_id = room.unpack(bytes)?;
            Some((Digest::of(bytes), Layer { bytes: bytes.clone(), diff_id }))
        };
        let layers: BTreeMap<_, _> = self.blobs.iter().filter_map(layer).collect();
        let (mut read, mut names) = (Named::new(), BTreeSet::new());
        let mut current: Option<Unfinished> = None;
        for line in lines {
            let Some(line) = line else { return Default::default() };
            match line {
                Line::LeftOut(name) => drop(names.insert(name)),
                line => match (Unfinished::begin(line, &layers), &mut current) {
                    (Ok(next), _) => read.extend(current.replace(next).and_then(Unfinished::finish)),
                    (Err(line), Some(current)) => current.add(*line),
                    (Err(_), None) => return Default::default(),
                },
            }
        }
        read.extend(current.and_then(Unfinished::finish));
        names.extend(read.keys().cloned());
        (read, names)
    }
}

fn text(line: &Line) -> Option<String> {
    serde_json::to_string(line).ok().filter(|line| line.len() <= MAX_LINE)
}

/// What may still be kept, in bytes.
struct Room {
    kept: u64,
    unpacked: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { kept: MAX_KEPT - SPARE, unpacked: MAX_UNPACKED }
    }
}

impl Room {
    /// The lines and the blob of a document, if there is room for it.
    fn take(&mut self, name: &str, document: &Document) -> Option<(Vec<String>, Option<Bytes>)> {
        let (lines, blob) = lines(name, document)?;
        let lines = lines.iter().map(text).collect::<Option<Vec<_>>>()?;
        let length = lines.iter().map(|line| line.len() + 1).sum::<usize>() + blob.as_ref().map_or(0, Bytes::len);
        let left = self.kept.checked_sub(length as u64)?;
        if let Some(blob) = &blob {
            self.unpack(blob)?;
        }
        self.kept = left;
        Some((lines, blob))
    }

    /// Digest of what a layer is when it is unpacked, if there is room for that.
    fn unpack(&mut self, layer: &[u8]) -> Option<Digest> {
        let (digest, length) = build::unpacked(layer, self.unpacked)?;
        self.unpacked -= length;
        Some(digest)
    }
}

/// A document, and the blob that it needs; none if it is of no kind that is kept, or cannot be written as text.
fn lines(name: &str, document: &Document) -> Option<(Vec<Line>, Option<Bytes>)> {
    let name = name.to_owned();
    Some(match document {
        Document::Payload(payload) => {
            let Payload { version, components, boot_images } = &**payload;
            let begin = Line::Payload { name, version: version.clone(), boot_images: boot_images.clone() };
            let components = components.iter().cloned();
            let components = components.map(|Component { name, image }| Line::Component { name, image });
            (std::iter::once(begin).chain(components).collect(), None)
        }
        Document::Base(base) => {
            let index = match &base.index {
                Some(index) => Some(Text::of(index)?),
                None => None,
            };
            let mut lines = vec![Line::Base { name, index }];
            for BaseImage { manifest, config } in &base.images {
                let config = std::str::from_utf8(config).ok()?.to_owned();
                lines.push(Line::Image { manifest: Text::of(manifest)?, config });
            }
            (lines, None)
        }
        Document::Catalog(selected) => {
            let Selected { layer, images, packages, notes } = &**selected;
            let begin = Line::Catalog { name, layer: layer.as_ref().map(|layer| Digest::of(&layer.bytes)) };
            let packages = packages.iter().cloned().map(Line::Package);
            let notes = notes.iter().cloned().map(Line::Note);
            let images = images.iter().map(|Needed { written, image, bundles, newest }| Line::Needed {
                written: written.clone(),
                image: image.clone(),
                bundles: bundles.iter().map(|name| (name.package.to_string(), name.bundle.to_string())).collect(),
                newest: newest.clone(),
            });
            let lines = std::iter::once(begin).chain(packages).chain(notes).chain(images);
            (lines.collect(), layer.as_ref().map(|layer| layer.bytes.clone()))
        }
        Document::Digest(_)
        | Document::Graph(_)
        | Document::GraphData(_)
        | Document::Signatures(_)
        | Document::Charts(_)
        | Document::Tags(_)
        | Document::Chart(_) => return None,
    })
}

/// A document of which lines may follow.
struct Unfinished {
    name: String,
    content: Content,
}

enum Content {
    Payload(Payload),
    Base(Base),
    Catalog(Selected),
    /// Something about it cannot be read.
    Broken,
}

impl Unfinished {
    /// What a line begins; the line itself if it begins nothing.
    fn begin(line: Line, layers: &BTreeMap<Digest, Layer>) -> Result<Self, Box<Line>> {
        let (name, content) = match line {
            Line::Payload { name, version, boot_images } => {
                (name, Content::Payload(Payload { version, components: Vec::new(), boot_images }))
            }
            Line::Base { name, index } => {
                (name, Content::Base(Base { index: index.map(Text::read), images: Vec::new() }))
            }
            Line::Catalog { name, layer } => {
                let found = layer.map(|digest| layers.get(&digest).cloned());
                let content = match found {
                    Some(None) => Content::Broken,
                    layer => Content::Catalog(Selected {
                        layer: layer.flatten(),
                        images: Vec::new(),
                        packages: Vec::new(),
                        notes: Vec::new(),
                    }),
                };
                (name, content)
            }
            line => return Err(Box::new(line)),
        };
        Ok(Self { name, content })
    }

    fn add(&mut self, line: Line) {
        match (&mut self.content, line) {
            (Content::Payload(payload), Line::Component { name, image }) => {
                payload.components.push(Component { name, image });
            }
            (Content::Base(base), Line::Image { manifest, config }) => {
                base.images.push(BaseImage { manifest: manifest.read(), config: Bytes::from(config) });
            }
            (Content::Catalog(selected), Line::Package(package)) => selected.packages.push(package),
            (Content::Catalog(selected), Line::Note(note)) => selected.notes.push(note),
            (Content::Catalog(selected), Line::Needed { written, image, bundles, newest }) => {
                let name =
                    |(package, bundle): (String, String)| BundleName { package: package.into(), bundle: bundle.into() };
                let bundles = bundles.into_iter().map(name).collect();
                selected.images.push(Needed { written, image, bundles, newest });
            }
            _ => self.content = Content::Broken,
        }
    }

    fn finish(self) -> Option<(String, Document)> {
        let is = |kind: &str| self.name.starts_with(&format!("[\"{kind}\""));
        let document = match self.content {
            Content::Payload(payload) if is("payload") => Document::Payload(Arc::new(payload)),
            Content::Base(base) if is("base") && holds_together(&self.name, &base) => Document::Base(Arc::new(base)),
            Content::Catalog(selected) if is("catalog") => Document::Catalog(Arc::new(selected)),
            _ => return None,
        };
        Some((self.name, document))
    }
}

/// Whether everything of a base is what its name says by a digest.
fn holds_together(name: &str, base: &Base) -> bool {
    let named = serde_json::from_str(name).ok().and_then(|(_, image): (String, Reference)| image.digest().cloned());
    let Some(digest) = named else { return false };
    let configured = |image: &BaseImage| match image.manifest.parse() {
        Ok(Manifest::Image { blobs, .. }) => {
            blobs.first().is_some_and(|config| config.digest == Digest::of(&image.config))
        }
        _ => false,
    };
    let listed = match (&base.index, base.images.as_slice()) {
        (None, [only]) => *only.manifest.digest() == digest,
        (Some(index), images) => match index.parse() {
            Ok(Manifest::Index { children, .. }) => {
                let listed = build::images(children).into_iter().map(|child| child.digest);
                *index.digest() == digest && listed.eq(images.iter().map(|image| image.manifest.digest().clone()))
            }
            _ => false,
        },
        (None, _) => false,
    };
    listed && base.images.iter().all(configured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Selection;
    use crate::resolve::operators::{CatalogKey, ChannelSummary};
    use crate::resolve::payload::PayloadKey;

    fn image(text: &str) -> Reference {
        text.parse().unwrap()
    }

    /// An index of one image, and the key of that as a base.
    fn base() -> (DocumentKey, Base) {
        let config = Bytes::from_static(b"{\"os\": \"linux\"}");
        let described =
            |bytes: &Bytes| serde_json::json!({"mediaType": "a/b", "digest": Digest::of(bytes), "size": bytes.len()});
        let manifest = serde_json::json!({"schemaVersion": 2, "config": described(&config), "layers": []});
        let manifest = RawManifest::new(Bytes::from(manifest.to_string()), "a/manifest");
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [described(manifest.bytes())]});
        let index = RawManifest::new(Bytes::from(index.to_string()), "a/index");
        let key = DocumentKey::Base(image(&format!("q.test/a@{}", index.digest())));
        (key, Base { index: Some(index), images: vec![BaseImage { manifest, config }] })
    }

    fn selected(layer: Option<Layer>) -> Selected {
        let name = BundleName { package: "p".into(), bundle: "p.v1".into() };
        let channels = vec![ChannelSummary { name: "stable".to_owned(), versions: vec!["1.0.0".to_owned()] }];
        Selected {
            layer,
            images: vec![Needed {
                written: "docker.io/a".to_owned(),
                image: image("docker.io/library/a:1"),
                bundles: [name].into(),
                newest: Some("1.0.0-rc.1+build".parse().unwrap()),
            }],
            packages: vec![PackageSummary {
                name: "p".to_owned(),
                default_channel: "stable".to_owned(),
                channels,
                bundles: 1,
            }],
            notes: vec!["no package `q`".to_owned()],
        }
    }

    fn catalog_key(selection: Selection) -> DocumentKey {
        let image = image(&format!("q.test/c@{}", Digest::of(b"catalog")));
        DocumentKey::Catalog(CatalogKey { image, folder: "configs".to_owned(), selection: Arc::new(selection) })
    }

    /// One document of each kind that is kept.
    fn all() -> Named {
        let digest = Digest::of(b"payload");
        let components = vec![Component {
            name: "etcd".to_owned(),
            image: image("q.test/r@sha256:f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea"),
        }];
        let boot_images = Some([("x86_64".to_owned(), image("q.test/disk:1"))].into());
        let payload = Payload { version: Some("4.18.1".to_owned()), components, boot_images };
        let layer = build::catalog::layer("configs", &[("p.json".to_owned(), b"{}".to_vec())].into()).unwrap();
        let (base_key, base) = base();
        let everything = Selection { full: true, packages: Vec::new() };
        let documents = [
            (
                DocumentKey::Payload(PayloadKey { repository: "q.test/r".parse().unwrap(), digest: digest.clone() }),
                Document::Payload(Arc::new(payload)),
            ),
            (base_key, Document::Base(Arc::new(base))),
            (catalog_key(Selection::default()), Document::Catalog(Arc::new(selected(Some(layer))))),
            (catalog_key(everything), Document::Catalog(Arc::new(selected(None)))),
        ];
        documents.into_iter().map(|(key, document)| (name(&key).unwrap(), document)).collect()
    }

    #[test]
    fn documents_are_read_as_they_were() {
        let documents = all();
        assert_eq!(documents.len(), 4);
        let kept = Kept::of(&documents);
        assert_eq!(kept.read(), (documents.clone(), documents.keys().cloned().collect()));
        assert_eq!(Kept::of(&documents), kept, "the same lines for the same documents");
        assert_eq!(Kept::default().read(), Default::default());
    }

    #[test]
    fn what_may_change_has_no_name() {
        let repository = || "q.test/a".parse().unwrap();
        assert_eq!(name(&DocumentKey::Tags(repository())), None);
        assert_eq!(name(&DocumentKey::TagDigest(image("q.test/a:1"))), None);
        assert_eq!(name(&DocumentKey::GraphData), None);
    }

    #[test]
    fn what_another_version_has_written_or_cannot_be_read_is_nothing() {
        let kept = Kept::of(&all());
        let with = |at: usize, line: &str| {
            let mut changed = kept.clone();
            changed.lines[at] = line.to_owned();
            changed.read().0.len()
        };
        assert_eq!(with(0, r#"{"writer":"imageset-mirror 0.0.0 1"}"#), 0);
        assert_eq!(with(0, &kept.lines[1]), 0);
        assert_eq!(with(2, "{"), 0);
        assert_eq!(with(2, r#"{"unheardOf":1}"#), 0);
        assert_eq!(with(1, r#"{"note":"about nothing"}"#), 0);
    }

    #[test]
    fn a_catalog_without_its_layer_is_none_and_the_others_are_what_they_were() {
        let mut kept = Kept::of(&all());
        for blobs in [Vec::new(), vec![Bytes::from_static(b"no layer")]] {
            kept.blobs = blobs;
            let (read, names) = kept.read();
            assert_eq!((read.len(), names.len()), (3, 3));
            assert!(read.iter().all(|(name, document)| all().get(name) == Some(document)));
        }
    }

    #[test]
    fn a_base_is_what_its_name_says_or_none() {
        let (key, base) = base();
        let read = |key: &DocumentKey, base: &Base| {
            let documents = Named::from([(name(key).unwrap(), Document::Base(Arc::new(base.clone())))]);
            Kept::of(&documents).read().0.len()
        };
        assert_eq!(read(&key, &base), 1);
        let other = DocumentKey::Base(image(&format!("q.test/a@{}", Digest::of(b"other"))));
        assert_eq!(read(&other, &base), 0);
        assert_eq!(read(&key, &Base { index: None, ..base.clone() }), 0);
        assert_eq!(read(&key, &Base { images: Vec::new(), ..base.clone() }), 0, "a platform is missing");
        let mut config = base.clone();
        config.images[0].config = Bytes::from_static(b"{}");
        assert_eq!(read(&key, &config), 0);
        let mut manifest = base;
        manifest.images[0].manifest = RawManifest::new(Bytes::from_static(b"{}"), "a/manifest");
        assert_eq!(read(&key, &manifest), 0);
    }

    #[test]
    fn a_document_of_another_kind_than_its_name_says_is_none() {
        let documents = all();
        let (name, _) = documents.iter().find(|(_, document)| matches!(document, Document::Payload(_))).unwrap();
        let wrong = Named::from([(name.clone(), Document::Catalog(Arc::new(selected(None))))]);
        assert_eq!(Kept::of(&wrong).read(), Default::default());
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_name() {
        let long = Selected { notes: vec!["x".repeat(MAX_LINE)], ..selected(None) };
        let many = Selected { notes: vec!["x".repeat(MAX_LINE / 2); 1200], ..selected(None) };
        for large in [long, many] {
            let mut documents = all();
            documents.insert(name(&catalog_key(Selection::default())).unwrap(), Document::Catalog(Arc::new(large)));
            let (read, names) = Kept::of(&documents).read();
            assert_eq!(read.len(), 3);
            assert_eq!(names, documents.keys().cloned().collect());
        }
    }

    #[test]
    fn there_is_an_end_to_what_is_unpacked() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &[0; 10_000]).unwrap();
        let packed = encoder.finish().unwrap();
        let mut room = Room { kept: 0, unpacked: 25_000 };
        assert_eq!(room.unpack(&packed), Some(Digest::of(&[0; 10_000])));
        assert!(room.unpack(&packed).is_some());
        assert_eq!(room.unpack(&packed), None);
        assert_eq!(room.unpack(b"not packed"), None);
        assert_eq!(room.unpacked, 5_000);
    }
}

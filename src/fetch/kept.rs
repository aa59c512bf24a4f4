//! What was fetched, for other processes: lines of JSON, and the layers of catalogs beside them.
//!
//! Kept is what has a digest for a name, so that it never changes, and what takes long to find out: payloads of releases and
//! their signatures, images to build on, and what is selected of catalogs. Who may write it decides what is copied, as who may
//! write the registry in which it is kept decides what is there. Signatures and images are verified again.
//!
//! Another version of this program reads everything anew: what it makes of a catalog may differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::build::{Base, BaseImage, Layer};
use crate::catalog::BundleName;
use crate::oci::{Digest, Manifest, RawManifest, Reference};
use crate::resolve::operators::{Needed, PackageSummary, Selected};
use crate::resolve::payload::{Component, Payload};
use crate::resolve::{Document, DocumentKey};

/// Who has written it. The number is raised with each change of what these documents mean within a version.
const WRITER: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), " 1");
/// Documents with a longer line are not kept; real ones have some 10 KiB.
const MAX_LINE: usize = 128 << 10;
/// Catalogs with a larger layer are not kept.
const MAX_BLOB: usize = 64 << 20;

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
        DocumentKey::Signatures(key) => serde_json::json!(["signatures", key.product, key.digest]),
        DocumentKey::Base(image) => serde_json::json!(["base", image]),
        DocumentKey::Catalog(key) => serde_json::json!(["catalog", key.image, key.folder, *key.selection]),
        DocumentKey::TagDigest(_)
        | DocumentKey::Graph(_)
        | DocumentKey::GraphData
        | DocumentKey::Charts(_)
        | DocumentKey::Tags(_)
        | DocumentKey::Chart(_) => return None,
    };
    Some(name.to_string())
}

/// One line. A document begins with its name, and consists of what follows.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    /// The first of all.
    Writer(String),
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
    Signatures {
        name: String,
    },
    /// In base64.
    Signature(String),
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
        layer: Option<Stored>,
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

/// A layer that is among the blobs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    digest: Digest,
    diff_id: Digest,
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
        let mut kept = Self::default();
        for (name, document) in documents {
            let Some((lines, blob)) = lines(name, document) else { continue };
            let lines: Result<Vec<_>, _> = lines.iter().map(serde_json::to_string).collect();
            let Ok(lines) = lines else { continue };
            if lines.iter().any(|line| line.len() > MAX_LINE) {
                continue;
            }
            kept.lines.extend(lines);
            kept.blobs.extend(blob);
        }
        if !kept.lines.is_empty() {
            kept.lines.insert(0, serde_json::json!({"writer": WRITER}).to_string());
        }
        kept
    }

    /// The documents, as far as they can be read and are what they are said to be; none that another version has written.
    pub fn read(&self) -> Named {
        let mut lines = self.lines.iter().map(|line| serde_json::from_str(line).ok());
        match lines.next() {
            Some(Some(Line::Writer(writer))) if writer == WRITER => {}
            _ => return Named::new(),
        }
        let mut read = Named::new();
        let mut current: Option<Unfinished> = None;
        for line in lines {
            let Some(line) = line else { return Named::new() };
            if let Some(next) = Unfinished::begin(&line, &self.blobs) {
                read.extend(current.take().and_then(Unfinished::finish));
                current = Some(next);
            } else if let Some(current) = &mut current {
                current.add(line);
            }
        }
        read.extend(current.and_then(Unfinished::finish));
        read
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
        Document::Signatures(files) => {
            let files = files.iter().map(|file| Line::Signature(BASE64.encode(file)));
            (std::iter::once(Line::Signatures { name }).chain(files).collect(), None)
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
            if layer.as_ref().is_some_and(|layer| layer.bytes.len() > MAX_BLOB) {
                return None;
            }
            let stored = |layer: &Layer| Stored { digest: Digest::of(&layer.bytes), diff_id: layer.diff_id.clone() };
            let begin = Line::Catalog { name, layer: layer.as_ref().map(stored) };
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
    Signatures(Vec<Vec<u8>>),
    Base(Base),
    Catalog(Selected),
    /// Something about it cannot be read.
    Broken,
}

impl Unfinished {
    /// What a line begins, if it begins something.
    fn begin(line: &Line, blobs: &[Bytes]) -> Option<Self> {
        let (name, content) = match line {
            Line::Payload { name, version, boot_images } => {
                let (version, boot_images) = (version.clone(), boot_images.clone());
                (name, Content::Payload(Payload { version, components: Vec::new(), boot_images }))
            }
            Line::Signatures { name } => (name, Content::Signatures(Vec::new())),
            Line::Base { name, index } => {
                let index = index.as_ref().map(|Text { media_type, text }| {
                    Text { media_type: media_type.clone(), text: text.clone() }.read()
                });
                (name, Content::Base(Base { index, images: Vec::new() }))
            }
            Line::Catalog { name, layer } => {
                let found = layer.as_ref().map(|Stored { digest, diff_id }| {
                    let bytes = blobs.iter().find(|bytes| Digest::of(bytes) == *digest)?.clone();
                    Some(Layer { bytes, diff_id: diff_id.clone() })
                });
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
            _ => return None,
        };
        Some(Self { name: name.clone(), content })
    }

    fn add(&mut self, line: Line) {
        match (&mut self.content, line) {
            (Content::Payload(payload), Line::Component { name, image }) => {
                payload.components.push(Component { name, image });
            }
            (Content::Signatures(files), Line::Signature(text)) => match BASE64.decode(text) {
                Ok(file) => files.push(file),
                Err(_) => self.content = Content::Broken,
            },
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
            Content::Signatures(files) if is("signatures") => Document::Signatures(files.into()),
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
                let lists = |image: &BaseImage| children.iter().any(|child| child.digest == *image.manifest.digest());
                *index.digest() == digest && images.iter().all(lists)
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
    use crate::request::Product;
    use crate::resolve::SignatureKey;
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
        let layer = Layer { bytes: Bytes::from_static(b"a layer"), diff_id: Digest::of(b"its tar") };
        let (base_key, base) = base();
        let everything = Selection { full: true, packages: Vec::new() };
        let documents = [
            (
                DocumentKey::Payload(PayloadKey { repository: "q.test/r".parse().unwrap(), digest: digest.clone() }),
                Document::Payload(Arc::new(payload)),
            ),
            (
                DocumentKey::Signatures(SignatureKey { product: Product::Ocp, digest }),
                Document::Signatures(vec![vec![0, 255], Vec::new()].into()),
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
        assert_eq!(documents.len(), 5);
        let kept = Kept::of(&documents);
        assert_eq!(kept.read(), documents);
        assert_eq!(Kept::of(&documents), kept, "the same lines for the same documents");
        assert_eq!(Kept::of(&Named::new()), Kept::default());
        assert_eq!(Kept::default().read(), Named::new());
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
            changed.read().len()
        };
        assert_eq!(with(0, r#"{"writer":"imageset-mirror 0.0.0 1"}"#), 0);
        assert_eq!(with(0, &kept.lines[1]), 0);
        assert_eq!(with(2, "{"), 0);
        assert_eq!(with(2, r#"{"unheardOf":1}"#), 0);
    }

    #[test]
    fn a_catalog_without_its_layer_is_none_and_the_others_are_what_they_were() {
        let mut kept = Kept::of(&all());
        kept.blobs = vec![Bytes::from_static(b"another layer")];
        let read = kept.read();
        assert_eq!(read.len(), 4);
        assert!(read.iter().all(|(name, document)| all().get(name) == Some(document)));
    }

    #[test]
    fn a_base_is_what_its_name_says_or_none() {
        let (key, base) = base();
        let read = |key: &DocumentKey, base: &Base| {
            let documents = Named::from([(name(key).unwrap(), Document::Base(Arc::new(base.clone())))]);
            Kept::of(&documents).read().len()
        };
        assert_eq!(read(&key, &base), 1);
        let other = DocumentKey::Base(image(&format!("q.test/a@{}", Digest::of(b"other"))));
        assert_eq!(read(&other, &base), 0);
        assert_eq!(read(&key, &Base { index: None, ..base.clone() }), 0);
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
        assert_eq!(Kept::of(&wrong).read(), Named::new());
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let long = Selected { notes: vec!["x".repeat(MAX_LINE)], ..selected(None) };
        let mut documents = all();
        documents.insert(name(&catalog_key(Selection::default())).unwrap(), Document::Catalog(Arc::new(long)));
        assert_eq!(Kept::of(&documents).read().len(), 4);
    }
}

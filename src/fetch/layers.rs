//! Files of an image, read from its layers as they stream by.
//!
//! The layer that was put last is read first, and what it covers or removes is not seen in those below. Nothing of a layer
//! counts before all of it has been read and its digest is right.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Repository};
use crate::registry::Client;

/// Bytes that one layer may unpack to. The largest of releases have 700 MB.
const MAX_UNPACKED: u64 = 4 << 30;
/// Unpacked bytes for each packed one, above [`FREE`]: text has 10, a bomb 1000.
const MAX_RATIO: u64 = 200;
/// Unpacked bytes that no ratio is asked of.
const FREE: u64 = 64 << 20;
/// Entries that one layer may have; the largest of releases have 60,000.
const MAX_ENTRIES: usize = 1_000_000;
/// Marks what is removed from the layers below.
const WHITEOUT: &str = ".wh.";
/// Marks a folder that hides all of its content below.
const OPAQUE: &str = ".wh..wh..opq";

/// What is looked for, and what is made of it.
pub(super) struct Wanted<T> {
    /// The folder, without slashes around it.
    pub(super) folder: String,
    /// What is made of an entry, by its path below the folder; none of it counts before the whole layer was read.
    pub(super) take: Take<T>,
    /// What a layer that cannot be read is a failure of.
    pub(super) reason: Reason,
}

/// Makes something of an entry, or leaves it out.
pub(super) type Take<T> = Box<dyn Fn(&str, Entry<'_>) -> io::Result<Option<T>> + Send + Sync>;

/// An entry of the folder that is no folder itself.
pub(super) enum Entry<'a> {
    /// A file and its length.
    File(&'a mut dyn Read, u64),
    /// A link to this path below the image's root.
    Link(String),
}

/// Something that was found: its path below the folder, and what was made of it.
pub(super) type Found<T> = (String, T);

/// Layers that were read and that have nothing of a folder, and remove nothing of it either: they need not be read again.
#[derive(Debug, Default)]
pub(super) struct Barren(Mutex<BTreeSet<(Digest, String)>>);

/// The most layers that are remembered to have nothing.
const MOST_BARREN: usize = 4096;

impl Barren {
    fn has(&self, layer: &Digest, folder: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(layer.clone(), folder.to_owned()))
    }

    fn add(&self, layer: &Digest, folder: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST_BARREN {
            known.insert((layer.clone(), folder.to_owned()));
        }
    }
}

/// What the layers above hide.
#[derive(Debug, Default)]
struct Above {
    /// Files, links and whiteouts: they hide what has their name, and what is below it.
    covered: BTreeSet<String>,
    /// Folders whose content is hidden, but not they themselves.
    opaque: BTreeSet<String>,
}

impl Above {
    fn hides(&self, path: &str) -> bool {
        let parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        let mut parents = parents.peekable();
        self.covered.contains(path)
            || self.opaque.contains("")
            || parents.any(|parent| self.covered.contains(parent) || self.opaque.contains(parent))
    }

    fn extend(&mut self, other: Self) {
        self.covered.extend(other.covered);
        self.opaque.extend(other.opaque);
    }
}

/// What one layer has.
#[derive(Debug)]
struct Layer<T> {
    found: Vec<Found<T>>,
    above: Above,
}

impl<T> Layer<T> {
    fn is_barren(&self) -> bool {
        self.found.is_empty() && self.above.covered.is_empty() && self.above.opaque.is_empty()
    }
}

/// Reads what is wanted from `layers`, which are in the order of the manifest; `enough` says after each layer whether those
/// below need not be read.
pub(super) async fn read<T: Send + 'static>(
    client: &Client,
    repository: &Repository,
    layers: &[Descriptor],
    wanted: &Arc<Wanted<T>>,
    barren: &Barren,
    enough: impl Fn(&[Found<T>]) -> bool,
) -> Result<Vec<Found<T>>, Failure> {
    let mut found: Vec<Found<T>> = Vec::new();
    let mut above = Above::default();
    let folder = &wanted.folder;
    for blob in layers.iter().rev() {
        if barren.has(&blob.digest, folder) {
            continue;
        }
        let layer = one(client, repository, blob, wanted).await?;
        if layer.is_barren() {
            barren.add(&blob.digest, folder);
        }
        let visible = layer.found.into_iter().filter(|(path, _)| !above.hides(&format!("{folder}/{path}")));
        found.extend(visible);
        above.extend(layer.above);
        if above.hides(&format!("{folder}/{WHITEOUT}")) || enough(&found) {
            break;
        }
    }
    Ok(found)
}

async fn one<T: Send + 'static>(
    client: &Client,
    repository: &Repository,
    blob: &Descriptor,
    wanted: &Arc<Wanted<T>>,
) -> Result<Layer<T>, Failure> {
    let mut reader = client.open_blob(repository, blob).await.map_err(|error| error.failure())?;
    let (sender, receiver) = mpsc::channel::<Bytes>(2);
    let looking = Arc::clone(wanted);
    let packed = blob.size;
    let unpacking =
        tokio::task::spawn_blocking(move || unpack(Frames { receiver, frame: Bytes::new() }, packed, &looking));
    // Read to its end in any case: only then it is known to be what it should be.
    let mut sender = Some(sender);
    while let Some(chunk) = reader.next().await {
        let chunk = chunk.map_err(|error| error.failure())?;
        if let Some(open) = &sender
            && open.send(chunk).await.is_err()
        {
            sender = None;
        }
    }
    drop(sender);
    let broken = |why: String| {
        let message = format!("layer `{}` of `{repository}` cannot be read: {why}", blob.digest);
        Failure::permanent(wanted.reason, message)
    };
    match unpacking.await {
        Ok(Ok(layer)) => Ok(layer),
        Ok(Err(error)) => Err(broken(error.to_string())),
        Err(error) => Err(broken(format!("unpacking it panicked: {error}; please report this defect"))),
    }
}

/// Frames that come from elsewhere, as something to be read by a thread that may wait.
struct Frames {
    receiver: mpsc::Receiver<Bytes>,
    frame: Bytes,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.frame.is_empty() {
            match self.receiver.blocking_recv() {
                Some(frame) => self.frame = frame,
                None => return Ok(0),
            }
        }
        let length = self.frame.len().min(buffer.len());
        if let Some(part) = buffer.get_mut(..length) {
            self.frame.copy_to_slice(part);
        }
        Ok(length)
    }
}

/// Fails as soon as more comes than may.
struct Bounded<R> {
    inner: R,
    left: u64,
    of: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(format!("it unpacks to more than {} bytes", self.of))),
        }
        Ok(length)
    }
}

fn unpack<T>(frames: impl Read, packed: u64, wanted: &Wanted<T>) -> io::Result<Layer<T>> {
    let mut packed_stream = io::BufReader::with_capacity(64 << 10, frames);
    let most = packed.saturating_mul(MAX_RATIO).clamp(FREE, MAX_UNPACKED);
    let magic = io::BufRead::fill_buf(&mut packed_stream)?;
    // What the media type says is not always so.
    let stream: Box<dyn Read + '_> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(packed_stream))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(ruzstd::decoding::StreamingDecoder::new(packed_stream).map_err(io::Error::other)?)
    } else {
        Box::new(packed_stream)
    };
    files(Bounded { inner: stream, left: most, of: most }, wanted)
}

fn files<T>(stream: impl Read, wanted: &Wanted<T>) -> io::Result<Layer<T>> {
    let mut layer = Layer { found: Vec::new(), above: Above::default() };
    let mut archive = tar::Archive::new(stream);
    let mut count = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let path = inside(&entry.path()?)?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if !concerns(&path, parent, &wanted.folder) {
            continue;
        }
        if name == OPAQUE {
            layer.above.opaque.insert(parent.to_owned());
            continue;
        }
        if let Some(removed) = name.strip_prefix(WHITEOUT) {
            let removed = if parent.is_empty() { removed.to_owned() } else { format!("{parent}/{removed}") };
            layer.above.covered.insert(removed);
            continue;
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        let again = !layer.above.covered.insert(path.clone());
        let below = path.strip_prefix(&wanted.folder).and_then(|rest| rest.strip_prefix('/'));
        let Some(below) = below.map(str::to_owned) else { continue };
        let link = entry.link_name()?.map(|target| linked(parent, &target, kind.is_hard_link()));
        let size = entry.size();
        let taken = match link {
            Some(target) => (wanted.take)(&below, Entry::Link(target))?,
            None if kind.is_file() => (wanted.take)(&below, Entry::File(&mut entry, size))?,
            None => None,
        };
        // Of several entries with one name the last one counts.
        if again {
            layer.found.retain(|(known, _)| *known != below);
        }
        layer.found.extend(taken.map(|taken| (below, taken)));
    }
    Ok(layer)
}

/// Whether an entry is in the folder, or says something about it or what it lies in.
fn concerns(path: &str, parent: &str, folder: &str) -> bool {
    let within = |path: &str, folder: &str| {
        folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(path, folder) || within(folder, parent)
}

/// Where a link leads, below the root of the image; a hard link names that itself.
fn linked(parent: &str, target: &Path, hard: bool) -> String {
    let from_root = hard || target.is_absolute();
    let mut parts: Vec<String> = if from_root {
        Vec::new()
    } else {
        parent.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    for component in target.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            // There is nothing above the root.
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

/// A path below the root.
fn inside(path: &Path) -> io::Result<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("`{}` leads out of it", path.display())));
            }
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

    /// Takes files of up to 100 bytes as they are, and links as where they lead.
    fn wanted() -> Wanted<Bytes> {
        let take: Take<Bytes> = Box::new(|_, entry| match entry {
            Entry::File(_, size) if size > 100 => Err(io::Error::other("longer than 100")),
            Entry::File(file, _) => {
                let mut content = Vec::new();
                file.read_to_end(&mut content)?;
                Ok(Some(Bytes::from(content)))
            }
            Entry::Link(target) => Ok(Some(Bytes::from(format!("-> {target}")))),
        });
        Wanted { folder: "a/b".to_owned(), take, reason: Reason::PayloadInvalid }
    }

    fn tar(names: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // As it is, with parts that the library would refuse to write.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The names that are seen in layers, the last put last.
    fn seen(layers: &[&[(&str, &str)]]) -> Vec<String> {
        let mut above = Above::default();
        let mut names = Vec::new();
        for layer in layers.iter().rev() {
            let bytes = gzip(&tar(layer));
            let layer = unpack(&bytes[..], bytes.len() as u64, &wanted()).unwrap();
            let visible = layer.found.into_iter().filter(|(path, _)| !above.hides(&format!("a/b/{path}")));
            names.extend(visible.map(|(path, content)| format!("{path}={}", String::from_utf8_lossy(&content))));
            above.extend(layer.above);
        }
        names.sort();
        names
    }

    #[test]
    fn what_lies_above_covers_and_removes_what_lies_below() {
        let below: &[(&str, &str)] = &[("a/b/x", "old"), ("a/b/y/z", "old"), ("a/b/w", "old"), ("elsewhere", "old")];
        assert_eq!(seen(&[below]), ["w=old", "x=old", "y/z=old"]);
        assert_eq!(seen(&[below, &[("a/b/x", "new")]]), ["w=old", "x=new", "y/z=old"]);
        assert_eq!(seen(&[below, &[("a/b/.wh.x", "")]]), ["w=old", "y/z=old"]);
        assert_eq!(seen(&[below, &[("./a/b/.wh.y", "")]]), ["w=old", "x=old"]);
        assert_eq!(seen(&[below, &[("a/b/.wh..wh..opq", ""), ("a/b/n", "new")]]), ["n=new"]);
        assert_eq!(seen(&[below, &[("a/.wh.b", "")]]), [""; 0]);
        assert_eq!(seen(&[below, &[("a/.wh..wh..opq", "")]]), [""; 0]);
        assert_eq!(seen(&[below, &[(".wh.a", "")], &[("a/b/n", "new")]]), ["n=new"]);
        assert_eq!(seen(&[below, &[("/a/b/y", "a file now")]]), ["w=old", "x=old", "y=a file now"]);
        assert_eq!(seen(&[below, &[(".wh..wh..opq", "")]]), [""; 0]);
    }

    #[test]
    fn links_are_told_by_where_they_lead() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, target, hard) in [
            ("a/b/one", "../../etc/passwd", false),
            ("a/b/c/two", "../x", false),
            ("a/b/three", "/a/b/x", false),
            ("a/b/four", "../../../../x", false),
            ("a/b/five", "a/b/x", true),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(if hard { tar::EntryType::Link } else { tar::EntryType::Symlink });
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let found = unpack(&bytes[..], bytes.len() as u64, &wanted()).unwrap().found;
        let found: Vec<_> = found.iter().map(|(name, to)| format!("{name} {}", String::from_utf8_lossy(to))).collect();
        assert_eq!(found, ["one -> etc/passwd", "c/two -> a/b/x", "three -> a/b/x", "four -> x", "five -> a/b/x"]);
    }

    #[test]
    fn every_compression_is_read_whatever_it_is_called() {
        let plain = tar(&[("a/b/x", "1")]);
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        for bytes in [plain.clone(), gzip(&plain), zstd] {
            assert_eq!(unpack(&bytes[..], bytes.len() as u64, &wanted()).unwrap().found.len(), 1);
        }
    }

    #[test]
    fn hostile_layers_are_refused() {
        let bomb = gzip(&tar(&[("elsewhere", &"0".repeat(80 << 20))]));
        let long = tar(&[("a/b/x", &"x".repeat(101))]);
        let out = tar(&[("a/../../etc/passwd", "1")]);
        for (bytes, why) in [(bomb, "unpacks to more than"), (long, "longer than 100"), (out, "leads out of it")] {
            let error = unpack(&bytes[..], bytes.len() as u64, &wanted()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let cut = gzip(&tar(&[("a/b/x", "1")]));
        assert!(unpack(&cut[..cut.len() / 2], 10, &wanted()).is_err());
    }
}

//! A file system in memory, packed into a layer whose bytes depend on nothing but its content.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::Blob;

/// One thing in a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { to: String },
}

/// Paths without a leading slash, sorted, so that a folder comes before what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Folder { mode });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(path, Entry::File { mode, content: content.into() });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.add(path, Entry::Link { to: to.to_owned() });
    }

    /// Takes files and links of a tar archive for which `keep` says yes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unpack(&mut self, archive: impl std::io::Read, keep: impl Fn(&str) -> bool) -> Result<()> {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            if !keep(&path) {
                continue;
            }
            let mode = entry.header().mode()? & 0o777;
            match entry.header().entry_type() {
                EntryType::Regular => {
                    let mut content = Vec::new();
                    std::io::copy(&mut entry, &mut content)?;
                    self.file(&path, mode, content);
                }
                EntryType::Symlink => {
                    let to = entry.link_name()?.with_context(|| format!("{path} links to nothing"))?;
                    self.link(&path, &to.to_string_lossy());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The contents of all files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            Entry::File { content, .. } => Some((path.as_str(), content.as_slice())),
            _ => None,
        })
    }

    /// The layer, and the digest of what it unpacks to.
    ///
    /// # Errors
    /// When a path is too long for an archive.
    pub fn pack(&self, mtime: u64) -> Result<(Blob, String)> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_ustar();
            header.set_mtime(mtime);
            header.set_uid(0);
            header.set_gid(0);
            let append = match entry {
                Entry::Folder { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(u64::try_from(content.len())?);
                    archive.append_data(&mut header, path, content.as_slice())
                }
                Entry::Link { to } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, to)
                }
            };
            append.with_context(|| format!("packing {path}"))?;
        }
        compress(&archive.into_inner()?)
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default().to_owned();
            self.0.entry(parent).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.0.insert(path.to_owned(), entry);
    }
}

/// An archive as a layer, and the digest of what it unpacks to.
pub(crate) fn compress(archive: &[u8]) -> Result<(Blob, String)> {
    // Neither a name, nor a time, nor the system it was made on.
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
    gzip.write_all(archive)?;
    Ok((Blob::new(gzip.finish()?), crate::image::sha256(archive)))
}

//! What the image takes from Debian: packages of pinned versions and contents, kept in the named cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Tree;

const LOCK: &str = include_str!("../../image/packages.lock");

/// One line of the lock.
struct Package {
    name: &'static str,
    version: &'static str,
    architecture: &'static str,
    sha256: &'static str,
}

fn locked() -> Result<Vec<Package>> {
    let lines = LOCK.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            &[name, version, architecture, sha256] => Ok(Package { name, version, architecture, sha256 }),
            _ => bail!("packages.lock: `{line}` is not a package, version, architecture and digest"),
        })
        .collect()
}

/// The version of the C library, such as `(2, 36)`.
///
/// # Errors
/// When the lock has none.
pub(super) fn libc_version() -> Result<(u32, u32)> {
    let packages = locked()?;
    let libc = packages.iter().find(|package| package.name == "libc6").context("packages.lock has no libc6")?;
    let (major, rest) = libc.version.split_once('.').context("libc6 has no version")?;
    let minor = rest.split('-').next().unwrap_or_default();
    Ok((major.parse()?, minor.parse()?))
}

/// Makes sure that the packages are in the cache.
///
/// # Errors
/// When one cannot be had, or is not what the lock says.
pub fn fetch() -> Result<()> {
    locked()?.iter().try_for_each(|package| package.fetch().map(|_file| ()))
}

/// The C library, certificates of authorities and time zones, with their licences.
///
/// # Errors
/// When a package cannot be had, or is not what the lock says.
pub(super) fn files() -> Result<Tree> {
    let mut all = Tree::default();
    for package in locked()? {
        let file = package.fetch()?;
        let mut unpacking = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&file).stdout(Stdio::piped()).spawn()?;
        let archive = unpacking.stdout.take().context("dpkg-deb has no output")?;
        all.unpack(std::io::BufReader::new(archive), wanted)?;
        // The end of the archive is read before the end of its padding: what is left unread is nothing.
        unpacking.wait()?;
    }
    Ok(all)
}

fn wanted(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let zones = path.strip_prefix("usr/share/zoneinfo/");
    // The first two are the same zones again, once with leap seconds.
    zones.is_some_and(|zone| !zone.starts_with("right/") && !zone.starts_with("posix/"))
        || path.starts_with("usr/share/ca-certificates/")
        || (path.starts_with("usr/share/doc/") && name == "copyright")
        || ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6"].contains(&name)
}

impl Package {
    fn fetch(&self) -> Result<PathBuf> {
        let folder = crate::tools::cache()?.join("packages");
        let kept = folder.join(format!("{}.deb", self.sha256));
        if kept.exists() {
            return Ok(kept);
        }
        fs::create_dir_all(&folder)?;
        let staging = tempfile::tempdir_in(&folder)?;
        let wish = format!("{}:{}={}", self.name, self.architecture, self.version);
        let wish = wish.replace(":all=", "=");
        let output = Command::new("apt-get").args(["download", &wish]).current_dir(staging.path()).output();
        let output = output.context("running apt-get: the image is built on Debian 12, or with the Containerfile")?;
        ensure!(
            output.status.success(),
            "apt-get download {wish}: {}\nrun `apt-get update`; if Debian has a newer version, put it into \
             e2e/image/packages.lock",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let found = fs::read_dir(staging.path())?.next().context("apt-get has downloaded nothing")??.path();
        let digest = crate::image::sha256(&fs::read(&found)?);
        ensure!(digest == format!("sha256:{}", self.sha256), "{wish} is {digest}, not what packages.lock says");
        fs::rename(&found, &kept)?;
        Ok(kept)
    }
}

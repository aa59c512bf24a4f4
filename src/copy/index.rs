//! Many digests and names as small numbers, so that what is known of ten thousand images fits into few megabytes.

use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;

use crate::oci::{Algorithm, Digest};

/// Values by number, and the number of a value. Grows by an eighth at a time, since its size is known to nobody before
/// the end and doubling would cost as much as it holds.
#[derive(Debug)]
pub(super) struct Index<T> {
    values: Vec<T>,
    numbers: HashTable<u32>,
    state: RandomState,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashTable::new(), state: RandomState::new() }
    }
}

/// The least that is grown by.
const LEAST_GROWTH: usize = 64;

/// Makes room for one more value.
pub(super) fn make_room<T>(values: &mut Vec<T>) {
    if values.len() == values.capacity() {
        values.reserve_exact((values.len() / 8).max(LEAST_GROWTH));
    }
}

impl<T: Hash + Eq> Index<T> {
    /// The number of a value that may be new; numbers begin at zero and have no gaps.
    pub(super) fn number<Q>(&mut self, value: &Q) -> u32
    where
        Q: Hash + Eq + ToOwned<Owned = T> + ?Sized,
        T: std::borrow::Borrow<Q>,
    {
        if let Some(known) = self.get(value) {
            return known;
        }
        // Four thousand million of anything do not fit into memory.
        let new = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        make_room(&mut self.values);
        self.values.push(value.to_owned());
        let Self { values, numbers, state } = self;
        let hash = |number: &u32| values.get(*number as usize).map_or(0, |value| state.hash_one(value.borrow()));
        numbers.insert_unique(state.hash_one(value), new, hash);
        new
    }

    /// The number of a value that is known.
    pub(super) fn get<Q>(&self, value: &Q) -> Option<u32>
    where
        Q: Hash + Eq + ?Sized,
        T: std::borrow::Borrow<Q>,
    {
        let same = |number: &u32| self.values.get(*number as usize).is_some_and(|known| known.borrow() == value);
        self.numbers.find(self.state.hash_one(value), same).copied()
    }

    /// The value with a number.
    pub(super) fn value(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)
    }
}

/// What a digest is known by here: the bytes of a SHA-256, and those of the SHA-256 of the name of any other.
pub(super) type Key = [u8; 32];

/// The key of a digest.
pub(super) fn key(digest: &Digest) -> Key {
    let hex = match digest.algorithm() {
        Algorithm::Sha256 => digest.clone(),
        Algorithm::Sha512 => Digest::of(digest.to_string().as_bytes()),
    };
    let mut key = Key::default();
    let nibble = |byte: u8| if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 };
    for (byte, pair) in key.iter_mut().zip(hex.hex().as_bytes().chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = nibble(*high) << 4 | nibble(*low);
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once_and_lead_back() {
        let mut index = Index::<String>::default();
        for round in 0..2 {
            for number in 0..1000 {
                assert_eq!(index.number(number.to_string().as_str()), number, "{round}");
            }
        }
        assert_eq!(index.value(999).map(String::as_str), Some("999"));
        assert_eq!((index.get("1000"), index.value(1000)), (None, None));
    }

    #[test]
    fn a_key_is_the_digest_itself_or_stands_for_a_longer_one() {
        let digest: Digest = format!("sha256:{}", "0123456789abcdef".repeat(4)).parse().unwrap();
        assert_eq!(key(&digest)[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        let long = |end: &str| -> Digest { format!("sha512:{}{end}", "ab".repeat(63)).parse().unwrap() };
        assert_ne!(key(&long("00")), key(&long("01")));
    }
}

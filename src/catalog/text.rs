//! Texts of documents: as they are, or packed where there are many that will not be kept.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// A text; equal texts are equal however they are held.
#[derive(Clone, Debug)]
pub struct Text(Held);

#[derive(Clone, Debug)]
enum Held {
    Plain(String),
    Packed(Box<[u8]>),
}

impl Text {
    /// Holds `text` in a fifth of its space, for the price of unpacking it when it is wanted.
    pub(super) fn packed(text: String) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        match encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
            Ok(packed) => Self(Held::Packed(packed.into_boxed_slice())),
            // Nothing fails that writes to memory.
            Err(_never) => Self(Held::Plain(text)),
        }
    }

    /// The text.
    pub fn get(&self) -> Cow<'_, str> {
        match &self.0 {
            Held::Plain(text) => Cow::Borrowed(text),
            Held::Packed(bytes) => {
                let mut text = String::new();
                // What was packed here is a text.
                DeflateDecoder::new(&bytes[..])
                    .read_to_string(&mut text)
                    .map_or(Cow::Borrowed(""), |_| Cow::Owned(text))
            }
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Held::Plain(text))
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.get().cmp(&other.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_however_it_is_held() {
        let text = r#"{"schema":"olm.bundle","name":"ä"}"#.repeat(100);
        let (plain, packed) = (Text::from(text.clone()), Text::packed(text.clone()));
        assert_eq!((plain.get(), &plain), (Cow::Borrowed(text.as_str()), &packed));
        assert_eq!(packed.get(), text);
        assert!(Text::packed("b".to_owned()) > Text::from("a".to_owned()));
        let Text(Held::Packed(bytes)) = packed else { panic!("{packed:?}") };
        assert!(bytes.len() < text.len() / 5);
    }
}

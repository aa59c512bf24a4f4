//! Signatures of releases: whether a file says that a payload is genuine, and who says so.
//!
//! A file is an `OpenPGP` message, compressed and signed, around a JSON document in the form of
//! <https://github.com/containers/image/blob/main/docs/containers-signature.5.md>. Older files have signatures of version 3. The
//! checks are those of the cluster's own verifier, library-go's `pkg/verify`.

use std::fmt;
use std::io::Read as _;

use pgp::composed::{Deserializable as _, Message, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Packet, PacketParser, Signature, SignatureType};
use pgp::types::{KeyDetails as _, VerifyingKey};
use serde::Deserialize;

use crate::oci::Digest;

/// The keys that Red Hat signs releases with: release key 2 and beta key 2.
const RED_HAT: &str = include_str!("keys/redhat-release.asc");
/// What a document says that it is.
const TYPE: &str = "atomic container signature";
/// The longest document that is read; real ones have 300 bytes.
const MAX_DOCUMENT: u64 = 64 << 10;

/// Keys that are trusted.
#[derive(Clone)]
pub struct KeyRing(Vec<SignedPublicKey>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fingerprints()).finish()
    }
}

/// Why a text has no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not armored keys.
    #[error("these are not OpenPGP keys in ASCII armor")]
    Unreadable(#[from] pgp::errors::Error),
    /// Nothing in it.
    #[error("there is no OpenPGP key in it")]
    None,
}

impl KeyRing {
    /// Red Hat's keys.
    ///
    /// # Errors
    /// Never, as a test makes sure.
    pub fn red_hat() -> Result<Self, KeyError> {
        Self::parse(RED_HAT)
    }

    /// Reads keys in ASCII armor.
    ///
    /// # Errors
    /// The text is something else, or has no key.
    pub fn parse(armored: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        // Files with several keys have one block for all, or one block for each.
        for block in blocks(armored) {
            let (found, _) = SignedPublicKey::from_string_many(block)?;
            for key in found {
                keys.push(key?);
            }
        }
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self(keys)) }
    }

    /// The fingerprints of the keys, in upper case.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| format!("{:X}", key.fingerprint())).collect()
    }
}

/// Each block of ASCII armor.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    text.split_inclusive(END).filter(|block| block.contains(END))
}

/// What a signature proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The name of the payload, as its signer knows it, such as `quay.io/openshift-release-dev/ocp-release:4.18.10-x86_64`.
    pub identity: String,
    /// The fingerprint of the key.
    pub signer: String,
}

/// Why a file proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not an `OpenPGP` message, or one that ends too early.
    #[error("it is not a whole OpenPGP message: {0}")]
    Unreadable(String),
    /// A message that nobody has signed.
    #[error("it is not signed")]
    NotSigned,
    /// More follows.
    #[error("something follows the signed message")]
    TrailingData,
    /// The key is not among those trusted.
    #[error("it is signed with the key {0}, which is not trusted")]
    UnknownSigner(String),
    /// What was signed is something else.
    #[error("the signature does not fit what is signed")]
    Forged,
    /// Signed in a way that proves nothing today.
    #[error("it is signed in a way that is not accepted: {0}")]
    Weak(String),
    /// The key was no longer valid, or not yet.
    #[error("the key {0} was not valid when it was used")]
    Expired(String),
    /// The owner of the key has withdrawn it.
    #[error("the key {0} is revoked")]
    Revoked(String),
    /// Not the JSON document that it should be.
    #[error("what is signed is not a container signature: {0}")]
    Document(String),
    /// About another payload.
    #[error("it is about {0}")]
    OtherDigest(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Critical,
    // Whatever a signer likes to add.
    #[serde(default, rename = "optional")]
    _optional: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// Checks one file for the payload `digest`.
///
/// # Errors
/// It proves nothing about that payload.
pub fn verify(file: &[u8], digest: &Digest, keys: &KeyRing) -> Result<Verified, SignatureError> {
    let unreadable = |error: pgp::errors::Error| SignatureError::Unreadable(error.to_string());
    let unpacked = unpacked(file)?;
    let mut rest = unpacked.as_deref().unwrap_or(file);
    let mut message = Message::from_bytes(rest.by_ref()).map_err(unreadable)?;
    let Message::Signed { .. } = &message else { return Err(SignatureError::NotSigned) };
    // Only at its end are hash and signature complete.
    let mut document = Vec::new();
    let read = (&mut message).take(MAX_DOCUMENT + 1).read_to_end(&mut document);
    read.map_err(|error| SignatureError::Unreadable(error.to_string()))?;
    if document.len() as u64 > MAX_DOCUMENT {
        return Err(SignatureError::Document(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    let signer = signer(&message, &document, keys)?;
    drop(message);
    if !rest.is_empty() {
        return Err(SignatureError::TrailingData);
    }
    let document: Document =
        serde_json::from_slice(&document).map_err(|error| SignatureError::Document(error.to_string()))?;
    let Critical { kind, image, identity } = document.critical;
    if kind != TYPE {
        return Err(SignatureError::Document(format!("its type is `{kind}`")));
    }
    if identity.reference.is_empty() {
        return Err(SignatureError::Document("it names no image".to_owned()));
    }
    if image.digest != digest.to_string() {
        return Err(SignatureError::OtherDigest(image.digest));
    }
    Ok(Verified { identity: identity.reference, signer })
}

/// What is inside of a message that is compressed as a whole.
///
/// By itself, since the reader of messages does not look at what follows the end of the compressed data.
fn unpacked(file: &[u8]) -> Result<Option<Vec<u8>>, SignatureError> {
    let unreadable = |error: &dyn fmt::Display| SignatureError::Unreadable(error.to_string());
    let mut packets = PacketParser::new(file);
    let Some(Ok(Packet::CompressedData(packet))) = packets.next() else { return Ok(None) };
    if packets.next().is_some() {
        return Err(SignatureError::TrailingData);
    }
    let mut inner = packet.decompress().map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    (&mut inner).take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(SignatureError::Document(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    if inner.into_inner().is_empty() { Ok(Some(bytes)) } else { Err(SignatureError::TrailingData) }
}

/// The fingerprint of the key that has signed a message, which was read to its end.
fn signer(message: &Message<'_>, document: &[u8], keys: &KeyRing) -> Result<String, SignatureError> {
    let Message::Signed { reader, .. } = message else { return Err(SignatureError::NotSigned) };
    let (1, Some(signature)) = (reader.num_signatures(), reader.signature(0)) else {
        return Err(SignatureError::Unreadable("it has not exactly one signature at its end".to_owned()));
    };
    if signature.typ() != Some(SignatureType::Binary) {
        return Err(SignatureError::Weak("it is not about bytes".to_owned()));
    }
    let strong = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
    match signature.hash_alg() {
        Some(hash) if strong.contains(&hash) => {}
        other => return Err(SignatureError::Weak(format!("by {other:?}"))),
    }
    for key in &keys.0 {
        let name = format!("{:X}", key.fingerprint());
        if is_by(signature, key) {
            if !key.details.revocation_signatures.is_empty() {
                return Err(SignatureError::Revoked(name));
            }
            check(signature, key, document)?;
            return valid_then(signature, key).then_some(name.clone()).ok_or(SignatureError::Expired(name));
        }
        if let Some(subkey) = key.public_subkeys.iter().find(|subkey| is_by(signature, *subkey)) {
            if !key.details.revocation_signatures.is_empty() || is_revoked(subkey) {
                return Err(SignatureError::Revoked(name));
            }
            check(signature, subkey, document)?;
            let may_sign = subkey.verify_bindings(&key.primary_key).is_ok()
                && subkey.signatures.iter().any(|binding| binding.key_flags().sign());
            if !may_sign {
                return Err(SignatureError::Weak("its key is not one for signing".to_owned()));
            }
            let valid = valid_then(signature, key) && lives(signature, subkey, subkey.signatures.iter());
            return valid.then_some(name.clone()).ok_or(SignatureError::Expired(name));
        }
    }
    let named = signature.issuer_fingerprint().first().map(|fingerprint| format!("{fingerprint:X}"));
    let named = named.or_else(|| signature.issuer_key_id().first().map(|id| id.to_string().to_uppercase()));
    Err(SignatureError::UnknownSigner(named.unwrap_or_else(|| "without a name".to_owned())))
}

fn is_by(signature: &Signature, key: &impl VerifyingKey) -> bool {
    let (fingerprint, id) = (key.fingerprint(), key.legacy_key_id());
    signature.issuer_fingerprint().into_iter().any(|named| *named == fingerprint)
        || signature.issuer_key_id().into_iter().any(|named| *named == id)
}

fn check(signature: &Signature, key: &impl VerifyingKey, document: &[u8]) -> Result<(), SignatureError> {
    // By itself, since the check of a whole message knows no signatures of version 3.
    signature.verify(key, document).map_err(|_error| SignatureError::Forged)
}

fn is_revoked(subkey: &SignedPublicSubKey) -> bool {
    subkey.signatures.iter().any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
}

/// Whether a key was valid when it made a signature.
fn valid_then(signature: &Signature, key: &SignedPublicKey) -> bool {
    let users = key.details.users.iter().flat_map(|user| &user.signatures);
    // What others certify says nothing about the key's own life.
    let own = users.chain(&key.details.direct_signatures).filter(|certification| is_by(certification, key));
    lives(signature, key, own)
}

/// Whether a signature was made between the making of a key and the end that the newest of `statements` gives it.
fn lives<'a>(signature: &Signature, key: &impl VerifyingKey, statements: impl Iterator<Item = &'a Signature>) -> bool {
    let Some(signed) = signature.created().map(pgp::types::Timestamp::as_secs) else { return false };
    let made = key.created_at().as_secs();
    let newest = statements.max_by_key(|statement| statement.created().map(pgp::types::Timestamp::as_secs));
    let life =
        newest.and_then(Signature::key_expiration_time).map(pgp::types::Duration::as_secs).filter(|life| *life > 0);
    signed >= made && life.is_none_or(|life| signed - made < life)
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!("testdata/", $name)).as_slice()
        };
    }

    /// Made with gpg 2.2, but for those of version 3, which no gpg makes any more.
    fn keys() -> KeyRing {
        let text = [include_str!("testdata/signer.asc"), include_str!("testdata/expired.asc")].concat();
        KeyRing::parse(&text).unwrap()
    }

    fn verified(file: &[u8]) -> Result<Verified, SignatureError> {
        verify(file, &Digest::of(b"payload"), &keys())
    }

    #[test]
    fn red_hats_keys_are_those_that_it_publishes() {
        assert_eq!(
            KeyRing::red_hat().unwrap().fingerprints(),
            ["567E347AD0044ADE55BA8A5F199E2F91FD431D51", "B08B659EE86AF623BC90E8DB938A80CAF21541EB"]
        );
    }

    #[test]
    fn a_signature_by_a_trusted_key_names_its_payload() {
        for file in [file!("good.sig"), file!("v3.sig")] {
            let verified = verified(file).unwrap();
            assert_eq!(verified.identity, "quay.io/openshift-release-dev/ocp-release:4.18.10-x86_64");
            assert_eq!(verified.signer, keys().fingerprints()[0]);
        }
    }

    #[test]
    fn what_was_signed_while_its_key_was_valid_stays_valid() {
        assert!(verified(file!("before-expiry.sig")).is_ok());
        assert!(matches!(verified(file!("expired.sig")), Err(SignatureError::Expired(_))));
    }

    #[test]
    fn everything_else_is_refused_for_its_own_reason() {
        use SignatureError::{Document, Forged, NotSigned, OtherDigest, TrailingData, UnknownSigner, Unreadable};
        assert!(matches!(verified(file!("foreign.sig")), Err(UnknownSigner(_))));
        assert!(
            matches!(verified(file!("otherdigest.sig")), Err(OtherDigest(other)) if other == Digest::of(b"other").to_string())
        );
        assert!(matches!(verified(file!("unsigned.sig")), Err(NotSigned)));
        for file in [file!("type.sig"), file!("identity.sig"), file!("unknown.sig"), file!("text.sig")] {
            assert!(matches!(verified(file), Err(Document(_))));
        }
        for file in [&b"<html>"[..], b"", b"{}"] {
            assert!(matches!(verified(file), Err(Unreadable(_))));
        }
        let good = file!("good.sig");
        for length in 0..good.len() {
            assert!(verified(&good[..length]).is_err(), "cut at {length} of {}", good.len());
        }
        for more in [&b"\0"[..], b"more", file!("good.sig")] {
            let error = verified(&[good, more].concat()).unwrap_err();
            assert!(matches!(error, TrailingData | Unreadable(_)), "{error}");
        }
        let mut changed = 0;
        for index in 0..good.len() {
            let mut file = good.to_vec();
            file[index] ^= 1;
            // A few bits mean nothing, such as those of the date in the literal packet.
            if let Ok(verified) = verified(&file) {
                assert_eq!(verified.identity, "quay.io/openshift-release-dev/ocp-release:4.18.10-x86_64");
                changed += 1;
            }
        }
        assert!(changed < good.len() / 10, "{changed} bits of {} do not matter", good.len());
        // Another document with the same signature.
        assert!(matches!(verified(file!("forged.sig")), Err(Forged)));
    }

    #[test]
    fn what_holds_no_key_is_told() {
        for text in ["", "no key", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"]
        {
            assert!(KeyRing::parse(text).is_err());
        }
    }
}

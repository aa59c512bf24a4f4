//! Grammars of names, as regular expressions for the rules of the schema.
//!
//! Written in the part of the syntax that Go's engine and the `regex` crate read alike. What they accept is checked against
//! [`crate::oci`] by tests of `request`.

/// A registry host with an optional port; lower case, no IPv6 literal: mirror sets cannot express one.
pub const HOST: &str = r"[a-z0-9]+((\.|-+)[a-z0-9]+)*(:[0-9]{1,5})?";
/// A repository path.
pub const PATH: &str = r"[a-z0-9]+((\.|__?|-+|/)[a-z0-9]+)*";
/// A tag.
pub const TAG: &str = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
/// A digest.
pub const DIGEST: &str = r"sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})";
/// A duration as Go writes it, positive, without a sign.
pub const DURATION: &str = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+";
/// A rate in bytes: a whole number with an optional decimal or binary suffix.
pub const QUANTITY: &str = r"[1-9][0-9]{0,14}(k|M|G|T|Ki|Mi|Gi|Ti)?";
/// The name of a Kubernetes object.
pub const OBJECT_NAME: &str = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?";
/// A label of DNS, such as the name of a namespace.
pub const LABEL: &str = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?";
/// A key of a `ConfigMap`.
pub const CONFIG_KEY: &str = r"[A-Za-z0-9._-]+";

/// A CEL rule: the whole of `self` matches `pattern`.
pub(crate) fn matches(pattern: &str) -> String {
    format!("self.matches(r'^({pattern})$')")
}

/// A CEL rule: `self` is an image with or without a registry, a tag and a digest.
pub(crate) fn image() -> String {
    matches(&format!("({HOST}/)?{PATH}(:{TAG})?(@{DIGEST})?"))
}

/// A CEL rule: the image named by `self` has a tag or a digest.
pub(crate) const HAS_TAG_OR_DIGEST: &str = "self.contains('@') || self.matches(r'^([^/]*/)*[^/:]+:[^/:]+$')";

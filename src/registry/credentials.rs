//! Credentials as container tools store them.
//!
//! Reads `.dockerconfigjson` of a Secret and containers' `auth.json`: an object `auths` whose keys are `host[:port]`,
//! `host[:port]/path…` or one of Docker's older spellings. The longest key that is a prefix in whole path components wins,
//! as `containers-auth.json(5)` says. Credential helpers are programs and are not run.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::oci::{Registry, Repository};

/// The user name that says that the password is an identity token.
const TOKEN_USER: &str = "<token>";

/// Padding is optional: some tools leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How to log in at one place. Never prints what is secret.
#[derive(Clone)]
pub enum Credential {
    /// A user name and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A refresh token, exchanged for access tokens by the registry's token service.
    Identity(SecretString),
    /// An access token, sent as it is.
    Registry(SecretString),
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Basic { username: a, password: p }, Self::Basic { username: b, password: q }) => {
                a == b && p.expose_secret() == q.expose_secret()
            }
            (Self::Identity(a), Self::Identity(b)) | (Self::Registry(a), Self::Registry(b)) => {
                a.expose_secret() == b.expose_secret()
            }
            _ => false,
        }
    }
}

impl Eq for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(<redacted>)",
            Self::Identity(_) => "Identity(<redacted>)",
            Self::Registry(_) => "Registry(<redacted>)",
        })
    }
}

/// The credentials of one side, by `host[:port][/path…]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    entries: BTreeMap<String, Credential>,
    /// Where to look when no entry matches.
    next: Option<Box<Credentials>>,
}

/// Why a file with credentials cannot be used. Names keys, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Not JSON, or not an object with `auths`.
    #[error("the credentials are not JSON with an object `auths` (line {line}, column {column})")]
    Json {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// A key that is not a place.
    #[error("the key `{key}` in `auths` is not `host`, `host:port` or one of them with a path")]
    Key {
        /// The key.
        key: String,
    },
    /// An entry whose `auth` cannot be decoded.
    #[error("`auth` of the entry `{key}` is not the base64 of `user:password`")]
    Auth {
        /// The key.
        key: String,
    },
    /// An entry that has a user or a password, but not both.
    #[error("the entry `{key}` has only one of `username` and `password`")]
    Half {
        /// The key.
        key: String,
    },
    /// An entry that is not an object of strings.
    #[error("the entry `{key}` is not an object of strings")]
    Entry {
        /// The key.
        key: String,
    },
    /// Credentials that a header cannot carry.
    #[error("the entry `{key}` contains characters that cannot be sent")]
    Unsendable {
        /// The key.
        key: String,
    },
}

#[derive(Deserialize)]
struct File {
    auths: BTreeMap<String, serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// No credentials: everything is asked anonymously.
    pub fn none() -> Self {
        Self::default()
    }

    /// True if there are none at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.next.as_ref().is_none_or(|next| next.is_empty())
    }

    /// Reads the bytes of a `.dockerconfigjson` or `auth.json`. An entry without anything in it counts as absent.
    ///
    /// # Errors
    /// The first thing that is wrong, by key; values are never part of the message.
    pub fn parse(bytes: &[u8]) -> Result<Self, CredentialsError> {
        let file: File = serde_json::from_slice(bytes)
            // The message of a type error quotes the value, so only its place is kept.
            .map_err(|error| CredentialsError::Json { line: error.line(), column: error.column() })?;
        let mut entries = BTreeMap::new();
        let mut legacy = Vec::new();
        for (key, value) in file.auths {
            let Some(credential) = credential(&key, value)? else { continue };
            let (place, modern) = normalise(&key).ok_or_else(|| CredentialsError::Key { key: key.clone() })?;
            if modern {
                entries.insert(place, credential);
            } else {
                legacy.push((place, credential));
            }
        }
        for (place, credential) in legacy {
            entries.entry(place).or_insert(credential);
        }
        Ok(Self { entries, next: None })
    }

    /// The same, and those of `later` for places that nothing here matches, however short the match.
    #[must_use]
    pub fn or(mut self, later: Self) -> Self {
        self.next = Some(Box::new(match self.next {
            Some(next) => next.or(later),
            None => later,
        }));
        self
    }

    /// One credential for everything at a registry; for tests and for the command line.
    #[must_use]
    pub fn with(mut self, registry: &Registry, credential: Credential) -> Self {
        self.entries.insert(hub(registry.as_str()).to_owned(), credential);
        self
    }

    /// The credential for a repository and the key it stands under: the longest matching one of the first file that has any.
    pub fn lookup(&self, repository: &Repository) -> Option<(&str, &Credential)> {
        self.at(&format!("{}/{}", hub(repository.registry().as_str()), repository.path()))
    }

    /// The same for any path at a host.
    pub(super) fn at(&self, full: &str) -> Option<(&str, &Credential)> {
        let mut place = full;
        loop {
            if let Some((key, credential)) = self.entries.get_key_value(place) {
                return Some((key, credential));
            }
            match place.rsplit_once('/') {
                Some((shorter, _)) => place = shorter,
                None => return self.next.as_ref()?.at(full),
            }
        }
    }
}

/// Docker Hub's names as one.
fn hub(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// The place a key means, and whether it is in today's spelling.
fn normalise(key: &str) -> Option<(String, bool)> {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let mut modern = bare.is_none();
    let trimmed = bare.unwrap_or(key).trim_end_matches('/');
    let (host, path) = match trimmed.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (trimmed, None),
    };
    modern &= trimmed.len() == key.len();
    let registry: Registry = host.to_ascii_lowercase().parse().ok()?;
    let canonical = hub(registry.as_str());
    modern &= canonical == host;
    let path = match path {
        Some("v1" | "v2" | "v1/_ping" | "v2/_ping") => {
            modern = false;
            None
        }
        path => path,
    };
    if path.is_some_and(|path| path.split('/').any(str::is_empty) || path.contains(char::is_whitespace)) {
        return None;
    }
    Some((path.map_or_else(|| canonical.to_owned(), |path| format!("{canonical}/{path}")), modern))
}

fn credential(key: &str, value: serde_json::Value) -> Result<Option<Credential>, CredentialsError> {
    let key = || key.to_owned();
    let entry: Entry = match value {
        serde_json::Value::Null => return Ok(None),
        value => serde_json::from_value(value).ok().ok_or_else(|| CredentialsError::Entry { key: key() })?,
    };
    let secret = |text: Option<String>| text.filter(|text| !text.is_empty()).map(SecretString::from);
    let sendable = |secret: &SecretString| {
        let fine = secret.expose_secret().bytes().all(|b| (b' '..=b'~').contains(&b));
        if fine { Ok(()) } else { Err(CredentialsError::Unsendable { key: key() }) }
    };
    if let Some(token) = secret(entry.registrytoken) {
        sendable(&token)?;
        return Ok(Some(Credential::Registry(token)));
    }
    if let Some(token) = secret(entry.identitytoken) {
        return Ok(Some(Credential::Identity(token)));
    }
    let pair = match (secret(entry.auth), entry.username.filter(|name| !name.is_empty())) {
        (Some(auth), _) => Some(decode(&auth).ok_or_else(|| CredentialsError::Auth { key: key() })?),
        (None, Some(username)) => {
            let password = secret(entry.password).ok_or_else(|| CredentialsError::Half { key: key() })?;
            Some((username, password))
        }
        (None, None) if entry.password.is_some_and(|password| !password.is_empty()) => {
            return Err(CredentialsError::Half { key: key() });
        }
        (None, None) => None,
    };
    Ok(pair.map(|(username, password)| {
        if username == TOKEN_USER { Credential::Identity(password) } else { Credential::Basic { username, password } }
    }))
}

fn decode(auth: &SecretString) -> Option<(String, SecretString)> {
    let bytes = BASE64.decode(auth.expose_secret().trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    // Some tools end the password with NUL bytes.
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    (!username.is_empty()).then(|| (username.to_owned(), password.into()))
}

/// `user:password` in base64, for a header.
pub(super) fn basic(username: &str, password: &SecretString) -> SecretString {
    general_purpose::STANDARD.encode(format!("{username}:{}", password.expose_secret())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Credentials, CredentialsError> {
        Credentials::parse(text.as_bytes())
    }

    fn user(credentials: &Credentials, repository: &str) -> Option<String> {
        match credentials.lookup(&repository.parse().unwrap())?.1 {
            Credential::Basic { username, .. } => Some(username.clone()),
            Credential::Identity(_) => Some("identity".to_owned()),
            Credential::Registry(_) => Some("registry".to_owned()),
        }
    }

    fn entry(name: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, general_purpose::STANDARD.encode(format!("{name}:pw:with:colons")))
    }

    #[test]
    fn the_longest_prefix_of_whole_components_wins() {
        let text = format!(
            r#"{{"auths":{{"quay.io":{},"quay.io/acme":{},"quay.io/acme/tool":{},"h:5000":{}}}}}"#,
            entry("host"),
            entry("org"),
            entry("repo"),
            entry("port")
        );
        let credentials = parse(&text).unwrap();
        for (repository, expected) in [
            ("quay.io/acme/tool", Some("repo")),
            ("quay.io/acme/tool/sub", Some("repo")),
            ("quay.io/acme/toolbox", Some("org")),
            ("quay.io/acmexx/a", Some("host")),
            ("h:5000/a", Some("port")),
            ("h:5001/a", None),
            ("sub.quay.io/a", None),
        ] {
            assert_eq!(user(&credentials, repository).as_deref(), expected, "{repository}");
        }
    }

    #[test]
    fn a_later_file_is_asked_only_where_an_earlier_one_has_nothing() {
        let first = parse(&format!(r#"{{"auths":{{"quay.io":{}}}}}"#, entry("first"))).unwrap();
        let second =
            parse(&format!(r#"{{"auths":{{"quay.io/a":{},"ghcr.io":{}}}}}"#, entry("second"), entry("second")))
                .unwrap();
        let third =
            parse(&format!(r#"{{"auths":{{"ghcr.io/a":{},"h.io":{}}}}}"#, entry("third"), entry("third"))).unwrap();
        let all = Credentials::none().or(first).or(second).or(third);
        for (repository, expected) in [
            ("quay.io/a/b", Some("first")),
            ("ghcr.io/a/b", Some("second")),
            ("h.io/a", Some("third")),
            ("x.io/a", None),
        ] {
            assert_eq!(user(&all, repository).as_deref(), expected, "{repository}");
        }
        assert!(!all.is_empty());
    }

    #[test]
    fn older_spellings_of_a_key_mean_the_host() {
        for (key, repository) in [
            ("https://index.docker.io/v1/", "nginx"),
            ("index.docker.io", "docker.io/acme/x"),
            ("docker.io", "nginx"),
            ("registry-1.docker.io", "nginx"),
            ("https://quay.io", "quay.io/a"),
            ("http://h:5000/", "h:5000/a"),
            ("quay.io/v1/", "quay.io/a"),
            ("https://quay.io/v2/", "quay.io/a"),
            ("Quay.IO", "quay.io/a"),
        ] {
            let credentials = parse(&format!(r#"{{"auths":{{"{key}":{}}}}}"#, entry("me"))).unwrap();
            assert_eq!(user(&credentials, repository).as_deref(), Some("me"), "{key}");
        }
    }

    #[test]
    fn a_key_in_todays_spelling_wins_over_an_older_one() {
        let text =
            format!(r#"{{"auths":{{"docker.io":{},"https://index.docker.io/v1/":{}}}}}"#, entry("new"), entry("old"));
        assert_eq!(user(&parse(&text).unwrap(), "nginx").as_deref(), Some("new"));
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        for (body, expected) in [
            (r#"{"username":"me","password":"pw"}"#, Some("me")),
            (r#"{"auth":"bWU6cHc"}"#, Some("me")),
            (r#"{"auth":"bWU6cHc=","email":"x@y"}"#, Some("me")),
            (r#"{"identitytoken":"t"}"#, Some("identity")),
            (r#"{"auth":"PHRva2VuPjp0","identitytoken":""}"#, Some("identity")),
            (r#"{"auth":"bWU6cHc=","registrytoken":"t"}"#, Some("registry")),
            ("{}", None),
        ] {
            let credentials = parse(&format!(r#"{{"auths":{{"quay.io":{body}}},"credsStore":"x"}}"#)).unwrap();
            assert_eq!(user(&credentials, "quay.io/a").as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_key_and_never_by_value() {
        for (text, part) in [
            ("", "not JSON"),
            ("s3cret", "not JSON"),
            (r#"{"quay.io":{"auth":"s3cret"}}"#, "`auths`"),
            (r#"{"auths":"s3cret"}"#, "`auths`"),
            (r#"{"auths":{"quay.io":"s3cret"}}"#, "`quay.io`"),
            (r#"{"auths":{"quay.io":{"auth":"s3cret!"}}}"#, "`quay.io`"),
            (r#"{"auths":{"quay.io":{"auth":"czNjcmV0"}}}"#, "`quay.io`"),
            (r#"{"auths":{"quay.io":{"username":"s3cret"}}}"#, "`quay.io`"),
            (r#"{"auths":{"quay.io":{"password":"s3cret"}}}"#, "`quay.io`"),
            (r#"{"auths":{"quay.io":{"registrytoken":"s3cret\n"}}}"#, "`quay.io`"),
            (r#"{"auths":{"ftp://quay.io":{"auth":"bWU6czNjcmV0"}}}"#, "`ftp://quay.io`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = r#"{"auths":{"quay.io":{"username":"me","password":"s3cret"},"a.io":{"identitytoken":"s3cret"}}}"#;
        assert!(!format!("{:?}", parse(text).unwrap()).contains("s3cret"));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in ".*", key in ".*", auth in ".*") {
            parse(&text).ok();
            let entry = serde_json::json!({ "auths": { key: { "auth": auth } } });
            parse(&entry.to_string()).ok();
        }
    }
}

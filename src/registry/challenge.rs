//! `WWW-Authenticate`: what a registry says about how to log in.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The longest header that is looked at.
const MAX_LENGTH: usize = 8192;

/// How a registry wants us to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password in every request.
    Basic,
    /// A token from the service at `realm`.
    Bearer {
        /// The address of the service, as written.
        realm: String,
        /// What the service calls the registry.
        service: Option<String>,
        /// The scopes that the refused request needed, separated by spaces.
        scope: Option<String>,
    },
}

/// The challenge to answer: a token service if there is one, otherwise Basic; none if neither is offered.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        if text.len() > MAX_LENGTH {
            continue;
        }
        for (scheme, parameters) in parse(text) {
            let find = |name: &str| {
                parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = find("realm").filter(|realm| !realm.is_empty()) {
                    return Some(Challenge::Bearer { realm, service: find("service"), scope: find("scope") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            }
        }
    }
    basic.then_some(Challenge::Basic)
}

type Parsed = Vec<(String, Vec<(String, String)>)>;

/// Reads a list of challenges, each a scheme and `name=value` pairs, leniently.
fn parse(text: &str) -> Parsed {
    let mut challenges = Parsed::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // Ends the list, or a stray `=` that nothing can be made of.
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            challenges.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = self::value(value.trim_start_matches([' ', '\t']));
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// A token or a quoted string, and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        challenge(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn challenges_are_read_in_all_their_spellings() {
        for (values, expected) in [
            (
                &[r#"Bearer realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull,push""#][..],
                Some(bearer("https://auth.io/token", Some("reg.io"), Some("repository:a/b:pull,push"))),
            ),
            (&[r#"bearer  Realm = "https://a/t" , service=reg"#], Some(bearer("https://a/t", Some("reg"), None))),
            (&[r#"Basic realm="x", Bearer realm="https://a/t""#], Some(bearer("https://a/t", None, None))),
            (&[r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#], Some(bearer("https://a/t", None, None))),
            (&[r#"Bearer realm="https://a/t?x=\"y\"""#], Some(bearer(r#"https://a/t?x="y""#, None, None))),
            (&["Basic"], Some(Challenge::Basic)),
            (&[r#"Digest realm="x", nonce="a,b", Basic realm="y, z""#], Some(Challenge::Basic)),
            (&["Bearer"], None),
            (&[r#"Bearer realm="""#], None),
            (&[], None),
            (&["=,=\"\\"], None),
        ] {
            assert_eq!(read(values), expected, "{values:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_ends(text in "[ -~]*") {
            let _ = read(&[&text]);
        }
    }
}

//! `imagePaths`: where images stand in what a chart renders to, in the `JSONPath` of kubectl.
//!
//! kubectl's dialect is older than RFC 9535 and has braces around each path: `{.spec.x[*].image}`. It is translated into that of
//! the RFC, whose names in dots are letters, digits and `_` only.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;

/// One expression: one path or several, each in braces.
#[derive(Clone, Debug)]
pub struct ImagePath {
    written: String,
    queries: Vec<JpQuery>,
}

impl PartialEq for ImagePath {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for ImagePath {}

impl PartialOrd for ImagePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImagePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.written.cmp(&other.written)
    }
}

impl Hash for ImagePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.written.hash(state);
    }
}

impl ImagePath {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut queries = Vec::new();
        let mut rest = text.trim();
        if !rest.starts_with('{') {
            return Err(format!("`{text}` is not a JSONPath of kubectl: write it in braces, such as {{.spec.image}}"));
        }
        while let Some(open) = rest.strip_prefix('{') {
            let (path, after) = braced(open).ok_or_else(|| format!("`{text}` has a brace that is not closed"))?;
            queries.push(query(path).map_err(|why| format!("`{text}` is not a JSONPath of kubectl: {why}"))?);
            rest = after.trim_start();
        }
        if rest.is_empty() {
            Ok(Self { written: text.to_owned(), queries })
        } else {
            Err(format!("`{text}` has `{rest}` outside of the braces: leave it out"))
        }
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The words that it finds: what is no text is not looked at, and a text with blanks is several.
    pub fn find<'a>(&self, document: &'a Value) -> Vec<&'a str> {
        // A path that does not fit a document finds nothing in it.
        let found = self.queries.iter().filter_map(|query| js_path_process(query, document).ok()).flatten();
        found.filter_map(|found| found.val().as_str()).flat_map(str::split_whitespace).collect()
    }
}

/// What stands before the closing brace, and after it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '}') => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn query(path: &str) -> Result<JpQuery, String> {
    let word = path.split_whitespace().next().unwrap_or_default();
    if matches!(word, "range" | "end") {
        return Err(format!("`{word}` is for printing: write `[*]` for all of a list"));
    }
    let translated = translate(path.trim())?;
    parse_json_path(&translated).map_err(|_grammar| format!("`{path}` cannot be read"))
}

/// The path in the dialect of RFC 9535: each name in brackets and quotes, what is in brackets already as it is.
fn translate(path: &str) -> Result<String, String> {
    let mut letters = path.strip_prefix(['$', '@']).unwrap_or(path).chars().peekable();
    let mut out = String::from("$");
    if !matches!(letters.peek(), None | Some('.' | '[')) {
        return Err("it does not begin with `.`".to_owned());
    }
    while let Some(letter) = letters.next() {
        if letter == '[' {
            out.push('[');
            out.push_str(&bracketed(&mut letters).ok_or("a bracket is not closed")?);
            continue;
        }
        let deep = letters.next_if_eq(&'.').is_some();
        let mut name = String::new();
        let mut literal = false;
        while let Some(letter) = letters.next_if(|letter| !matches!(letter, '.' | '[')) {
            literal |= letter == '\\';
            name.push(if letter == '\\' { letters.next().ok_or("it ends with `\\`")? } else { letter });
        }
        if deep {
            out.push_str("..");
        }
        match name.as_str() {
            "" if deep || letters.peek() == Some(&'[') || path == "." => {}
            "" => return Err("a name is missing after `.`".to_owned()),
            "*" if !literal => out.push_str("[*]"),
            _ => {
                out.push_str("['");
                out.push_str(&name.replace('\\', r"\\").replace('\'', r"\'"));
                out.push_str("']");
            }
        }
    }
    Ok(out)
}

/// Up to the bracket that closes, with it.
fn bracketed(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut out = String::new();
    let mut quote = None;
    let mut depth = 1;
    while let Some(letter) = letters.next() {
        out.push(letter);
        match (quote, letter) {
            (Some(_), '\\') => out.push(letters.next()?),
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(out);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_kubectl_find_what_kubectl_finds() {
        let document = json!({
            "spec": {
                "image": "quay.io/a:1",
                "my-image": "quay.io/dash:1",
                "dotted.key": "quay.io/dotted:1",
                "list": "quay.io/b:1  quay.io/c:1",
                "parts": [{"name": "x", "image": "quay.io/x:1"}, {"name": "y", "image": "quay.io/y:1"}, {"name": "z"}],
                "env": [{"name": "IMAGE", "value": "quay.io/env:1"}, {"name": "OTHER", "value": 7}],
            },
        });
        for (path, expected) in [
            ("{.spec.image}", &["quay.io/a:1"][..]),
            ("{$.spec.image}", &["quay.io/a:1"]),
            ("{ .spec['image'] }", &["quay.io/a:1"]),
            ("{.spec.my-image}", &["quay.io/dash:1"]),
            (r"{.spec.dotted\.key}", &["quay.io/dotted:1"]),
            ("{.spec['dotted.key']}", &["quay.io/dotted:1"]),
            ("{.spec.list}", &["quay.io/b:1", "quay.io/c:1"]),
            ("{.spec.parts[*].image}", &["quay.io/x:1", "quay.io/y:1"]),
            ("{.spec.parts.*.image}", &["quay.io/x:1", "quay.io/y:1"]),
            ("{.spec.parts[1].image}", &["quay.io/y:1"]),
            ("{.spec.parts[0:1].image}", &["quay.io/x:1"]),
            ("{.spec.parts[?(@.name=='y')].image}", &["quay.io/y:1"]),
            (r#"{.spec.env[?(@.name=="IMAGE")].value}"#, &["quay.io/env:1"]),
            ("{.spec.parts..image}", &["quay.io/x:1", "quay.io/y:1"]),
            ("{.spec.image}{.spec.my-image}", &["quay.io/a:1", "quay.io/dash:1"]),
            ("{.spec.env[*].value}", &["quay.io/env:1"]),
            ("{.spec.missing.deeper[*].image}", &[]),
            ("{.spec}", &[]),
        ] {
            let found = ImagePath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(found.find(&document), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_told() {
        for (path, why) in [
            ("", "in braces"),
            (".spec.image", "in braces"),
            ("{.spec.image", "not closed"),
            ("{.spec.image} and more", "outside of the braces"),
            ("{range .items[*]}", "`range` is for printing"),
            ("{spec.image}", "does not begin with `.`"),
            ("{.spec.[}", "bracket is not closed"),
            ("{.spec.a.}", "a name is missing"),
            ("{.spec[what]}", "cannot be read"),
        ] {
            let error = ImagePath::parse(path).unwrap_err();
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", inner in "[.a-z\\[\\]'\"*@?()=\\\\]{0,20}") {
            for text in [text, format!("{{{inner}}}")] {
                if let Ok(path) = ImagePath::parse(&text) {
                    path.find(&json!({"a": [{"a": "b"}]}));
                }
            }
        }
    }
}

//! `blockedImages`: expressions written for Go's engine, run by the `regex` crate.
//!
//! Both are of the RE2 family. Where the syntax differs, the expression is rewritten to mean what it means in Go; what cannot
//! be is refused with advice. Syntax of Go: <https://pkg.go.dev/regexp/syntax>.

use super::Pattern;

/// Reads an expression, or says what to write instead.
pub(super) fn compile(text: &str) -> Result<Pattern, String> {
    let unsupported = |what: &str, advice: &str| Err(format!("`{text}` uses {what}: {advice}"));
    let translated = match translate(text) {
        Ok(translated) => translated,
        Err(Refused::AnyByte) => return unsupported(r"`\C`", "write `.` instead"),
        Err(Refused::Reference) => {
            return unsupported("a back-reference or an octal code", r"write the text out, or a character as `\x41`");
        }
        Err(Refused::Look) => return unsupported("look-around", "write one expression for each case instead"),
    };
    match regex::RegexBuilder::new(&translated).size_limit(1 << 20).build() {
        Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(format!("`{text}` is too large once its repetitions are written out: use smaller counts"))
        }
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(format!(
                r"`{text}` is not a regular expression: {reason}; write it in the RE2 dialect, with `\.` for a dot"
            ))
        }
    }
}

/// What Go or we do not have.
enum Refused {
    AnyByte,
    Reference,
    Look,
}

/// Rewrites what the two dialects write differently.
fn translate(text: &str) -> Result<String, Refused> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut class = Class::Outside;
    while let Some(c) = rest.chars().next() {
        let tail = rest.get(c.len_utf8()..).unwrap_or_default();
        let next = tail.chars().next();
        rest = tail;
        match (c, class) {
            ('\\', _) => {
                match next {
                    Some('Q') if class == Class::Outside => {
                        let quoted = tail.get(1..).unwrap_or_default();
                        let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                        out.push_str(&regex::escape(literal));
                        rest = after;
                        continue;
                    }
                    // Go drops an end of a quotation that was not begun.
                    Some('E') => {
                        rest = tail.get(1..).unwrap_or_default();
                        continue;
                    }
                    Some('C') => return Err(Refused::AnyByte),
                    Some('0'..='9') => return Err(Refused::Reference),
                    _ => {}
                }
                out.push('\\');
                if let Some(next) = next {
                    out.push(next);
                    rest = tail.get(next.len_utf8()..).unwrap_or_default();
                }
                class = class.inside();
            }
            ('(', Class::Outside) if ["?=", "?!", "?<=", "?<!"].iter().any(|look| tail.starts_with(look)) => {
                return Err(Refused::Look);
            }
            // A brace that is not a repetition is a brace.
            ('{', Class::Outside) if !is_repetition(tail) && !ends_in_property(&out) => out.push_str("\\{"),
            ('[', Class::Outside) => {
                class = Class::First;
                out.push('[');
                if next == Some('^') {
                    out.push('^');
                    rest = tail.get(1..).unwrap_or_default();
                }
            }
            (']', Class::First) => {
                out.push_str("\\]");
                class = Class::Inside;
            }
            (']', Class::Inside) => {
                out.push(']');
                class = Class::Outside;
            }
            ('[', Class::First | Class::Inside) => {
                class = Class::Inside;
                if let Some(end) = tail.strip_prefix(':').and_then(|name| name.find(":]")) {
                    let name = tail.get(..end + 3).unwrap_or_default();
                    out.push('[');
                    out.push_str(name);
                    rest = tail.get(end + 3..).unwrap_or_default();
                } else {
                    // Not a nested class, which Go does not have.
                    out.push_str("\\[");
                }
            }
            // No set operations in Go.
            ('&' | '~', Class::First | Class::Inside) => {
                out.push('\\');
                out.push(c);
                class = Class::Inside;
            }
            _ => {
                out.push(c);
                class = class.inside();
            }
        }
    }
    Ok(out)
}

/// Where in a bracket expression we are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    First,
    Inside,
}

impl Class {
    fn inside(self) -> Self {
        if self == Self::First { Self::Inside } else { self }
    }
}

/// True if what follows a brace makes it a repetition: `3}`, `3,}` or `3,5}`.
fn is_repetition(tail: &str) -> bool {
    let Some((inner, _)) = tail.split_once('}') else { return false };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    !low.is_empty() && low.bytes().chain(high.bytes()).all(|b| b.is_ascii_digit())
}

/// True after `\p`, `\P` and `\x`, whose argument stands in braces.
fn ends_in_property(out: &str) -> bool {
    let escaped = ["\\p", "\\P", "\\x"].iter().any(|escape| out.ends_with(escape));
    let backslashes = out.get(..out.len().saturating_sub(1)).unwrap_or_default();
    escaped && backslashes.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        for (pattern, yes, no) in [
            ("legacy", "quay.io/acme/legacy-app:1", "quay.io/acme/app:1"),
            (r"^quay\.io/acme/", "quay.io/acme/app:1", "xquay.io/acme/app:1"),
            (".*-must-gather.*", "quay.io/a/odf-must-gather:1", "quay.io/a/gather:1"),
            (r"\Qa.b+c\E$", "a.b+c", "aXb+c"),
            (r"\Qa.b", "a.b", "aXb"),
            (r"a\Eb", "ab", "aEb"),
            ("(?P<n>ab)c", "abc", "ac"),
            ("(?<n>ab)c", "abc", "ac"),
            (r"v\pN$", "v1", "va"),
            (r"\p{Greek}", "α", "a"),
            (r"\P{Greek}", "a", "α"),
            (r"\x{61}b", "ab", "b"),
            (r"^[[:digit:]]+$", "12", "1a"),
            (r"^[[:^digit:]]+$", "ab", "1a"),
            (r"^[[a]+$", "[a", "b"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[^]a]+$", "b", "]"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[a~~]+$", "~a", "c"),
            ("a{b", "a{b", "ab"),
            ("^a{,2}$", "a{,2}", "aa"),
            ("^a{2}$", "aa", "a"),
            ("^a{2,}$", "aaa", "a"),
            ("^a{2,3}$", "aaa", "aaaa"),
            ("{x}", "{x}", "x"),
            ("(?i)LEGACY", "legacy", "x"),
            (r"^a\z", "a", "ab"),
            ("(?U)a+", "aa", "b"),
        ] {
            let compiled = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(compiled.regex.is_match(yes), "{pattern} should match {yes}");
            assert!(!compiled.regex.is_match(no), "{pattern} should not match {no}");
            assert_eq!(compiled.text, pattern);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_advice() {
        for (pattern, advice) in [
            (r"a\Cb", "write `.` instead"),
            (r"(a)\1", "back-reference"),
            ("a(?=b)", "look-around"),
            ("a(?<!b)", "look-around"),
            ("a(", "unclosed group"),
            ("*a", "repetition operator missing expression"),
            ("[a", "unclosed character class"),
            (r"a\", "RE2 dialect"),
            ("((a{1000}){1000}){1000}", "too large"),
        ] {
            let error = compile(pattern).unwrap_err();
            assert!(error.contains(advice), "{pattern}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in r"[\[\]{}()\\QECpx:^&~,?<=!0-9a-c.*+|$]{0,24}") {
            drop(compile(&text));
        }

        #[test]
        fn quoted_text_matches_itself(text in r"[^\\]{0,24}") {
            let pattern = compile(&format!(r"^\Q{text}\E$")).unwrap();
            proptest::prop_assert!(pattern.regex.is_match(&text));
        }
    }
}

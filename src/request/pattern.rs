//! `blockedImages`: expressions written for Go's engine, run by the `regex` crate.
//!
//! Both are of the RE2 family. An expression is read as Go reads it and written in the part of the syntax that means the same
//! here; what Go refuses is refused too, with advice. Syntax of Go: <https://pkg.go.dev/regexp/syntax>.

use std::str::Chars;

use super::Pattern;

/// Memory that one compiled expression may take.
const SIZE_LIMIT: usize = 16 << 20;
/// The most repetitions, those within each other multiplied.
const MAX_REPEAT: u32 = 1000;

/// Reads an expression, or says what to write instead.
pub(super) fn compile(text: &str) -> Result<Pattern, String> {
    let invalid = |reason: &str| {
        format!(r"`{text}` is not a regular expression: {reason}; write it in the RE2 dialect, with `\.` for a dot")
    };
    let unsupported = |what: &str, advice: &str| format!("`{text}` uses {what}: {advice}");
    let large = || format!("`{text}` is too large once its repetitions are written out: use smaller counts");
    let translated = Translator::new(text).run().map_err(|refused| match refused {
        Refused::AnyByte => unsupported(r"`\C`", "write `.` instead"),
        Refused::Reference => unsupported("a back-reference", r"write the text out, or a character as `\x41`"),
        Refused::Look => unsupported("look-around", "write one expression for each case instead"),
        Refused::Large => large(),
        Refused::Syntax(reason) => invalid(reason),
    })?;
    match regex::RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).build() {
        Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
        Err(regex::Error::CompiledTooBig(_)) => Err(large()),
        Err(error) => {
            let reason = error.to_string();
            Err(invalid(reason.lines().last().unwrap_or_default().trim_start_matches("error: ")))
        }
    }
}

/// What Go does not have.
enum Refused {
    AnyByte,
    Reference,
    Look,
    Large,
    Syntax(&'static str),
}

const UNCLOSED: Refused = Refused::Syntax("unclosed character class");
const ESCAPE: Refused = Refused::Syntax(r"unknown escape after `\`");
const GROUP: Refused = Refused::Syntax("unknown kind of group after `(?`");

/// How often what is read can be there, its own repetitions multiplied.
#[derive(Clone, Copy)]
struct Counts {
    /// The last thing that can be repeated.
    last: u32,
    /// The largest of the group.
    most: u32,
}

struct Translator<'a> {
    rest: Chars<'a>,
    out: String,
    groups: Vec<Counts>,
    counts: Counts,
}

impl<'a> Translator<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.chars(), out: String::new(), groups: Vec::new(), counts: Counts { last: 1, most: 1 } }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Goes past `text` if it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let after = self.rest.as_str().strip_prefix(text);
        if let Some(after) = after {
            self.rest = after.chars();
        }
        after.is_some()
    }

    /// What comes before `end`, which is gone past.
    fn until(&mut self, end: &str) -> Option<&'a str> {
        let (before, after) = self.rest.as_str().split_once(end)?;
        self.rest = after.chars();
        Some(before)
    }

    /// Writes something that can be repeated.
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.counts = Counts { last: 1, most: self.counts.most };
    }

    fn run(mut self) -> Result<String, Refused> {
        let mut repeated = false;
        while let Some(c) = self.rest.next() {
            let repetition = match c {
                '*' | '+' | '?' => Some((c.to_string(), 1)),
                '{' => self.repetition()?,
                _ => None,
            };
            if let Some((written, count)) = repetition {
                if repeated {
                    return Err(Refused::Syntax("a repetition of a repetition: use a group"));
                }
                self.repeat(&written, count)?;
                repeated = true;
                continue;
            }
            repeated = false;
            match c {
                '(' => self.open()?,
                ')' => {
                    self.out.push(')');
                    let inner = self.counts.most;
                    let outer = self.groups.pop().map_or(inner, |outer| outer.most.max(inner));
                    self.counts = Counts { last: inner, most: outer };
                }
                '|' => self.out.push('|'),
                '^' | '$' | '.' => self.put(c.encode_utf8(&mut [0; 4])),
                '[' => self.class()?,
                '\\' => self.escape()?,
                _ => self.put(&literal(c)),
            }
        }
        Ok(self.out)
    }

    /// What follows a brace, if that makes it a repetition: `3}`, `3,}` or `3,5}`. How it is written, and how much it multiplies.
    fn repetition(&mut self) -> Result<Option<(String, u32)>, Refused> {
        let Some((inner, after)) = self.rest.as_str().split_once('}') else { return Ok(None) };
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        let (low, high) = inner
            .split_once(',')
            .map_or((inner, Some(inner)), |(low, high)| (low, Some(high).filter(|high| !high.is_empty())));
        if low.is_empty() || !number(low) || !high.is_none_or(number) {
            return Ok(None);
        }
        self.rest = after.chars();
        let count = |text: &str| text.parse::<u32>().ok().filter(|count| *count <= MAX_REPEAT).ok_or(Refused::Large);
        let (low, high) = (count(low)?, high.map(count).transpose()?);
        if high.is_some_and(|high| high < low) {
            return Err(Refused::Syntax("a repetition whose second count is smaller than its first"));
        }
        let times = high.unwrap_or(low.max(1));
        Ok(Some((format!("{{{inner}}}"), times)))
    }

    fn repeat(&mut self, written: &str, count: u32) -> Result<(), Refused> {
        self.out.push_str(written);
        if self.eat("?") {
            self.out.push('?');
        }
        let last = self.counts.last.saturating_mul(count);
        if count >= 2 && last > MAX_REPEAT {
            return Err(Refused::Large);
        }
        self.counts = Counts { last, most: self.counts.most.max(last) };
        Ok(())
    }

    /// Reads on from an opening parenthesis. Groups are not asked for what they match, so they have neither number nor name.
    fn open(&mut self) -> Result<(), Refused> {
        if !self.eat("?") {
            self.group("(?:");
            return Ok(());
        }
        if ["=", "!", "<=", "<!"].iter().any(|look| self.rest.as_str().starts_with(look)) {
            return Err(Refused::Look);
        }
        if self.eat("P<") || self.eat("<") {
            let name = self.until(">").unwrap_or_default();
            let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !valid {
                return Err(Refused::Syntax("a group without a proper name"));
            }
            self.group("(?:");
            return Ok(());
        }
        self.flags()
    }

    fn group(&mut self, written: &str) {
        self.out.push_str(written);
        self.groups.push(self.counts);
        self.counts = Counts { last: 1, most: 1 };
    }

    fn flags(&mut self) -> Result<(), Refused> {
        let (mut on, mut off) = (String::new(), String::new());
        let mut minus = false;
        loop {
            match self.rest.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U')) => {
                    let flags = if minus { &mut off } else { &mut on };
                    if !flags.contains(flag) {
                        flags.push(flag);
                    }
                }
                Some('-') if !minus => minus = true,
                Some(end @ (':' | ')')) if !minus || !off.is_empty() => {
                    on.retain(|flag| !off.contains(flag));
                    let flags = if minus { format!("{on}-{off}") } else { on };
                    if end == ':' {
                        self.group(&format!("(?{flags}:"));
                    } else if !flags.is_empty() {
                        self.out.extend(["(?", &flags, ")"]);
                    }
                    return Ok(());
                }
                _ => return Err(GROUP),
            }
        }
    }

    /// Reads on from a backslash outside of brackets.
    fn escape(&mut self) -> Result<(), Refused> {
        match self.peek() {
            Some('Q') => {
                self.rest.next();
                let quoted =
                    self.until("\\E").unwrap_or_else(|| std::mem::replace(&mut self.rest, "".chars()).as_str());
                for c in quoted.chars() {
                    self.put(&literal(c));
                }
            }
            Some('C') => return Err(Refused::AnyByte),
            Some(c @ ('A' | 'z')) => {
                self.rest.next();
                self.put(&format!("\\{c}"));
            }
            // Go's words are of ASCII.
            Some(c @ ('b' | 'B')) => {
                self.rest.next();
                self.put(&format!("(?-u:\\{c})"));
            }
            _ => {
                let set = match self.set()? {
                    Some(set) => set,
                    None => literal(self.character()?),
                };
                self.put(&set);
            }
        }
        Ok(())
    }

    /// A set of characters after a backslash, as a class; none if it is something else.
    fn set(&mut self) -> Result<Option<String>, Refused> {
        let set = match self.peek() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => r"[\t\n\x0C\r ]",
            Some('S') => r"[^\t\n\x0C\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('p') => return self.property(false).map(Some),
            Some('P') => return self.property(true).map(Some),
            _ => return Ok(None),
        };
        self.rest.next();
        Ok(Some(set.to_owned()))
    }

    /// Reads on from the letter of `\p` or `\P`.
    fn property(&mut self, negated: bool) -> Result<String, Refused> {
        const UNKNOWN: Refused = Refused::Syntax(r"unknown property of characters after `\p`");
        self.rest.next();
        let name = if self.eat("{") {
            self.until("}").ok_or(UNKNOWN)?.to_owned()
        } else {
            self.rest.next().ok_or(UNKNOWN)?.to_string()
        };
        let (name, negated) = name.strip_prefix('^').map_or((name.as_str(), negated), |name| (name, !negated));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ')) {
            return Err(UNKNOWN);
        }
        Ok(format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' }))
    }

    /// Reads on from a backslash before a single character.
    fn character(&mut self) -> Result<char, Refused> {
        let c = self.rest.next().ok_or(Refused::Syntax("a backslash at the end"))?;
        let octal = |c: Option<char>| c.and_then(|c| c.to_digit(8));
        match c {
            '1'..='9' if c > '7' || octal(self.peek()).is_none() => Err(Refused::Reference),
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    code = code * 8 + digit;
                    self.rest.next();
                }
                char::from_u32(code).ok_or(ESCAPE)
            }
            'x' => {
                let (digits, least) = if self.eat("{") {
                    (self.until("}").ok_or(ESCAPE)?.to_owned(), 1)
                } else {
                    (self.rest.by_ref().take(2).collect(), 2)
                };
                let hex = digits.len() >= least && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let short = digits.trim_start_matches('0');
                let code = if short.is_empty() { Some(0) } else { u32::from_str_radix(short, 16).ok() };
                code.filter(|_| hex).and_then(char::from_u32).ok_or(ESCAPE)
            }
            'a' => Ok('\x07'),
            'f' => Ok('\x0C'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0B'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            _ => Err(ESCAPE),
        }
    }

    /// Reads on from an opening bracket.
    fn class(&mut self) -> Result<(), Refused> {
        let mut class = "[".to_owned();
        if self.eat("^") {
            class.push('^');
        }
        let mut first = true;
        while first || self.peek() != Some(']') {
            first = false;
            class.push_str(&self.member()?);
        }
        self.rest.next();
        class.push(']');
        self.put(&class);
        Ok(())
    }

    /// One member of a class: a named class, a set, a character or a range.
    fn member(&mut self) -> Result<String, Refused> {
        if let Some(end) = self.rest.as_str().strip_prefix("[:").and_then(|rest| rest.find(":]")) {
            let name = self.rest.as_str().get(2..end + 2).unwrap_or_default();
            if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
                return Err(Refused::Syntax("unknown named class in brackets"));
            }
            self.until(":]");
            return Ok(format!("[:{name}:]"));
        }
        if self.rest.as_str().starts_with('\\') {
            let before = self.rest.clone();
            self.rest.next();
            if let Some(set) = self.set()? {
                return Ok(set);
            }
            self.rest = before;
        }
        let low = self.single()?;
        let range =
            self.rest.as_str().strip_prefix('-').is_some_and(|after| !after.is_empty() && !after.starts_with(']'));
        if !range {
            return Ok(literal(low));
        }
        self.rest.next();
        let high = self.single()?;
        if high < low {
            return Err(Refused::Syntax("a range that ends before it begins"));
        }
        Ok(format!("{}-{}", literal(low), literal(high)))
    }

    fn single(&mut self) -> Result<char, Refused> {
        match self.rest.next() {
            Some('\\') => self.character(),
            c => c.ok_or(UNCLOSED),
        }
    }
}

/// Names of classes within brackets.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// A character that means itself, in and out of brackets.
fn literal(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table below was made with: the last character of a row is about the last input.
    fn inputs() -> Vec<String> {
        let (long, longer) = ("f".repeat(64), format!("{}b", "a".repeat(1000)));
        [
            "",
            "a",
            "A",
            "b",
            "c",
            "k",
            "K",
            "\u{212a}",
            "ab",
            "abc",
            "a.b",
            "a.b+c",
            ".",
            "-",
            "+",
            ",",
            "&",
            "~",
            "_",
            "1",
            "12",
            "0x",
            "é",
            "α",
            "ſ",
            "a b",
            "a-b",
            "b-a",
            "aa",
            "aaaaaa",
            "a{,2}",
            "a{01}",
            "a{b",
            "{x}",
            "a<b>",
            "]a",
            "[a",
            "\n",
            "a\nb",
            "quay.io/acme/app:1",
            "quay.io/acme/legacy-app:1",
            &long,
            &longer,
            "\u{0}",
            "/",
            "y",
            "a#b c",
            "٣",
            "\u{a0}",
            "\u{b}",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Made with Go 1.26: `1` where the expression matches somewhere in the input.
    const TRUTH: &[(&str, &str)] = &[
        (r"legacy", "00000000000000000000000000000000000000001000000000"),
        (r"^quay\.io/acme/", "00000000000000000000000000000000000000011000000000"),
        (r"\Qa.b+c\E$", "00000000000100000000000000000000000000000000000000"),
        (r"\Qa.b", "00000000001100000000000000000000000000000000000000"),
        (r"^\056$", "00000000000010000000000000000000000000000000000000"),
        (r"^\101$", "00100000000000000000000000000000000000000000000000"),
        (r"^\0$", "00000000000000000000000000000000000000000001000000"),
        (r"^\60x$", "00000000000000000000010000000000000000000000000000"),
        (r"a\<b\>", "00000000000000000000000000000000001000000000000000"),
        (r"^\_$", "00000000000000000010000000000000000000000000000000"),
        (r"^[+--]+$", "00000000000001110000000000000000000000000000000000"),
        (r"^[\101-\103]+$", "00100000000000000000000000000000000000000000000000"),
        (r"^[\056]$", "00000000000010000000000000000000000000000000000000"),
        (r"^[a-]+$", "01000000000001000000000000001100000000000000000000"),
        (r"^[-a]+$", "01000000000001000000000000001100000000000000000000"),
        (r"^[a-c-e]+$", "01011000110001000000000000111100000000000010000000"),
        (r"^[^[:digit:]a]+$", "00111111000011111110001110000000010001000101110111"),
        (r"^[[:word:]]+$", "01111110110000000011110000001100000000000110010000"),
        (r"^\w$", "01111110000000000011000000000000000000000000010000"),
        (r"^\W$", "00000001000011111100001110000000000001000001100111"),
        (r"^\d$", "00000000000000000001000000000000000000000000000000"),
        (r"^\D$", "01111111000011111110001110000000000001000001110111"),
        (r"^\s$", "00000000000000000000000000000000000001000000000000"),
        (r"^\S$", "01111111000011111111001110000000000000000001110111"),
        (r"^[\w-]+$", "01111110110001000011110000111100000000000110010000"),
        (r"^[\W]$", "00000001000011111100001110000000000001000001100111"),
        (r"^[^\d]$", "01111111000011111110001110000000000001000001110111"),
        (r"^[\s\d]+$", "00000000000000000001100000000000000001000000000000"),
        (r"\bb\b", "00010000001100000000000001110000101000100000001000"),
        (r"a\Bb", "00000000110000000000000000000000000000000010000000"),
        (r"^\w{64}$", "00000000000000000000000000000000000000000100000000"),
        (r"(?i)LEGACY", "00000000000000000000000000000000000000001000000000"),
        (r"(?i)k", "00000111000000000000000000000000000000000000000000"),
        (r"(?i:A)b", "00000000110000000000000000000000000000000010000000"),
        (r"^a{,2}$", "00000000000000000000000000000010000000000000000000"),
        (r"^a{2}$", "00000000000000000000000000001000000000000000000000"),
        (r"a{01}", "00000000000000000000000000000001000000000000000000"),
        (r"^(a{2}){3}$", "00000000000000000000000000000100000000000000000000"),
        (r"a{1000}b", "00000000000000000000000000000000000000000010000000"),
        (r"(?s).", "01111111111111111111111111111111111111111111111111"),
        (r"(?-s)^.$", "01111111000011111111001110000000000000000001110111"),
        (r"^a|b$", "01010000111100000000000001101111101000100010001000"),
        (r"(?m)^b$", "00010000000000000000000000000000000000100000000000"),
        (r"(?U)a+", "01000000111100000000000001111111101110111010001000"),
        (r"(?P<n>ab)c", "00000000010000000000000000000000000000000000000000"),
        (r"(?<n>ab)c", "00000000010000000000000000000000000000000000000000"),
        (r"(a|b)*?c", "00001000010100000000000000000000000000011000001000"),
        (r"^[[a]+$", "01000000000000000000000000001100000010000000000000"),
        (r"^[]a]+$", "01000000000000000000000000001100000100000000000000"),
        (r"^[a&&b]+$", "01010000100000001000000000001100000000000010000000"),
        (r"^[a~~b]$", "01010000000000000100000000000000000000000000000000"),
        (r"{x}", "00000000000000000000000000000000010000000000000000"),
        (r"a{b", "00000000000000000000000000000000100000000000000000"),
        (r"\x41", "00100000000000000000000000000000000000000000000000"),
        (r"\x{61}b", "00000000110000000000000000000000000000000010000000"),
        (r"\pN", "00000000000000000001110000000011000000011000000100"),
        (r"\p{Greek}", "00000000000000000000000100000000000000000000000000"),
        (r"\P{Greek}", "01111111111111111111111011111111111111111111111111"),
        (r"[\pN]", "00000000000000000001110000000011000000011000000100"),
        (r"\p{^Greek}", "01111111111111111111111011111111111111111111111111"),
        (r"(a*)*", "11111111111111111111111111111111111111111111111111"),
        (r"(?:a*)+", "11111111111111111111111111111111111111111111111111"),
        (r"^$", "10000000000000000000000000000000000000000000000000"),
        (r"a||b", "11111111111111111111111111111111111111111111111111"),
        (r"()", "11111111111111111111111111111111111111111111111111"),
        (r"(|a)", "11111111111111111111111111111111111111111111111111"),
        (r"^*", "11111111111111111111111111111111111111111111111111"),
        (r"$+", "11111111111111111111111111111111111111111111111111"),
        (r"\b+", "01111110111100000011110001111111111110111110011000"),
        (r"^\-$", "00000000000001000000000000000000000000000000000000"),
        (r"\a", "00000000000000000000000000000000000000000000000000"),
        (r"\v", "00000000000000000000000000000000000000000000000001"),
        (r"\/", "00000000000000000000000000000000000000011000100000"),
        (r"(?i)[^k]", "01111000111111111111111111111111111111111111111111"),
        (r"[^\n]", "01111111111111111111111111111111111110111111111111"),
        (r"x{0}y", "00000000000000000000000000000000000000011000010000"),
        (r"(?i-s:A)", "01100000111100000000000001111111101110111010001000"),
        (r"[[:alpha:][:^digit:]]", "01111111111111111110011111111111111111111111111111"),
        (r"a#b c", "00000000000000000000000000000000000000000000001000"),
        (r"(?i)\pL", "01111111111100000000011111111111111110111110011000"),
        (r"{", "00000000000000000000000000000011110000000000000000"),
        (r"a{1", "00000000000000000000000000000000000000000000000000"),
        (r"a{1,", "00000000000000000000000000000000000000000000000000"),
        (r"a{1,x}", "00000000000000000000000000000000000000000000000000"),
        (r"}", "00000000000000000000000000000011010000000000000000"),
        (r"]", "00000000000000000000000000000000000100000000000000"),
        (r"a]", "00000000000000000000000000000000000000000000000000"),
        (r"(?is)A.B", "00000000001100000000000001100000101000100010001000"),
        (r"[\--/]", "00000000001111000000000000110000000000011000100000"),
        (r"(x{500}){2}", "00000000000000000000000000000000000000000000000000"),
        (r"((a{10}){10}){10}", "00000000000000000000000000000000000000000010000000"),
        (r"\pL{3}", "00000000010000000000000000000100000000011110000000"),
        (r"[[:]", "00000000000000000000000000000000000010011000000000"),
        (r"[[:a]", "01000000111100000000000001111111101110111010001000"),
        (r"[a[:]", "01000000111100000000000001111111101110111010001000"),
    ];

    /// Refused by Go 1.26.
    const REFUSED: &[&str] = &[
        r"^[a--b]$",
        r"[\Q]",
        r"[a-\d]",
        r"a**",
        r".*+",
        r"a{2}{3}",
        r"a+*",
        r"a??+",
        r"x{1001}",
        r"(a{100}){100}",
        r"((a{10}){10}){11}",
        r"a\Eb",
        r"\E",
        r"(?x)a",
        r"(?u)a",
        r"(?R)a",
        r"(?i-)a",
        r"(?--i)a",
        r"\u0041",
        r"\U00000041",
        r"[[:foo:]]",
        r"[:foo:][[:^foo:]]",
        r"a\Cb",
        r"(a)\1",
        r"\8",
        r"(a)\9",
        r"a(?=b)",
        r"a(?!b)",
        r"a(?<!b)",
        r"a(?<=b)",
        r"a(",
        r"a)",
        r"*a",
        r"+",
        r"?",
        r"|*",
        r"(*)",
        r"[a",
        r"[",
        r"[]",
        r"[^]",
        r"a\",
        r"((a{1000}){1000}){1000}",
        r"[b-a]",
        r"\p{Nope}",
        r"\pQ",
        r"\p{Greek",
        r"(?P<n>a",
        r"(?P<>a)",
        r"(?P<n-x>a)",
        r"(?P=n)",
        r"(?#c)",
        r"\x4",
        r"\x{}",
        r"\x{110000}",
        r"\x{zz}",
        r"\q",
        r"\Z",
        r"\G",
        r"\K",
        r"\R",
        r"\h",
        r"\ü",
        r"(?",
        r"(?i",
        r"[\b]",
        r"[\A]",
        r"a{2,1}",
        r"x{2}*",
        r"x*{2}",
        r"[\w--x]a[z-\w]",
        r"[a\E]",
        r"\b{start}x**",
        r"{2}",
        r"(?>a)",
        r"(?'n'a)",
        r"\Qab\E**",
        r"x{99999999999}",
    ];

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        let inputs = inputs();
        for (pattern, expected) in TRUTH {
            let compiled = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            let found: String =
                inputs.iter().map(|input| if compiled.regex.is_match(input) { '1' } else { '0' }).collect();
            assert_eq!(found, *expected, "{pattern}");
            assert_eq!(compiled.text, *pattern);
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        let accepted: Vec<_> = REFUSED.iter().filter(|pattern| compile(pattern).is_ok()).collect();
        assert!(accepted.is_empty(), "{accepted:?}");
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
            ("a**", "a repetition of a repetition"),
            ("(?x)a", "unknown kind of group"),
        ] {
            let error = compile(pattern).unwrap_err();
            assert!(error.contains(advice), "{pattern}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in r"[\[\]{}()\\QECpxdwbPim:^&~,?<=!0-9a-c.*+|$-]{0,24}") {
            drop(compile(&text));
        }

        #[test]
        fn quoted_text_matches_itself(text in r"[^\\]{0,24}") {
            let pattern = compile(&format!(r"^\Q{text}\E$")).unwrap();
            proptest::prop_assert!(pattern.regex.is_match(&text));
        }
    }
}

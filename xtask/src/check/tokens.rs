//! Reads Rust source as words and punctuation, leaving out comments, strings and characters.
//!
//! Not a parser: enough to see which crates and keywords a file names. Called by `rules`.

/// A word (identifier, keyword, number) or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
}

/// The tokens of `source`, in order.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader {
        characters: source.chars().collect(),
        at: 0,
        line: 1,
    };
    let mut found = Vec::new();
    while let Some(c) = reader.peek(0) {
        let line = reader.line;
        if reader.skip_comment() || reader.skip_literal() {
            continue;
        }
        let text = if is_word(c) {
            reader.take_while(is_word)
        } else {
            reader.advance();
            c.to_string()
        };
        if !c.is_whitespace() {
            found.push(Token { text, line });
        }
    }
    found
}

struct Reader {
    characters: Vec<char>,
    at: usize,
    line: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn advance(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(i, c)| self.peek(i) == Some(c))
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek(0).filter(|c| wanted(*c)) {
            taken.push(c);
            self.advance();
        }
        taken
    }

    fn skip_comment(&mut self) -> bool {
        if self.starts_with("//") {
            self.take_while(|c| c != '\n');
            return true;
        }
        if !self.starts_with("/*") {
            return false;
        }
        // Block comments nest.
        let mut depth = 0;
        loop {
            let change = match () {
                () if self.starts_with("/*") => 1,
                () if self.starts_with("*/") => -1,
                () => 0,
            };
            if change != 0 {
                self.advance();
                depth += change;
            }
            self.advance();
            if depth == 0 || self.peek(0).is_none() {
                return true;
            }
        }
    }

    fn skip_literal(&mut self) -> bool {
        match self.raw_string_prefix() {
            Some((prefix, hashes)) => self.skip_raw_string(prefix, hashes),
            None if self.peek(0) == Some('"') => self.skip_quoted('"'),
            None if self.peek(0) == Some('\'') && self.is_character() => self.skip_quoted('\''),
            None => return false,
        }
        true
    }

    /// Length up to the opening quote, and the number of `#`, of `r"`, `r#"`, `br##"` and so on.
    fn raw_string_prefix(&self) -> Option<(usize, usize)> {
        let after_word = self.at > 0 && is_word(self.characters[self.at - 1]);
        let r = match (self.peek(0)?, self.peek(1)) {
            ('r', _) => 1,
            ('b' | 'c', Some('r')) => 2,
            _ => return None,
        };
        let hashes = (0..).take_while(|i| self.peek(r + i) == Some('#')).count();
        (!after_word && self.peek(r + hashes) == Some('"')).then_some((r + hashes, hashes))
    }

    fn skip_raw_string(&mut self, prefix: usize, hashes: usize) {
        let end = format!("\"{}", "#".repeat(hashes));
        for _ in 0..=prefix {
            self.advance();
        }
        while self.peek(0).is_some() && !self.starts_with(&end) {
            self.advance();
        }
        for _ in 0..end.len() {
            self.advance();
        }
    }

    fn skip_quoted(&mut self, quote: char) {
        self.advance();
        while let Some(c) = self.peek(0) {
            self.advance();
            if c == '\\' {
                self.advance();
            } else if c == quote {
                return;
            }
        }
    }

    /// Whether the quote here opens a character rather than a lifetime.
    fn is_character(&self) -> bool {
        self.peek(1) == Some('\\') || self.peek(2) == Some('\'')
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_left_out() {
        let source = r###"
            // line unsafe
            /* block /* nested unsafe */ still */
            let a = "unsafe \" unsafe"; let b = r#"unsafe " "#; let c = br"unsafe";
            let d = '"'; let e = '\''; let f = b'"';
            end
        "###;
        assert_eq!(
            words(source).join(" "),
            "let a = ; let b = ; let c = ; let d = ; let e = ; let f = b ; end"
        );
    }

    #[test]
    fn lifetimes_are_no_characters() {
        assert_eq!(
            words("fn f<'a>(x: &'a str) {}").join(""),
            "fnf<'a>(x:&'astr){}"
        );
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let found = tokens("\"one\ntwo\"\n/* three\n */ word");
        assert_eq!(
            found,
            [Token {
                text: "word".to_owned(),
                line: 4
            }]
        );
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"open", "r#\"open", "/* open", "'", "'\\", "\"\\"] {
            tokens(source);
        }
    }
}

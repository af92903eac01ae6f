//! Text from outside, made safe for one header line or for a display.

/// Whether a character is a control character, separates lines, or changes the direction of the text around it.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text as one line of at most `chars` characters: a run of unsafe characters becomes one space.
pub(crate) fn one_line(text: &str, chars: usize) -> String {
    let mut line = String::new();
    for c in text.trim_start().chars().take(chars) {
        match is_unsafe(c) {
            true if line.is_empty() || line.ends_with(' ') => {}
            true => line.push(' '),
            // White space after leading unsafe characters: a reader would leave it out.
            false if line.is_empty() && c.is_whitespace() => {}
            false => line.push(c),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Lines of text with `\n` at their ends and without other unsafe characters; tabs stay.
pub(crate) fn lines(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|&c| matches!(c, '\n' | '\t') || !is_unsafe(c)).collect()
}

/// The longest beginning of `text` with at most `bytes` bytes that ends between characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A file name without folders, double quotes and control characters, at most 240 bytes.
pub(crate) fn file_name(name: &str) -> String {
    // Mail programs disagree on the escapes of a quote.
    let line = one_line(name, 1_000).replace('"', "'");
    let last = line.rsplit(['/', '\\']).next().unwrap_or_default();
    cut(last.trim(), 240).trim_end().to_owned()
}

/// Input as shown in an error text: escaped, at most 80 characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_and_controls_become_one_space() {
        assert_eq!(one_line("a\r\nBcc: x@y\0\u{202e}z", 100), "a Bcc: x@y z");
        assert_eq!(one_line("\r\n\r\n", 100), "");
        assert_eq!(one_line("abcdef", 3), "abc");
    }

    #[test]
    fn cut_text_ends_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }

    #[test]
    fn file_name_has_no_folder() {
        assert_eq!(file_name("../../etc/passwd"), "passwd");
        assert_eq!(file_name("C:\\temp\\a\r\nb.wav"), "a b.wav");
    }

    #[test]
    fn lines_keep_newlines_and_tabs_only() {
        assert_eq!(lines("a\r\nb\rc\td\0"), "a\nb\nc\td");
    }
}

//! The sender's card as text/directory (RFC 2425, RFC 2426).

use super::VCard;
use crate::text;

/// Greatest length of a value, in characters.
const VALUE_CHARS: usize = 300;

impl VCard {
    /// The card as lines of text.
    pub(super) fn write(&self) -> String {
        let mut card = String::from("BEGIN:VCARD\nVERSION:3.0\n");
        let name = escape(&self.name);
        card.push_str(&format!("N:{name};;;;\nFN:{name}\n"));
        for (property, value) in [("TEL;TYPE=VOICE,MSG,WORK", &self.tel), ("EMAIL;TYPE=INTERNET,VPIM", &self.email)]
        {
            if !value.is_empty() {
                card.push_str(&format!("{property}:{}\n", escape(value)));
            }
        }
        card.push_str("END:VCARD\n");
        card
    }

    /// The first name, number and address in the text of a card.
    pub(super) fn read(card: &str) -> Self {
        // A line that begins with white space continues the one before.
        let unfolded = text::lines(card).replace("\n ", "").replace("\n\t", "");
        let mut result = Self::default();
        let mut structured = String::new();
        for line in unfolded.lines() {
            let Some((property, value)) = line.split_once(':') else { continue };
            let name = property.split(';').next().unwrap_or_default();
            let name = name.rsplit('.').next().unwrap_or_default().trim().to_ascii_uppercase();
            let place = match name.as_str() {
                "FN" => &mut result.name,
                "TEL" => &mut result.tel,
                "EMAIL" => &mut result.email,
                "N" => {
                    structured = person(value);
                    continue;
                }
                _ => continue,
            };
            if place.is_empty() {
                *place = unescape(value);
            }
        }
        if result.name.is_empty() {
            result.name = structured;
        }
        result
    }
}

/// `family;given;…` as given and family name.
fn person(value: &str) -> String {
    let mut names = value.split(';').map(unescape);
    let (family, given) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    text::one_line(&format!("{given} {family}"), VALUE_CHARS)
}

fn escape(value: &str) -> String {
    let mut escaped = String::new();
    for c in text::one_line(value, VALUE_CHARS).chars() {
        if matches!(c, '\\' | ',' | ';') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn unescape(value: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for c in value.chars().take(2 * VALUE_CHARS) {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            'n' | 'N' if escaped => plain.push(' '),
            _ => plain.push(c),
        }
        escaped = false;
    }
    text::one_line(&plain, VALUE_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_is_read_back_and_cannot_gain_properties() {
        let card = VCard {
            name: "O'Neil, Zoë; the \\ 2nd\r\nTEL:666".to_owned(),
            tel: "+1 555\nEMAIL:evil@example.org".to_owned(),
            email: "a@b.example".to_owned(),
        };
        let read = VCard::read(&card.write());
        assert_eq!(read.name, "O'Neil, Zoë; the \\ 2nd TEL:666");
        assert_eq!(read.tel, "+1 555 EMAIL:evil@example.org");
        assert_eq!(read.email, "a@b.example");
    }

    #[test]
    fn folded_and_damaged_cards_are_read() {
        let card = "begin:vcard\r\nN:Parsons;Glenn\r\nitem1.TEL;TYPE=VOICE;MSG;WORK:+1-613-\r\n 763-7582\r\n\
            EMAIL;TYPE=INTERNET;broken@example.org\r\nEMAIL;TYPE=INTERNET;VPIM:6137637582@vm.example\r\nend:vcard";
        let expected = VCard {
            name: "Glenn Parsons".to_owned(),
            tel: "+1-613-763-7582".to_owned(),
            email: "6137637582@vm.example".to_owned(),
        };
        assert_eq!(VCard::read(card), expected);
        assert_eq!(VCard::read("\0\r\n::\r\n;"), VCard::default());
    }
}

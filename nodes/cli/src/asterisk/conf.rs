//! `voicemail.conf`: the mailboxes of a context.

/// A mailbox line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line of the file, from 1.
    pub line: u64,
    /// Mailbox as written; usually digits.
    pub mailbox: String,
    /// PIN without the leading `-`, which forbids the owner to change it.
    pub pin: String,
    /// The owner's name.
    pub name: String,
    /// Whether there is a mail address.
    pub has_mail: bool,
    /// IANA time zone, by the `tz` of the line or of `[general]`, and `[zonemessages]`.
    pub timezone: Option<String>,
    /// `language=` of the line.
    pub language: Option<String>,
}

/// Relevant content of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The mailboxes of the context.
    pub entries: Vec<Entry>,
    /// All contexts of the file.
    pub contexts: Vec<String>,
    /// Whether PINs are in the spool: `passwordlocation=spooldir`.
    pub pins_in_spool: bool,
    /// Settings that are not imported, by line.
    pub notes: Vec<(u64, String)>,
    /// Lines that cannot be read.
    pub errors: Vec<(u64, String)>,
}

/// Reads the mailboxes of one context from a file.
pub fn read(text: &str, context: &str) -> Conf {
    let mut conf = Conf::default();
    let (mut section, mut general_zone) = (None::<String>, None::<String>);
    let mut zones: Vec<(String, String)> = Vec::new();
    let mut wanted: Vec<(u64, String, String)> = Vec::new();
    for (line, text) in uncommented(text) {
        if let Some(directive) = text.strip_prefix('#') {
            let word = directive.split_whitespace().next().unwrap_or_default();
            conf.errors.push((line, format!("#{word} is not followed: put the file's content in its place")));
        } else if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((name, _)) => {
                    let name = name.trim().to_owned();
                    if !matches!(name.as_str(), "general" | "zonemessages") && !conf.contexts.contains(&name) {
                        conf.contexts.push(name.clone());
                    }
                    section = Some(name);
                }
                None => conf.errors.push((line, "a '[' without its ']'".to_owned())),
            }
        } else if let Some((key, value)) = text.split_once('=') {
            let value = value.strip_prefix('>').unwrap_or(value).trim();
            let key = key.trim();
            match section.as_deref() {
                Some("general") if key.eq_ignore_ascii_case("tz") => general_zone = Some(value.to_owned()),
                Some("general") if key.eq_ignore_ascii_case("passwordlocation") => {
                    conf.pins_in_spool = value.eq_ignore_ascii_case("spooldir");
                }
                Some("zonemessages") => {
                    let zone = value.split('|').next().unwrap_or_default().trim();
                    zones.push((key.to_owned(), zone.to_owned()));
                }
                Some(name) if name == context => wanted.push((line, key.to_owned(), value.to_owned())),
                _ => {}
            }
        } else {
            conf.errors.push((line, "this is no [section] and no 'mailbox => pin,name,…'".to_owned()));
        }
    }
    for (line, mailbox, value) in wanted {
        entry(&mut conf, line, mailbox, &value, general_zone.as_deref(), &zones);
    }
    conf
}

fn entry(
    conf: &mut Conf,
    line: u64,
    mailbox: String,
    value: &str,
    general_zone: Option<&str>,
    zones: &[(String, String)],
) {
    let mut fields = value.split(',').map(str::trim);
    let pin = fields.next().unwrap_or_default();
    let name = fields.next().unwrap_or_default();
    let mail = fields.next().unwrap_or_default();
    let pager = fields.next().unwrap_or_default();
    // Options are separated by '|', in some files by ','.
    let options: Vec<_> = fields.flat_map(|field| field.split('|')).filter_map(|o| o.split_once('=')).collect();
    let option =
        |key: &str| options.iter().find(|(k, _)| k.trim().eq_ignore_ascii_case(key)).map(|(_, v)| v.trim());
    let zone = option("tz").or(general_zone);
    let timezone = zone.and_then(|zone| zones.iter().find(|(name, _)| name == zone)).map(|(_, zone)| zone.clone());
    if let (Some(zone), None) = (zone, &timezone) {
        conf.notes.push((line, format!("[zonemessages] has no '{zone}': the mailbox gets the usual time zone")));
    }
    conf.entries.push(Entry {
        line,
        mailbox,
        pin: pin.strip_prefix('-').unwrap_or(pin).to_owned(),
        name: name.to_owned(),
        has_mail: !mail.is_empty() || !pager.is_empty(),
        timezone,
        language: option("language").map(str::to_owned),
    });
}

/// Non-empty lines without comments (`;` to the end of the line unless `\;`, `;-- … --;` over several lines).
fn uncommented(text: &str) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut within = false;
    for (number, line) in (1..).zip(text.lines()) {
        let mut kept = String::new();
        let mut rest = line;
        loop {
            if within {
                let Some((_, after)) = rest.split_once("--;") else { break };
                (within, rest) = (false, after);
                continue;
            }
            let Some(at) = rest.find(';') else {
                kept.push_str(rest);
                break;
            };
            let (before, after) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('\\') {
                kept.push_str(before);
                kept.push(';');
                rest = after.get(1..).unwrap_or_default();
            } else if after.starts_with(";--") && !after.starts_with(";---") {
                kept.push_str(before);
                within = true;
                rest = after.get(3..).unwrap_or_default();
            } else {
                kept.push_str(before);
                break;
            }
        }
        let kept = kept.trim();
        if !kept.is_empty() {
            lines.push((number, kept.to_owned()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r"
[general]
format=wav49|gsm|wav   ; three of each
passwordlocation=spooldir
;-- [default]
9999 => 1,in a comment
--; tz=central
[zonemessages]
eastern=America/New_York|'vm-received' Q 'digits/at' IMp
central=America/Chicago|'vm-received' Q
[default](!)
1234 => 4242,Example Mailbox,root@localhost
1235 => -284617,Ada \; Lovelace,,,tz=eastern|attach=yes,language=de
1236 =>
1237 => 1,x,,,tz=mars
[other]
2000 => 5555,Else
";

    #[test]
    fn mailboxes_of_a_context_are_read() {
        let conf = read(FILE, "default");
        assert_eq!(conf.errors, []);
        assert_eq!(conf.contexts, ["default", "other"]);
        assert!(conf.pins_in_spool);
        let by = |at: usize| {
            let e = &conf.entries[at];
            (e.line, e.mailbox.as_str(), e.pin.as_str(), e.name.as_str(), e.timezone.as_deref())
        };
        assert_eq!(by(0), (12, "1234", "4242", "Example Mailbox", Some("America/Chicago")));
        assert_eq!(by(1), (13, "1235", "284617", "Ada ; Lovelace", Some("America/New_York")));
        assert_eq!(by(2), (14, "1236", "", "", Some("America/Chicago")));
        assert_eq!((conf.entries[0].has_mail, conf.entries[1].has_mail), (true, false));
        assert_eq!(conf.entries[1].language.as_deref(), Some("de"));
        assert_eq!(conf.notes.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [15]);
        assert_eq!(read(FILE, "other").entries.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named_by_line() {
        let conf = read("[default\n#include \"more.conf\"\n[default]\nnonsense\n", "default");
        assert_eq!(conf.errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 4]);
    }
}

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
    /// Address for mails; several are separated by `|`.
    pub mail: String,
    /// Address for short mails; several are separated by `|`.
    pub pager: String,
    /// Mails have the recording: `attach=` of the line or of `[general]`, else yes.
    pub attach: bool,
    /// The message is deleted once the mail is sent: `delete=` of the line.
    pub delete: bool,
    /// Texts and senders of its own: names of the options, which are not imported.
    pub own_texts: Vec<&'static str>,
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
    /// Sender of all mails: `serveremail`, with its line.
    pub sender: Option<(u64, String)>,
    /// Texts of all mails: line, name of the option, text. Escapes are resolved, variables are not.
    pub texts: Vec<(u64, &'static str, String)>,
    /// Settings that are not imported, by line.
    pub notes: Vec<(u64, String)>,
    /// Lines that cannot be read.
    pub errors: Vec<(u64, String)>,
}

/// Options of `[general]` that are texts of mails.
const TEXTS: [&str; 4] = ["emailsubject", "emailbody", "pagersubject", "pagerbody"];

/// Options of a mailbox that replace texts or the sender of all mailboxes.
const OWN_TEXTS: [&str; 3] = ["serveremail", "emailsubject", "emailbody"];

/// Values of `[general]` for mailboxes that have none of their own.
struct General {
    zone: Option<String>,
    attach: bool,
}

/// Reads the mailboxes of one context from a file.
pub fn read(text: &str, context: &str) -> Conf {
    let mut conf = Conf::default();
    let mut section = None::<String>;
    let mut general = General { zone: None, attach: true };
    let mut zones: Vec<(String, String)> = Vec::new();
    let mut wanted: Vec<(u64, String, String)> = Vec::new();
    for (line, text) in uncommented(text) {
        if let Some(directive) = text.strip_prefix('#') {
            let word = directive.split_whitespace().next().unwrap_or_default();
            conf.errors.push((line, format!("#{word} is not supported: replace it with the content of the file")));
        } else if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((name, _)) => {
                    let name = name.trim().to_owned();
                    if !matches!(name.as_str(), "general" | "zonemessages") && !conf.contexts.contains(&name) {
                        conf.contexts.push(name.clone());
                    }
                    section = Some(name);
                }
                None => conf.errors.push((line, "'[' without ']'".to_owned())),
            }
        } else if let Some((key, value)) = text.split_once('=') {
            let value = value.strip_prefix('>').unwrap_or(value).trim();
            let key = key.trim();
            match section.as_deref() {
                Some("general") if key.eq_ignore_ascii_case("tz") => general.zone = Some(value.to_owned()),
                Some("general") if key.eq_ignore_ascii_case("attach") => general.attach = is_true(value),
                Some("general") if key.eq_ignore_ascii_case("serveremail") => {
                    conf.sender = Some((line, value.to_owned()));
                }
                Some("general") if TEXTS.iter().any(|text| key.eq_ignore_ascii_case(text)) => {
                    let option = TEXTS.into_iter().find(|text| key.eq_ignore_ascii_case(text));
                    conf.texts.extend(option.map(|option| (line, option, unescaped(value))));
                }
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
            conf.errors.push((line, "neither a [section] nor 'mailbox => pin,name,…'".to_owned()));
        }
    }
    for (line, mailbox, value) in wanted {
        entry(&mut conf, line, mailbox, &value, &general, &zones);
    }
    conf
}

fn entry(conf: &mut Conf, line: u64, mailbox: String, value: &str, general: &General, zones: &[(String, String)]) {
    let mut fields = value.split(',').map(str::trim);
    let pin = fields.next().unwrap_or_default();
    let name = fields.next().unwrap_or_default();
    let mail = fields.next().unwrap_or_default();
    let pager = fields.next().unwrap_or_default();
    // Options are separated by '|', in some files by ','.
    let options: Vec<_> = fields.flat_map(|field| field.split('|')).filter_map(|o| o.split_once('=')).collect();
    let option =
        |key: &str| options.iter().find(|(k, _)| k.trim().eq_ignore_ascii_case(key)).map(|(_, v)| v.trim());
    let zone = option("tz").or(general.zone.as_deref());
    let timezone = zone.and_then(|zone| zones.iter().find(|(name, _)| name == zone)).map(|(_, zone)| zone.clone());
    if let (Some(zone), None) = (zone, &timezone) {
        conf.notes.push((line, format!("[zonemessages] has no '{zone}': the mailbox gets the default time zone")));
    }
    conf.entries.push(Entry {
        line,
        mailbox,
        pin: pin.strip_prefix('-').unwrap_or(pin).to_owned(),
        name: name.to_owned(),
        mail: mail.to_owned(),
        pager: pager.to_owned(),
        attach: option("attach").map_or(general.attach, is_true),
        delete: option("delete").or(option("deletevoicemail")).is_some_and(is_true),
        own_texts: OWN_TEXTS.into_iter().filter(|name| option(name).is_some()).collect(),
        timezone,
        language: option("language").map(str::to_owned),
    });
}

/// A switch of Asterisk's files.
fn is_true(value: &str) -> bool {
    ["yes", "true", "y", "t", "1", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// A text with its line ends and tabs.
fn unescaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => result.push('\n'),
                Some('t') => result.push('\t'),
                Some('r') => {}
                Some(other) => result.push(other),
                None => result.push(c),
            },
            c => result.push(c),
        }
    }
    result
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
serveremail=pbx@example.com
emailbody=Dear ${VM_NAME}:\n\n\t${VM_DUR}\; new
;-- [default]
9999 => 1,in a comment
--; tz=central
[zonemessages]
eastern=America/New_York|'vm-received' Q 'digits/at' IMp
central=America/Chicago|'vm-received' Q
[default](!)
1234 => 4242,Example Mailbox,root@localhost
1235 => -284617,Ada \; Lovelace,,1@pager.example,tz=eastern|attach=no,language=de|delete=yes|emailsubject=x
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
        assert_eq!(by(0), (14, "1234", "4242", "Example Mailbox", Some("America/Chicago")));
        assert_eq!(by(1), (15, "1235", "284617", "Ada ; Lovelace", Some("America/New_York")));
        assert_eq!(by(2), (16, "1236", "", "", Some("America/Chicago")));
        let notify = |at: usize| {
            let e = &conf.entries[at];
            (e.mail.as_str(), e.pager.as_str(), e.attach, e.delete, e.own_texts.first().copied())
        };
        assert_eq!(notify(0), ("root@localhost", "", true, false, None));
        assert_eq!(notify(1), ("", "1@pager.example", false, true, Some("emailsubject")));
        assert_eq!(conf.sender, Some((5, "pbx@example.com".to_owned())));
        assert_eq!(conf.texts, [(6, "emailbody", "Dear ${VM_NAME}:\n\n\t${VM_DUR}; new".to_owned())]);
        assert_eq!(conf.entries[1].language.as_deref(), Some("de"));
        assert_eq!(conf.notes.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [17]);
        assert_eq!(read(FILE, "other").entries.len(), 1);
    }

    #[test]
    fn unreadable_lines_are_named() {
        let conf = read("[default\n#include \"more.conf\"\n[default]\nnonsense\n", "default");
        assert_eq!(conf.errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
